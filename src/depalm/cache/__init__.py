"""Shards of tokens: written, read, verified and streamed, whatever model made them."""
