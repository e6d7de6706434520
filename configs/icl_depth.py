"""K linear layers against K steps of gradient descent and of GD++, linear regression, looped and separate weights.

Expected (d = n = 10, U(−0.5, 0.5)): gradient descent 0.157 (K = 2), 0.132 (K = 3); GD++ 0.110, 0.079; looped layers
reach 0.111 and 0.079, with cosine 0.9994 and 0.9995 to GD++; two separate layers 0.097; three 0.079 but for one
document of 16,384 (docs/guides/icl.md).
Time: 6 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_depth.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.variants import vary

ARMS = {
    f"{weights}_{K}": dict(
        series=f"{weights} weights", x=K, model=dict(attention=("linear",) * K, shared=weights == "looped")
    )
    for weights, K in (("looped", 1), ("looped", 2), ("looped", 3), ("separate", 2), ("separate", 3))
}
VARIANTS: dict[str, dict[str, Any]] = {
    # Gradient descent, GD++ and Newton's iteration alone, with as good as no training.
    "references": {
        "train.steps": 1,
        "chunk": 1,
        "seeds": 1,
        "arms": {name: arm for name, arm in ARMS.items() if name in ("looped_2", "looped_3")},
    },
    "smoke": SMOKE | {"task.dimension": 3, "task.length": 3, "arms": {"looped_2": ARMS["looped_2"]}},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="linear", dimension=10, length=10, queries=1, inputs="uniform", input_scale=0.5),
        # So small a clip makes every step as long as the last: without it rare steep documents throw deep models off.
        train=dict(steps=4000, batch=256, clip=0.001),
        model=dict(attention=("linear",), init_scale=0.02),
        arms=ARMS,
        seeds=4,
        learning_rate=0.004,
        chunk=250,
        evaluation=dict(curve=2048, final=16384, block=2048),
        chart="layers, steps",
    )
    return vary(config, variant, VARIANTS)
