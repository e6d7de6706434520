"""Random one-layer instances: the fraction solved to a relative loss within a CPU-time budget, and the time it takes.

Shows: the landscape has many minima; starts from the layer's jet at X = 0 find the global one. A1, A2, A3 ~ N(0, 1/d),
X, Y ~ N(0, 1), no noise; restarts allowed to everyone; compilation is not counted.
Command: python -m experiments.run --config configs/multi_start.py
         to a relative loss of 1e-10 and with other keys: --config configs/multi_start.py:race
         one cell: --config.cells="((256,8,20,4),)"
Expected: ours 50 of 50, 20 of 20, 10 of 10 and 4 of 5; docs/guides/one_layer.md has the peers, and the race.
Time: about an hour of CPU, nearly all of it peers that use up their `seconds`; the race ten minutes.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"cells": ((24, 2, 1, 1),), "peers": ("scipy L-BFGS-B",), "seconds": 1.0, "total_seconds": 120.0},
    "race": {
        "cells": ((64, 4, 20, 20), (256, 8, 5, 5)),
        "peers": ("scipy L-BFGS-B", "optax L-BFGS", "optimistix L-BFGS", "optimistix LM", "naive Newton"),
        "seconds": 10.0,
        "tol": 1e-10,
        "first_key": 0,
    },
}
EXPECTED = {"full": {"solved": (0.8, None)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="one_layer.multi_start",
        seed=0,
        precision="float64",
        # n, d, instances, and how many of them the peers get (an instance that a peer fails on costs `seconds`)
        cells=((64, 4, 50, 8), (256, 8, 20, 4), (512, 16, 10, 2), (1024, 24, 5, 1)),
        only=-1,  # index of the one cell to run; -1 is all
        peers=(
            "scipy L-BFGS-B",
            "scipy L-BFGS-B, reduced",
            "optax L-BFGS",
            "optimistix L-BFGS",
            "optimistix LM",
            "naive Newton",
        ),
        # These form dense second derivatives or Jacobians: 10 GB and more at n = 1024. They are left out above dense_n.
        dense=("naive Newton", "optimistix LM"),
        dense_n=512,
        first_key=1000,  # instance i is searched with the key seed + first_key + i
        seconds=60.0,
        total_seconds=36000.0,
        tol=1e-8,
    )
    return vary(ConfigDict(config), variant, VARIANTS)


def sweep() -> list[dict[str, Any]]:
    """One task per cell, so that the cells run side by side."""
    return [{"only": i} for i in range(len(get_config().cells))]
