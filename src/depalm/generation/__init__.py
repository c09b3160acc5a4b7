"""Beam search around an injection: samples and an adapter become texts."""
