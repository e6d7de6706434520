"""Closed forms against automatic differentiation: time, memory, and a problem whose attention map would not fit.

Command: python -m experiments.run --config configs/benchmark_closed_forms.py
         one part: --config.parts=hessian; other cells: --config.hessian="('normalized-256-8','rescaled-256-8')"
Expected: exact Hessian at n = 512, d = 16 at least 100 times faster than jax.hessian; at n = 2048, d = 32 the full
Hessian for at most two autodiff Hessian-vector products (speedup above 1); value and gradient at n = 2048 and 4096 at
least 2 times faster, temporaries far below one n×n map; n = 16384 within 2 GB; a sparse
Gram matrix is faster than a dense one up to d/5 entries a row at d = 64, d/10 at d = 1024.
Time: about 5 minutes on two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "hessian": ("normalized-24-3",),
        "hessian_as_hvps": ("normalized-32-3",),
        "gradient": ("normalized-40-3",),
        "large": (("attention", 64, 3),),
        "stored": ((64, 8, (2,)),),
        "rounds": 2,
    }
}
EXPECTED = {
    "full": {"hessian": (100.0, None), "hvps": (1.0, None), "gradient": (2.0, None), "peak": (None, 2000000000.0)}
}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="benchmarks.closed_forms",
        seed=0,
        precision="float64",
        parts=("hessian", "hessian_as_hvps", "gradient", "large", "stored"),
        # The cells of each part (experiments/benchmarks/cells.py).
        hessian=("normalized-512-16", "rescaled-512-16"),
        hessian_as_hvps=("normalized-2048-32",),
        gradient=("normalized-2048-32", "normalized-4096-32"),
        large=(("attention", 16384, 32),),
        stored=((20000, 64, (4, 8, 16, 32)), (20000, 256, (8, 16, 32)), (8000, 1024, (8, 32, 64, 128))),  # n, d, s
        rounds=9,
        seconds=60.0,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
