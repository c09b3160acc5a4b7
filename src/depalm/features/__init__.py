"""What an adapter reads: cached tokens, or a backbone in the loop; and extraction."""
