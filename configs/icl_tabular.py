"""Real data as documents: learners trained on real inputs with synthetic targets, asked about the real targets.

`full`: scikit-learn's diabetes (442×10, condition number 470), regression on 40 patients, 20 asked. `activations`:
hidden states of 24 tokens of a real text (d = 16) with the real attention probabilities of one token over them (softmax
regression). Half of the patients, and four of the twelve texts, are never trained or tuned on.
Expected: diabetes, real targets: one layer 0.381, one step 0.357, three layers 0.335, three steps 0.321, ridge 0.323;
activations: linear 1.65, softmax 1.69, one step 1.78, five steps 1.63.
Time: 2 minutes of CPU each.
Command:  python -m experiments.run --config configs/icl_tabular.py   and   ... icl_tabular.py:activations
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base


def get_config(variant: str = "full") -> ConfigDict:
    rows = {"full": "diabetes", "activations": "activations", "smoke": "activations"}[variant]
    smoke = variant == "smoke"
    if rows == "diabetes":
        task = dict(problem="linear", dimension=10, length=40, queries=20, weight_scale=0.3, noise=0.7)
        arms = {
            f"linear_{K}": dict(series=f"{K} linear layers", x=K, model=dict(attention=("linear",) * K)) for K in (1, 3)
        }
    else:
        task = dict(problem="softmax", dimension=16, length=24, queries=24, weight_scale=0.25)
        arms = {
            kind: dict(series=f"{kind} attention", x=i, model=dict(attention=(kind,)))
            for i, kind in enumerate(("linear", "softmax"))
        }
    return base(
        task=dict(inputs="rows", **task),
        train=dict(steps=10, batch=8, clip=1.0) if smoke else dict(steps=2000, batch=64, clip=1.0),
        arms={"softmax": arms["softmax"]} if smoke else arms,
        model=dict(parametrisation="factored"),
        seeds=2 if smoke else 4,
        learning_rate=0.003,
        chunk=10 if smoke else 250,
        evaluation=dict(tune=1024, curve=512, final=2048),
        analyses=("real",),
        rows=rows,
        smoke=smoke,
    )
