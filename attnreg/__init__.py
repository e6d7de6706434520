"""Attention-related regression in JAX: losses, closed forms, structured solvers, bounds, in-context learning."""
