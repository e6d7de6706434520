"""A real attention layer from what it reads and writes, beside the Adam that a user would write."""
