"""How a run starts: configs and overrides, precision and cache, signals, local workers, Slurm, processes."""
