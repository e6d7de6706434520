"""The one-layer problem in X and Y."""
