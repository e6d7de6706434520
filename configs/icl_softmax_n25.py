"""Softmax regression in context, n = m = 25 words, d = 20: one self-attention layer against one gradient step.

Claim examined: a trained attention layer is close to one step of gradient descent (arXiv 2304.13276).
Expected (8 seeds): zero 1.266, best gradient step 0.842; linear attention 0.8435, cosine 0.999
(7 of 8 past the plateau);
softmax attention in two branches: attends away 0.792, cosine 0.956 (4 seeds); attends to 0.883, cosine 0.992 (4 seeds).
Time: 4.5 minutes of CPU (measured under load), most of it in one thread.
Command:  python -m experiments.run --config configs/icl_softmax_n25.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.tasks import grid
from experiments.runner.variants import vary

D, N = 20, 25
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE
    | {
        "task.dimension": 5,
        "task.length": 10,
        "task.queries": 10,
        "task.weight_scale": 5**-0.5,
        "train.steps": 40,
        "train.batch": 32,
        "learning_rate": 0.01,
        "chunk": 20,
    },
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="softmax", dimension=D, length=N, queries=N, weight_scale=D**-0.5),
        train=dict(steps=4000, batch=128),
        model=dict(attention=("linear",), parametrisation="factored"),
        arms=dict(
            linear=dict(series="linear attention", x=1, model=dict(attention=("linear",))),
            softmax=dict(series="softmax attention", x=2, model=dict(attention=("softmax",))),
        ),
        seeds=8,
        learning_rate=0.005,
        chunk=100,
        analyses=("anatomy",),
    )
    return vary(config, variant, VARIANTS)


def sweep(variant: str = "full") -> list[dict]:
    """Learning rates; `--batch` trains them in one program."""
    return grid({"learning_rate": (0.001, 0.003, 0.01)})
