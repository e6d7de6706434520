"""K linear layers against K steps of gradient descent and of GD++, linear regression, looped and separate weights.

Expected (d = n = 10, U(−0.5, 0.5)): gradient descent 0.157 (K = 2), 0.132 (K = 3); GD++ 0.110, 0.079; looped layers
reach 0.1106 and 0.0818, with cosine 0.9995 and 0.9986 to GD++; two separate layers are still falling (0.14), three
blow up.
Time: 6 minutes of CPU.
Command:  python -m experiments.run --config configs/icl_depth.py
"""

from ml_collections import ConfigDict

from configs.icl_defaults import base


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    d, depths = (3, (2,)) if smoke else (10, (1, 2, 3))
    arms = {
        f"{weights}_{K}": dict(
            series=f"{weights} weights", x=K, model=dict(attention=("linear",) * K, shared=weights == "looped")
        )
        for weights in ("looped", "separate")
        for K in depths
        if K > 1 or weights == "looped"
    }
    return base(
        task=dict(problem="linear", dimension=d, length=d, queries=1, inputs="uniform", input_scale=0.5),
        # So small a clip makes every step as long as the last: without it rare steep documents throw deep models off.
        train=dict(steps=10, batch=16, clip=0.001) if smoke else dict(steps=4000, batch=256, clip=0.001),
        arms={"looped_2": arms["looped_2"]} if smoke else arms,
        model=dict(init_scale=0.02),
        seeds=2 if smoke else 4,
        learning_rate=0.004,
        chunk=10 if smoke else 250,
        evaluation=dict(curve=2048, final=16384, block=2048),
        chart="layers, steps",
        smoke=smoke,
    )
