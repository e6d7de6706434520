"""Softmax regression in context, n = m = 200 words, d = 20: one self-attention layer against one gradient step.

Claim examined: a trained attention layer is close to one step of gradient descent (arXiv 2304.13276).
Expected (8 seeds): zero 1.703, best gradient step 0.461; linear attention 0.465, cosine 0.998; softmax attention 0.369,
cosine 0.978 (7 of 8 past the plateau).
Time: about 5 minutes of CPU (3.3 measured for the training, under load).
Command:  python -m experiments.run --config configs/icl_softmax_n200.py
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    d, n = (5, 12) if smoke else (20, 200)
    arms = dict(
        linear=dict(series="linear attention", x=1, model=dict(attention=("linear",))),
        softmax=dict(series="softmax attention", x=2, model=dict(attention=("softmax",))),
    )
    return base(
        task=dict(problem="softmax", dimension=d, length=n, queries=n, weight_scale=d**-0.5),
        train=dict(steps=20, batch=16) if smoke else dict(steps=2000, batch=16),
        arms={"softmax": arms["softmax"]} if smoke else arms,
        model=dict(parametrisation="factored"),
        seeds=2 if smoke else 8,
        learning_rate=0.005,
        chunk=10 if smoke else 100,
        evaluation=dict(tune=512, curve=128, final=1024, fit=128, block=16),
        analyses=() if smoke else ("anatomy",),
        smoke=smoke,
    )
