"""The papers' statements, one row each: what they print, what is proved here, what runs measured, and the page of it."""
