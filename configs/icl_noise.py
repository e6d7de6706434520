"""Label noise: trained linear attention, gradient descent (closed-form step) and the Bayes estimate (ridge, λ = ν²/ω²).

Trained at each noise level; the layer trained without noise is also asked to read noisy and corrupted contexts.
Expected: trained within 0.1% of the closed-form step at every noise level (1.773, 1.799, 1.873, 2.138), above ridge.
Time: 100 seconds of CPU.
Command:  python -m experiments.run --config configs/icl_noise.py
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    d, n = (3, 6) if smoke else (10, 20)
    levels = (0.5,) if smoke else (0.0, 0.5, 1.0, 2.0)
    return base(
        task=dict(problem="linear", dimension=d, length=n, queries=4),
        train=dict(steps=10, batch=16) if smoke else dict(steps=3000, batch=256),
        arms={f"noise_{v}".replace(".", "_"): dict(series="linear attention", x=v, task=dict(noise=v)) for v in levels},
        seeds=2 if smoke else 4,
        learning_rate=0.003,
        chunk=10 if smoke else 250,
        evaluation=dict(final=16384, block=2048),
        shifts={"noise": (0.5,)} if smoke else {"noise": (0.0, 0.5, 1.0, 2.0), "distractors": (0, 2, 4, 8)},
        analyses=("shifts",),
        chart="label noise ν",
        smoke=smoke,
    )
