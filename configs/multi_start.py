"""The fraction of random one-layer instances solved to a relative loss of 1e-8 within a CPU-time budget.

Shows: the landscape has many minima; starts from the layer's jet at X = 0 find the global one. A1, A2, A3 ~ N(0, 1/d),
X, Y ~ N(0, 1), no noise; restarts allowed to everyone; compilation is not counted.
Command: python -m experiments.run --config configs/multi_start.py
Expected: ours 50 of 50, 20 of 20, 10 of 10 and 4 of 5; docs/guides/one_layer.md has the peers.
Time: about an hour of CPU, nearly all of it peers that use up their `seconds`.
"""

from ml_collections import ConfigDict

PEERS = (
    "scipy L-BFGS-B",
    "scipy L-BFGS-B, reduced",
    "optax L-BFGS",
    "optimistix L-BFGS",
    "optimistix LM",
    "naive Newton",
)


def get_config(variant: str = "full") -> ConfigDict:
    smoke = variant == "smoke"
    config = ConfigDict()
    config.experiment = "one_layer.multi_start"
    config.seed = 0
    config.precision = "float64"
    # n, d, instances, and how many of them the peers are given (an instance that a peer fails on costs `seconds`)
    config.cells = ((24, 2, 1, 1),) if smoke else ((64, 4, 50, 8), (256, 8, 20, 4), (512, 16, 10, 2), (1024, 24, 5, 1))
    config.only = -1  # index of the one cell to run; -1 is all
    config.peers = ("scipy L-BFGS-B",) if smoke else PEERS
    # These form dense second derivatives or Jacobians: 10 GB and more at n = 1024. They are left out above dense_n.
    config.dense, config.dense_n = ("naive Newton", "optimistix LM"), 512
    config.seconds = 1.0 if smoke else 60.0
    config.total_seconds = 20.0 if smoke else 36000.0
    config.tol = 1e-8
    return config


def sweep() -> list[dict]:
    """One task per cell, so that the cells run side by side."""
    return [{"only": i} for i in range(len(get_config().cells))]
