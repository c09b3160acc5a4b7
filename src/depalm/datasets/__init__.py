"""Official annotations become a manifest, one row per sample."""
