"""Off the training distribution: does the trained layer fail where, and as, gradient descent fails?

Claim examined: trained linear self-attention equals the gradient step also out of distribution (arXiv 2212.07677).
Expected: linear attention within 0.4% of its gradient step on every axis of shift; softmax attention below it.
Time: 2 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_ood.py
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    d, n = (3, 6) if smoke else (10, 20)
    softmax = dict(problem="softmax", weight_scale=d**-0.5)
    arms = dict(
        regression=dict(series="linear regression, linear attention", x=1, model=dict(attention=("linear",))),
        linear=dict(series="softmax regression, linear attention", x=2, task=softmax),
        softmax=dict(
            series="softmax regression, softmax attention", x=3, task=softmax, model=dict(attention=("softmax",))
        ),
    )
    shifts = dict(
        input_scale=(0.25, 0.5, 1.0, 1.5, 2.0),
        weight_scale=(0.5, 1.0, 2.0, 4.0),
        inputs=("gaussian", "uniform", "laplace", "exponential"),
        distractors=(0, 2, 4, 8),
    )
    return base(
        task=dict(problem="linear", dimension=d, length=n, queries=n),
        train=dict(steps=10, batch=16) if smoke else dict(steps=3000, batch=128),
        arms={"softmax": arms["softmax"]} if smoke else arms,
        model=dict(parametrisation="factored"),
        seeds=2 if smoke else 4,
        learning_rate=0.005,
        chunk=10 if smoke else 250,
        shifts={"input_scale": (1.0, 2.0), "inputs": ("laplace",)} if smoke else shifts,
        analyses=("shifts",),
        smoke=smoke,
    )
