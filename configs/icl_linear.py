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

from ml_collections import ConfigDict

from configs.icl_defaults import base
from experiments.runner.tasks import grid


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "small": True, "smoke": True}[variant]
    d = 3 if smoke else 10
    arms = dict(
        factored=dict(series="Q, K, P, V learned", x=1, model=dict(parametrisation="factored", init_scale=0.024)),
        merged=dict(series="products learned", x=2, model=dict(init_scale=0.02)),
    )
    return base(
        task=dict(problem="linear", dimension=d, length=d, queries=1, inputs="uniform", input_scale=0.5),
        train=dict(steps={"smoke": 20, "small": 500}[variant], batch=32) if smoke else dict(steps=5000, batch=512),
        arms={"factored": arms["factored"]} if smoke else arms,
        seeds={"full": 8, "small": 1, "smoke": 2}[variant],
        learning_rate=0.002,
        chunk=10 if smoke else 100,
        evaluation=dict(curve=4096, final=65536, block=4096),
        smoke=smoke,
    )


def sweep(variant: str = "full") -> list[dict]:
    """Learning rates × seeds."""
    return grid({"learning_rate": (0.0005, 0.001, 0.002, 0.004), "seed": range(2 if variant == "smoke" else 16)})
