"""Claims: what the project says of itself, how each number is read from a run, and the pages written from them."""
