"""Linear regression in context: one trained linear self-attention layer is one step of gradient descent.

The setting of arXiv 2212.07677 (d = n = 10, x ~ U(−0.5, 0.5), one query, 5,000 steps; batch 512 instead of 2048).
Two arms: Q, K, P, V learned apart (as published, with its plateau) and their products learned directly.
Expected: gradient descent 0.2062 (closed form, η = 6.0606), trained within 1%, cosine ≥ 0.999 for the seeds past the
plateau: 7 of 8 factored, 8 of 8 merged.
Time: about 10 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_linear.py
Sweep:    python -m experiments.sweep --config configs/icl_linear.py:small --batch 64
          64 seeds and learning rates of a small variant as one program (docs/guides/sweeps.md has what that saves).
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.tasks import grid
from experiments.runner.variants import vary

ARMS: dict[str, Any] = dict(
    factored=dict(series="Q, K, P, V learned", x=1, model=dict(parametrisation="factored", init_scale=0.024)),
    merged=dict(series="products learned", x=2, model=dict(init_scale=0.02)),
)
_SMALL = SMOKE | {
    "task.dimension": 3,
    "task.length": 3,
    "train.batch": 32,
    "arms": {"factored": ARMS["factored"]},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "small": _SMALL | {"train.steps": 500, "seeds": 1},
    "smoke": _SMALL | {"train.steps": 20},
}
EXPECTED = {"full": {"over_descent": (0.99, 1.01), "cosine": (0.999, None), "past_plateau": (0.875, None)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="linear", dimension=10, length=10, queries=1, inputs="uniform", input_scale=0.5),
        train=dict(steps=5000, batch=512),
        model=dict(attention=("linear",)),
        arms=ARMS,
        seeds=8,
        learning_rate=0.002,
        chunk=100,
        evaluation=dict(curve=4096, final=65536, block=4096),
    )
    return vary(config, variant, VARIANTS)


def sweep(variant: str = "full") -> list[dict]:
    """Learning rates × seeds."""
    return grid({"learning_rate": (0.0005, 0.001, 0.002, 0.004), "seed": range(2 if variant == "smoke" else 16)})
