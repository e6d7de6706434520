"""Label noise: trained linear attention, gradient descent (closed-form step) and the Bayes estimate (ridge, λ = ν²/ω²).

Trained at each noise level; the layer trained without noise is also asked to read noisy and corrupted contexts.
Expected: trained within 0.1% of the closed-form step at every noise level (1.773, 1.799, 1.873, 2.138), above ridge.
Time: 100 seconds of CPU.
Command:  python -m experiments.run --config configs/icl_noise.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.variants import vary

LEVELS = (0.0, 0.5, 1.0, 2.0)
ARMS: dict[str, Any] = {
    f"noise_{v}".replace(".", "_"): dict(series="linear attention", x=v, task=dict(noise=v)) for v in LEVELS
}
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE
    | {
        "task.dimension": 3,
        "task.length": 6,
        "arms": {"noise_0_5": ARMS["noise_0_5"]},
        "shifts": {"noise": (0.5,)},
    },
}
EXPECTED = {"full": {"over_descent": (0.999, 1.001)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="linear", dimension=10, length=20, queries=4),
        train=dict(steps=3000, batch=256),
        model=dict(attention=("linear",)),
        arms=ARMS,
        seeds=4,
        learning_rate=0.003,
        chunk=250,
        evaluation=dict(final=16384, block=2048),
        shifts={"noise": LEVELS, "distractors": (0, 2, 4, 8)},
        analyses=("shifts",),
        chart="label noise ν",
    )
    return vary(config, variant, VARIANTS)
