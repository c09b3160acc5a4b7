"""Frozen causal LLMs, what is injected into them, and their KV cache."""
