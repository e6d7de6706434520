"""Final loss against the dimension d, softmax regression with n = m = 25 words: one layer against one gradient step.

Expected: linear attention within 1% of the gradient step (0.482, 0.648, 0.842, 0.997 for d = 5, 10, 20, 40);
softmax attention that attends away below it.
Time: 4 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_softmax_width.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.variants import vary

N, WIDTHS = 25, (5, 10, 20, 40)


def arm(attention: str, d: int) -> dict[str, Any]:
    """One layer of one kind of attention on documents of dimension d."""
    task, model = dict(dimension=d, weight_scale=d**-0.5), dict(attention=(attention,))
    return dict(series=f"{attention} attention", x=d, task=task, model=model)


VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE
    | {
        "task.dimension": 3,
        "task.length": 8,
        "task.queries": 8,
        "arms": {"softmax_d3": arm("softmax", 3)},
    },
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="softmax", dimension=WIDTHS[0], length=N, queries=N),
        train=dict(steps=1600, batch=64),
        model=dict(attention=("linear",), parametrisation="factored"),
        arms={f"{kind}_d{d}": arm(kind, d) for kind in ("linear", "softmax") for d in WIDTHS},
        seeds=4,
        learning_rate=0.005,
        chunk=200,
        chart="dimension d",
    )
    return vary(config, variant, VARIANTS)
