"""What a user writes first, one file a library: `python FILE data.npz`. They import nothing of this folder.

Each reads A (k, n, d) and B (k, n, n), fits X from X = 0 until the gradient is 1e-8 of that at the start or the library
ends by itself, and prints the loss.
"""
