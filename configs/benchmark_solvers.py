"""Time to solution against existing solvers, and who finds the good minimum.

Command: python -m experiments.run --config configs/benchmark_solvers.py
         one part of it: --config.cells=normalized-512-16 --config.methods="attnreg,optax" --config.basins.cells=
Needs: the peers (pip install '.[peers]'), and for the head cells the model (python -m attnreg.data.tools.fetch_minilm).
Expected: summary.wall_ratio (ours over the best peer, interleaved) below 1 on every cell; the numbers are in
docs/guides/benchmarks.md. Time: about 30 minutes on two CPU cores, most of it the peers' trial runs.
"""

from ml_collections import ConfigDict

SYNTHETIC = "normalized-512-16,normalized-1024-16,normalized-2048-32"
HEADS = "head-5-2-16,head-5-2-32,head-2-3-16,head-2-3-32"
SINGLE = "single-1000-20,single-100000-50,single-1000000-50"


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    return ConfigDict(
        dict(
            experiment="benchmarks.solvers",
            seed=0,
            precision="float64",
            # Comma-separated; see experiments/benchmarks/cells.py and experiments/benchmarks/peers.py for the names.
            cells="normalized-32-3,single-50-3" if smoke else f"{SYNTHETIC},{HEADS},{SINGLE}",
            methods="attnreg Newton (default),optax lbfgs (memory 10)" if smoke else "all",
            tol=1e-8,  # gradient norm over its norm at the start
            seconds=20.0,  # a peer's cap in its trial run, CPU seconds
            rounds=2 if smoke else 15,
            least_rounds=2 if smoke else 3,
            seconds_per_method=8.0,  # timed wall time after which a method sits out
            basins=dict(cells="rescaled-16-2" if smoke else "rescaled-64-4", instances=2 if smoke else 10, seconds=5.0),
        )
    )
