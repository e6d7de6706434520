"""How much regularization makes softmax regression convex, and how far Newton may start: predicted and observed.

Command: python -m experiments.run --config configs/newton_region.py
Expected: the observed threshold w² approaches 0.4808 from below (published: 4), every Hessian is at least l at the
predicted weight, and Newton converges from every start within the predicted radius 2l/(3M); the published M gives a
radius many orders smaller. The run fails if a guarantee fails. Time: 16 s of CPU; smoke: seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "n": 4,
        "d": 2,
        "radii": (1.0, 4.0),
        "points": 64,
        "ascent": 20,
        "instances": 1,
        "directions": 4,
        "distances": 4,
        "newton_steps": 12,
    }
}
EXPECTED = {"full": {"threshold_observed": (None, 0.4808), "broken": (0, 0)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="bounds.newton_region",
        seed=0,
        precision="float64",
        n=8,
        d=3,
        radii=(0.5, 1.0, 1.5, 2.0, 3.0, 4.0),  # ‖A‖ = ‖x‖ = R
        points=20000,  # (A, x, b) sampled for the threshold, per radius
        ascent=300,  # points that the ascent visits
        l=0.1,  # curvature wanted
        instances=6,  # minimisers x* per radius
        directions=64,
        distances=24,  # starts along each direction, log-spaced in [radius/4, far]
        far=30.0,
        newton_steps=40,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
