"""Closed forms against automatic differentiation: time, memory, and a problem whose attention map would not fit.

Command: python -m experiments.run --config configs/benchmark_closed_forms.py
Expected: exact Hessian at n = 512, d = 16 at least 100 times faster than jax.hessian; at n = 2048, d = 32 the full
Hessian for at most two autodiff Hessian-vector products (speedup above 1); value and gradient at n = 2048 and 4096 at
least 2 times faster, temporaries far below one n×n map; n = 16384 within 2 GB. Time: about 5 minutes on two CPU cores.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    return ConfigDict(
        dict(
            experiment="benchmarks.closed_forms",
            seed=0,
            precision="float64",
            # Comma-separated cells (experiments/benchmarks/cells.py).
            hessian="normalized-24-3" if smoke else "normalized-512-16,rescaled-512-16",
            hessian_as_hvps="normalized-32-3" if smoke else "normalized-2048-32",
            gradient="normalized-40-3" if smoke else "normalized-2048-32,normalized-4096-32",
            large=dict(n=64, d=3) if smoke else dict(n=16384, d=32),
            rounds=2 if smoke else 9,
            seconds=60.0,
        )
    )
