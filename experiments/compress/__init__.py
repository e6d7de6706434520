"""Heads of smaller rank for a real model: after the softmax, and by closed forms."""
