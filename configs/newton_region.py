"""How much regularization makes softmax regression convex, and how far Newton may start: predicted and observed.

Command: python -m experiments.run --config configs/newton_region.py
Expected: the observed threshold w² approaches 0.4808 from below (published: 4), every Hessian is at least l at the
predicted weight, and Newton converges from every start within the predicted radius 2l/(3M); the published M gives a
radius many orders smaller. The run fails if a guarantee fails. Time: 16 s of CPU; smoke: seconds.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    return ConfigDict(
        dict(
            experiment="bounds.newton_region",
            seed=0,
            precision="float64",
            n=4 if smoke else 8,
            d=2 if smoke else 3,
            radii=(1.0, 4.0) if smoke else (0.5, 1.0, 1.5, 2.0, 3.0, 4.0),  # ‖A‖ = ‖x‖ = R
            points=64 if smoke else 20000,  # (A, x, b) sampled for the threshold, per radius
            ascent=20 if smoke else 300,
            l=0.1,  # curvature wanted
            instances=1 if smoke else 6,  # minimisers x* per radius
            directions=4 if smoke else 64,
            distances=4 if smoke else 24,  # starts along each direction, log-spaced in [radius/4, far]
            far=30.0,
            newton_steps=12 if smoke else 40,
        )
    )
