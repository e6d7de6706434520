"""Fit an attention map and judge it on unseen data."""
