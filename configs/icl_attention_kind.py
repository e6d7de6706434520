"""Linear against softmax attention, one head against two, on linear and on softmax regression.

Claims examined: one softmax head does not reach the gradient step on linear regression and two nearly do, by
cancelling what is even in the query (arXiv 2212.07677); on softmax regression softmax attention is close to it
(2304.13276).
Expected (8 seeds): linear regression: step 1.771, linear 1.773, one softmax head 2.894, two 1.84 or 2.88;
softmax regression: step 0.650, linear 0.651, one softmax head 0.590 or 0.69 to 0.73, by branch.
Time: about 10 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_attention_kind.py
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    d, n = (3, 6) if smoke else (10, 20)
    problems = dict(softmax=dict(problem="softmax", weight_scale=d**-0.5), linear=dict(problem="linear"))
    arms = {
        f"{problem}_{kind}{heads}": dict(
            series=f"{kind} attention, {heads} head{'s' * (heads > 1)}",
            x=i,
            task=task,
            model=dict(attention=(kind,), heads=heads),
        )
        for i, (problem, task) in enumerate(problems.items())
        for kind, heads in (("linear", 1), ("softmax", 1), ("softmax", 2))
    }
    return base(
        task=dict(problem="softmax", dimension=d, length=n, queries=n),
        train=dict(steps=10, batch=16) if smoke else dict(steps=3000, batch=64),
        arms={"softmax_softmax2": arms["softmax_softmax2"]} if smoke else arms,
        model=dict(parametrisation="factored"),
        seeds=2 if smoke else 8,
        learning_rate=0.005,
        chunk=10 if smoke else 200,
        analyses=() if smoke else ("anatomy",),
        smoke=smoke,
    )
