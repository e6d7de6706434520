"""Softmax regression in context, n = m = 25 words, d = 20: one self-attention layer against one gradient step.

Claim examined: a trained attention layer is close to one step of gradient descent (arXiv 2304.13276).
Command:  python -m experiments.run --config configs/icl_softmax_n25.py
"""

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    full = {"full": True, "smoke": False}[variant]
    d, n = (20, 25) if full else (5, 10)
    linear, softmax = dict(attention=("linear",)), dict(attention=("softmax",))
    return ConfigDict(
        dict(
            experiment="icl",
            seed=0,
            precision="float32",
            seeds=8 if full else 2,
            learning_rate=3e-3 if full else 1e-2,
            chunk=100 if full else 20,
            rows="",
            task=dict(
                problem="softmax",
                dimension=d,
                length=n,
                queries=n,
                inputs="gaussian",
                input_scale=1.0,
                weight_scale=d**-0.5,
                noise=0.0,
                distractors=0,
                pool=0,
            ),
            model=dict(
                attention=("linear",),
                heads=1,
                shared=False,
                parametrisation="merged",
                key_size=0,
                mlp=0,
                layer_norm=False,
                init_scale=0.05,
                tokens=dict(layout="concatenated", code=0, scratch=0),
            ),
            train=dict(
                steps=4000 if full else 40,
                batch=256 if full else 32,
                b1=0.9,
                b2=0.98,
                clip=10.0,
                warmup=0,
                decay=0.02,
                prng="threefry2x32",
            ),
            arms=dict(
                linear=dict(series="linear attention", x=1, model=linear),
                softmax=dict(series="softmax attention", x=2, model=softmax),
            ),
            evaluation=dict(
                seed=0,
                tune=4096 if full else 64,
                curve=1024 if full else 32,
                final=8192 if full else 64,
                fit=2048 if full else 32,
                shift=0,
                block=256 if full else 32,
            ),
            shifts=dict(),
            chart="",
            analyses=("anatomy",),
        )
    )
