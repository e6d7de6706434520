"""The first call of a fresh process, from `python` to the answer, beside scipy, optax and jaxopt.

Shows: what a user waits for who fits one head once: imports, compiling, solving. The head is the reduced one that ships
(289 unknowns, 8 texts of 64 tokens), float64, from X = 0 to a gradient of 1e-8 of the start's.
Command: python -m experiments.run --config configs/first_call.py
Expected: ours and scipy's at a loss of 3.6561; no time is promised. Time: about two minutes on two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"documents": 1, "rounds": 1, "contenders": ("newton_cg",)},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="benchmarks.first_call",
        seed=0,
        precision="float64",
        contenders=("newton", "newton_cg", "scipy", "optax", "jaxopt"),
        documents=8,
        rounds=3,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
