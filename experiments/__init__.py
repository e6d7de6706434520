"""Experiments: one module each with `run(config, record)`; `python -m experiments.run` runs one."""
