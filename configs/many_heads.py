"""Twelve small heads from their maps: one at a time, and in one compiled program.

Shows: `lax.map` of a solver keeps its branches and loops, and costs what the heads cost one at a time. Under `vmap`
each head waits for the slowest in every loop, and both sides of each branch are computed.
Command: python -m experiments.run --config configs/many_heads.py
Expected: heads a CPU second by lax.map at least 0.8 of one at a time; by vmap a quarter at d = 17, and an eighth
or less at d = 64, rank 8. Time: some minutes of CPU, most of it by vmap at rank 8.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {"smoke": {"cases": ((3, 0),), "heads": 2, "n": 16, "rounds": 1}}
EXPECTED = {"full": {"mapped": (0.8, None), "apart": (None, 1e-6)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="benchmarks.many_heads",
        seed=0,
        precision="float64",
        cases=((17, 0), (64, 8)),  # d, and the rank; 0 is the full unknown
        heads=12,
        n=256,
        tol=1e-5,
        max_steps=60,
        rounds=3,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
