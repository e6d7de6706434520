"""Off the training distribution: does the trained layer fail where, and as, gradient descent fails?

Claim examined: trained linear self-attention equals the gradient step also out of distribution (arXiv 2212.07677).
Expected: linear attention within 0.4% of its gradient step on every axis of shift; softmax attention below it.
Time: 2 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_ood.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.variants import vary

D, N = 10, 20
SOFTMAX = dict(kind="softmax", weight_scale=D**-0.5)
ARMS: dict[str, dict[str, Any]] = dict(
    regression=dict(series="linear regression, linear attention", x=1, model=dict(attention=("linear",))),
    linear=dict(series="softmax regression, linear attention", x=2, task=SOFTMAX),
    softmax=dict(series="softmax regression, softmax attention", x=3, task=SOFTMAX, model=dict(attention=("softmax",))),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE
    | {
        "task.dimension": 3,
        "task.length": 6,
        "task.queries": 6,
        "arms": {"softmax": ARMS["softmax"] | {"task": dict(kind="softmax", weight_scale=3**-0.5)}},
        "shifts": {"input_scale": (1.0, 2.0), "inputs": ("laplace",)},
    },
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="linear", dimension=D, length=N, queries=N),
        train=dict(steps=3000, batch=128),
        model=dict(attention=("linear",), parametrisation="factored"),
        arms=ARMS,
        seeds=4,
        learning_rate=0.005,
        chunk=250,
        shifts=dict(
            input_scale=(0.25, 0.5, 1.0, 1.5, 2.0),
            weight_scale=(0.5, 1.0, 2.0, 4.0),
            inputs=("gaussian", "uniform", "laplace", "exponential"),
            distractors=(0, 2, 4, 8),
        ),
        analyses=("shifts",),
    )
    return vary(config, variant, VARIANTS)
