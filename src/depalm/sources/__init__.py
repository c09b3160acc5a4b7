"""What is published becomes a local directory, with checksums."""
