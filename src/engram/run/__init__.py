"""A run: its plan, its owner, and what it keeps."""
