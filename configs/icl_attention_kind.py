"""Linear against softmax attention, one head against two, on linear and on softmax regression.

Claims examined: one softmax head does not reach the gradient step on linear regression and two nearly do, by
cancelling what is even in the query (arXiv 2212.07677); on softmax regression softmax attention is close to it
(2304.13276).
Expected (8 seeds): linear regression: step 1.771, linear 1.773, one softmax head 2.894, two 1.84 in every seed;
softmax regression: step 0.650, linear 0.651, one softmax head 0.590, as two. Before value paths started with signs in
turn, 3 of 8 pairs of heads ended at 2.88, and 5 of 8 single heads at 0.69 to 0.73.
Time: about 10 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_attention_kind.py
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.variants import vary

D, N = 10, 20
TASKS: dict[str, Any] = dict(softmax=dict(kind="softmax", weight_scale=D**-0.5), linear=dict(kind="linear"))
ARMS: dict[str, dict[str, Any]] = {
    f"{name}_{attention}{heads}": dict(
        series=f"{attention} attention, {heads} head{'s' * (heads > 1)}",
        x=i,
        task=task,
        model=dict(attention=(attention,), heads=heads),
    )
    for i, (name, task) in enumerate(TASKS.items())
    for attention, heads in (("linear", 1), ("softmax", 1), ("softmax", 2))
}
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE
    | {
        "task.dimension": 3,
        "task.length": 6,
        "task.queries": 6,
        "arms": {"softmax_softmax2": ARMS["softmax_softmax2"] | {"task": dict(kind="softmax", weight_scale=3**-0.5)}},
        "analyses": (),
    },
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="softmax", dimension=D, length=N, queries=N),
        train=dict(steps=3000, batch=64),
        model=dict(attention=("linear",), parametrisation="factored"),
        arms=ARMS,
        seeds=8,
        learning_rate=0.005,
        chunk=200,
        analyses=("anatomy",),
    )
    return vary(config, variant, VARIANTS)
