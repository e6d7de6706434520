"""Experiments: each module has `run(config, record)`; `python -m experiments.run --config configs/x.py` runs one."""
