"""Real data as documents: learners trained on real inputs with synthetic targets, asked about the real targets.

`full`: scikit-learn's diabetes (442×10, condition number 470), regression on 40 patients, 20 asked. `activations`:
hidden states of 24 tokens of a real text (d = 16) with the real attention probabilities of one token over them (softmax
regression). Half of the patients, and four of the twelve texts, are never trained or tuned on.
Expected: diabetes, real targets: one layer 0.373, one step 0.357, three layers 0.331, three steps 0.321, ridge 0.323;
activations: linear 1.65, softmax 1.70, one step 1.78, five steps 1.63.
Time: 2 minutes of CPU each.
Command:  python -m experiments.run --config configs/icl_tabular.py   and   ... icl_tabular.py:activations
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.variants import vary

ACTIVATION_ARMS: dict[str, dict[str, Any]] = {
    kind: dict(series=f"{kind} attention", x=i, model=dict(attention=(kind,)))
    for i, kind in enumerate(("linear", "softmax"))
}
_ACTIVATIONS: dict[str, Any] = {
    "table": "activations",
    "task.kind": "softmax",
    "task.dimension": 16,
    "task.length": 24,
    "task.queries": 24,
    "task.weight_scale": 0.25,
    "task.noise": 0.0,
    "arms": ACTIVATION_ARMS,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "activations": _ACTIVATIONS,
    "smoke": _ACTIVATIONS | SMOKE | {"train.batch": 8, "arms": {"softmax": ACTIVATION_ARMS["softmax"]}},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="linear", dimension=10, length=40, queries=20, inputs="real", weight_scale=0.3, noise=0.7),
        train=dict(steps=2000, batch=64, clip=1.0),
        model=dict(attention=("linear",), parametrisation="factored"),
        arms={
            f"linear_{K}": dict(series=f"{K} linear layers", x=K, model=dict(attention=("linear",) * K)) for K in (1, 3)
        },
        seeds=4,
        learning_rate=0.003,
        chunk=250,
        evaluation=dict(tune=1024, curve=512, final=2048),
        analyses=("real",),
        table="diabetes",
    )
    return vary(config, variant, VARIANTS)
