"""The statements of arXiv 2309.07418 on one layer's curvature, attacked; and how far Newton may start.

Command: python -m experiments.run --config configs/one_layer_statements.py
Expected: no proved constant is beaten; the printed F.1 (1) is, at R = 0.25; Newton converges from every start
inside the sharp region, which is many orders larger than the printed one (docs/theory/one_layer_convexity.md has the
numbers measured so far). The run fails if a guarantee fails.
Time: about 5 minutes of CPU, most of it compilation; smoke: half a minute.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "parts": ("region",),
        "radii": (1.0,),
        "starts": 32,
        "steps": 10,
        "instances": 1,
        "directions": 4,
        "distances": 3,
        "newton_steps": 15,
    }
}
EXPECTED = {"full": {"tightness": (None, 1.0)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="bounds.one_layer_statements",
        seed=0,
        precision="float64",
        parts=("statements", "region", "lemmas"),
        n=3,  # queries and keys of the attacked points
        d=2,
        radii=(0.25, 1.0, 2.0, 5.0),
        starts=1024,
        steps=150,
        tolerance=1e-8,
        instances=8,  # minimisers whose region is studied
        region_n=16,
        noise=0.1,
        weight=0.5,
        ridge=0.2,
        directions=16,
        distances=16,
        far=30.0,
        newton_steps=40,
        points=16,  # where C.1 and G.1 are looked at, for each minimiser
        epsilon=0.09,  # spectral error of K.3
    )
    return vary(ConfigDict(config), variant, VARIANTS)


def sweep() -> list[dict]:
    """One task per part."""
    return [{"parts": (part,)} for part in get_config().parts]
