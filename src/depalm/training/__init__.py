"""Batches, the training loop, and state from which it resumes to the same bytes."""
