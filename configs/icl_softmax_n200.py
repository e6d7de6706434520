"""Softmax regression in context, n = m = 200 words, d = 20: one self-attention layer against one gradient step.

Claim examined: a trained attention layer is close to one step of gradient descent (arXiv 2304.13276).
Expected (8 seeds): zero 1.703, best gradient step 0.461; linear attention 0.465, cosine 0.998; softmax attention 0.369,
cosine 0.978 (7 of 8 past the plateau).
Time: about 5 minutes of CPU (3.3 measured for the training, under load).
Command:  python -m experiments.run --config configs/icl_softmax_n200.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.variants import vary

D, N = 20, 200
ARMS: dict[str, dict[str, Any]] = dict(
    linear=dict(series="linear attention", x=1, model=dict(attention=("linear",))),
    softmax=dict(series="softmax attention", x=2, model=dict(attention=("softmax",))),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE
    | {
        "task.dimension": 5,
        "task.length": 12,
        "task.queries": 12,
        "task.weight_scale": 5**-0.5,
        "train.steps": 20,
        "arms": {"softmax": ARMS["softmax"]},
        "analyses": (),
    },
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="softmax", dimension=D, length=N, queries=N, weight_scale=D**-0.5),
        train=dict(steps=2000, batch=16),
        model=dict(attention=("linear",), parametrisation="factored"),
        arms=ARMS,
        seeds=8,
        learning_rate=0.005,
        chunk=100,
        evaluation=dict(tune=512, curve=128, final=1024, fit=128, block=16),
        analyses=("anatomy",),
    )
    return vary(config, variant, VARIANTS)
