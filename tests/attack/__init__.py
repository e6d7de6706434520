"""The attack on the runner and on the checks, as one command: `python -m tests.attack` (docs/guides/runs.md)."""
