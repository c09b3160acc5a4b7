"""What to run: part files, grid and overrides, checked before the first job starts."""
