"""In-context learning: train models and compare them with gradient descent."""
