"""What the rules of the workflow run: one function per rule, from files to files."""
