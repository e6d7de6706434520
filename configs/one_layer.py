"""One-layer teacher–student: closed forms against autodiff, Hessian speed, memory, time to the global minimum.

Shows: joint derivatives in (X, Y) exact to rounding; the exact Hessian many times faster than `jax.hessian`; memory
that does not grow with n·m; the global minimum of noiseless instances found sooner than by existing solvers.
Command: python -m experiments.run --config configs/one_layer.py
Expected: docs/guides/one_layer.md has the numbers measured and their commands.
Time: derivatives and hessian_speed about a CPU minute; memory half an hour, nearly all in the one large
run; race at most `race_seconds_total` wall seconds.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    smoke = variant == "smoke"
    config = ConfigDict()
    config.experiment = "one_layer.closed_forms"
    config.seed = 0
    config.precision = "float64"
    config.parts = ("derivatives", "memory", "race") if smoke else ("derivatives", "hessian_speed", "memory", "race")
    config.check_n, config.check_d = (8, 2) if smoke else (48, 4)
    config.hessian_n, config.hessian_d = 256, 8
    config.repeats = 20
    config.memory_ns = (64,) if smoke else (16384, 131072)
    config.memory_run = 64 if smoke else 131072  # really run, for its peak resident memory
    config.memory_d = 2 if smoke else 16
    config.race_cells = ((24, 2, 1),) if smoke else ((64, 4, 20), (256, 8, 20), (512, 16, 6))  # n, d, instances
    config.only = -1  # index of the one race cell to run; -1 is all
    config.race_seconds = 1.0 if smoke else 15.0
    config.race_seconds_total = 20.0 if smoke else 36000.0
    config.peers = (
        ("scipy L-BFGS-B",)
        if smoke
        else ("scipy L-BFGS-B", "optax L-BFGS", "optimistix L-BFGS", "optimistix LM", "naive Newton")
    )
    config.tol = 1e-10
    return config


def sweep() -> list[dict]:
    """One task per race cell."""
    return [{"parts": ("race",), "only": i} for i in range(len(get_config().race_cells))]
