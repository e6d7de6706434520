"""One config per claim or figure."""
