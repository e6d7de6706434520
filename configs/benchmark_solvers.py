"""Time to solution against existing solvers, and who finds the good minimum.

Command: python -m experiments.run --config configs/benchmark_solvers.py
         one part: --config.cells=normalized-512-16 --config.methods="('attnreg','optax')" --config.basins.cells="()"
Needs: the peers (pip install -e '.[lab,peers]'), and for heads the model (python -m attnreg.data.tools.fetch_minilm).
Expected: summary.over_ours (time of the best peer over ours, interleaved) above 1 on all cells but the smallest single
one; the numbers are in docs/guides/benchmarks.md. Time: about 30 minutes on two CPU cores, most of it
the peers' trial runs.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

SYNTHETIC = ("normalized-512-16", "normalized-1024-16", "normalized-2048-32")
HEADS = ("head-5-2-16", "head-5-2-32", "head-2-3-16", "head-2-3-32")
SINGLE = ("single-1000-20", "single-100000-50", "single-1000000-50")

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "cells": ("normalized-32-3",),
        "methods": ("attnreg Newton (default)", "optax lbfgs (memory 10)"),
        "rounds": 2,
        "least_rounds": 2,
        "basins.cells": ("rescaled-16-2",),
        "basins.instances": 2,
    }
}
EXPECTED = {"full": {"over_ours": (1.0, None)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="benchmarks.solvers",
        seed=0,
        precision="float64",
        cells=(*SYNTHETIC, *HEADS, *SINGLE),  # experiments/benchmarks/cells.py
        methods=(),  # those whose "name (setting)" contains one of these; () takes all
        tol=1e-8,  # gradient norm over its norm at the start
        seconds=20.0,  # a peer's cap in its trial run, CPU seconds
        rounds=15,
        least_rounds=3,
        seconds_per_method=8.0,  # timed wall time after which a method sits out
        basins=dict(cells=("rescaled-64-4",), instances=10, seconds=5.0),
    )
    return vary(ConfigDict(config), variant, VARIANTS)
