"""Linear attention as ridge regression on its products: the exact limit of its loss, and simulations towards it.

Published (arXiv 2405.11751, ρ = 0.01, κ = 10; τ = 0.5, 2, 4, 10): α = 10: .6616, .2127, .1394, .1150; α = 1: 1.2738,
1.0379, .6964, .5826.
Expected: the formula gives all eight; the simulation comes nearer with d, slowly.
Time: about a minute of CPU; smoke: seconds.
Command:  python -m experiments.run --config configs/icl_limit.py
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"dimensions": (3, 4), "seeds": 2, "alphas": (10.0,), "published": ((0.6616, 0.2127, 0.1394, 0.1150),)}
}
EXPECTED = {"full": {"formula": (None, 0.0)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="icl.limit",
        seed=0,
        precision="float64",
        rho=0.01,
        kappa=10.0,
        taus=(0.5, 2.0, 4.0, 10.0),
        alphas=(10.0, 1.0),
        published=((0.6616, 0.2127, 0.1394, 0.1150), (1.2738, 1.0379, 0.6964, 0.5826)),
        digits=4,
        dimensions=(6, 12, 24),
        seeds=4,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
