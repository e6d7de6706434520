"""Bounds: names of constants, losses and layers that do not exist."""

import functools

import jax.numpy as jnp

from attnreg.bounds.domain import Norms, softmax_point
from attnreg.bounds.newton_region import hessian_lipschitz, required_weight
from attnreg.bounds.target_shift import attention_layer, residual
from tests.contract.wrong_calls.row import Wrong

EYE, NORMS = jnp.eye(2), Norms(1, 4, 1.0, 1.0, 1.0)

CALLS = [
    Wrong(
        "weight of an unknown kind",
        lambda: required_weight(0.1, 1.0, kind="tight"),
        r"kind is 'tight'; it must be one of 'sharp', 'published'",
    ),
    Wrong(
        "weight of no kind",
        lambda: required_weight(0.1, 1.0, kind=None),
        r"kind is None; it must be one of 'sharp', 'published'",
    ),
    *(
        Wrong(
            f"Lipschitz constant of the kind {kind!r}",
            functools.partial(hessian_lipschitz, NORMS, kind=kind),
            rf"kind is {kind!r}; it must be one of 'sharp', 'published'",
        )
        for kind in ("sharpest", "norm_by_norm", None)
    ),
    *(
        Wrong(f"ball: {label}", functools.partial(Norms.ball, *args, **sizes), words)
        for label, args, sizes, words in (
            ("unknown family", ("softmx", 1.0), {}, "family is 'softmx'; it must be one of 'softmax', 'attention'"),
            ("no family", (None, 1.0), {}, "family is None; it must be one of 'softmax'"),
            ("negative radius", ("softmax", -1.0), {}, "R is -1.0; it must be at least 0"),
            ("radius of NaN", ("softmax", float("nan")), {}, "R is nan; it must be a finite number"),
            ("radius in words", ("softmax", "1"), {}, "R is '1', a str; it must be a number"),
            ("no keys", ("softmax", 1.0), dict(n=0), "n is 0; it must be at least 1"),
            ("half a query", ("attention", 1.0), dict(n1=0.5), "n1 is 0.5, a float; it must be a whole number"),
        )
        for sizes in [dict(n1=1, n=4) | sizes]
    ),
    Wrong(
        "residual of an unknown loss",
        lambda: residual(softmax_point(EYE, EYE[0], EYE[0]), "kl"),
        r"is 'kl'; it must be one of normalized, rescaled, one_layer",
    ),
    Wrong(
        "residual of no loss",
        lambda: residual(softmax_point(EYE, EYE[0], EYE[0]), None),
        r"is None; it must be one of normalized",
    ),
    Wrong(
        "layer of an unknown kind",
        lambda: attention_layer(EYE, EYE, EYE, scale=1.0, kind="relu"),
        r"kind is 'relu'; it must be 'softmax' or 'linear'",
    ),
    Wrong(
        "layer without its scale",
        lambda: attention_layer(EYE, EYE, EYE),
        "missing 1 required keyword-only argument: 'scale'",
        TypeError,
    ),
]
