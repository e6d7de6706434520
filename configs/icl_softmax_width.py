"""Final loss against the dimension d, softmax regression with n = m = 25 words: one layer against one gradient step.

Expected: linear attention within 1% of the gradient step (0.482, 0.648, 0.842, 0.997 for d = 5, 10, 20, 40);
softmax attention that attends away below it.
Time: 4 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_softmax_width.py
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    n, widths = (8, (3, 5)) if smoke else (25, (5, 10, 20, 40))
    arms = {
        f"{kind}_d{d}": dict(
            series=f"{kind} attention",
            x=d,
            task=dict(dimension=d, weight_scale=d**-0.5),
            model=dict(attention=(kind,)),
        )
        for kind in ("linear", "softmax")
        for d in widths
    }
    return base(
        task=dict(problem="softmax", dimension=widths[0], length=n, queries=n),
        train=dict(steps=10, batch=16) if smoke else dict(steps=1600, batch=64),
        arms={"softmax_d3": arms["softmax_d3"]} if smoke else arms,
        model=dict(parametrisation="factored"),
        seeds=2 if smoke else 4,
        learning_rate=0.005,
        chunk=10 if smoke else 200,
        chart="dimension d",
        smoke=smoke,
    )
