"""The papers' statements, one row each: what they print, what is proved here, and what runs measured."""
