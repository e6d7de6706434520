"""The theory's statements, measured."""
