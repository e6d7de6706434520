"""Wrong calls and what must be said about them, one module per part of the library; see `test_wrong_calls.py`."""
