"""CPU per training step against the usual notebook loop, on its own default: d = n = 10, batch 2048, one linear layer.

The peer (`experiments/icl/loop_peer.py`) is a re-implementation of that protocol; docs/guides/icl.md compares it with
the original.
Expected: at least 4 times less CPU a step (measured 5.8), the same losses (0.2058 and 0.2056 after 5,000 steps).
Time: under a minute with train_steps=0; training both loops for 5,000 steps adds about 2.5 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_speed.py
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": dict(dimension=3, length=4, batch=16, seeds=2, steps=2, rounds=2, train_steps=0),
}
EXPECTED = {"full": {"ratio": (4.0, None)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = ConfigDict(
        dict(
            experiment="icl.speed",
            seed=0,
            precision="float32",
            dimension=10,
            length=10,
            half_width=0.5,
            batch=2048,
            init_scale=0.0135,
            learning_rate=0.001,
            clip=10.0,
            # Ours averages over the context where the peer sums, so that its P acts n times less: in training it starts
            # larger and learns faster, as in configs/icl_linear.py.
            own=dict(init_scale=0.024, learning_rate=0.002, seeds=3),
            seeds=8,
            steps=20,
            rounds=9,
            train_steps=5000,
        )
    )
    return vary(config, variant, VARIANTS)
