"""Softmax regression in context, n = m = 25 words, d = 20: one self-attention layer against one gradient step.

Claim examined: a trained attention layer is close to one step of gradient descent (arXiv 2304.13276).
Expected (8 seeds): zero 1.266, best gradient step 0.842; linear attention 0.8435, cosine 0.999
(7 of 8 past the plateau);
softmax attention in two branches: attends away 0.792, cosine 0.956 (4 seeds); attends to 0.883, cosine 0.992 (4 seeds).
Time: 4.5 minutes of CPU (measured under load), most of it in one thread.
Command:  python -m experiments.run --config configs/icl_softmax_n25.py
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base
from experiments.runner.tasks import grid


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    d, n = (5, 10) if smoke else (20, 25)
    return base(
        task=dict(problem="softmax", dimension=d, length=n, queries=n, weight_scale=d**-0.5),
        train=dict(steps=40, batch=32) if smoke else dict(steps=4000, batch=128),
        arms=dict(
            linear=dict(series="linear attention", x=1, model=dict(attention=("linear",))),
            softmax=dict(series="softmax attention", x=2, model=dict(attention=("softmax",))),
        ),
        model=dict(parametrisation="factored"),
        seeds=2 if smoke else 8,
        learning_rate=0.01 if smoke else 0.005,
        chunk=20 if smoke else 100,
        analyses=("anatomy",),
        smoke=smoke,
    )


def sweep(variant: str = "full") -> list[dict]:
    """Learning rates; `--batch` trains them in one program."""
    return grid({"learning_rate": (0.001, 0.003, 0.01)})
