"""Frozen encoders: media tensors become tokens [B, L, T, D]."""
