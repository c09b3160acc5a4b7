"""Predictions become scores, and scores become tables."""
