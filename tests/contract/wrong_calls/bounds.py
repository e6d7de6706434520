"""Bounds: names of constants, losses and layers that do not exist."""

import jax.numpy as jnp

from attnreg.bounds.domain import softmax_point
from attnreg.bounds.newton_region import required_weight
from attnreg.bounds.target_shift import attention_layer, residual
from tests.contract.wrong_calls.row import Wrong

EYE = jnp.eye(2)

CALLS = [
    Wrong(
        "weight of an unknown kind",
        lambda: required_weight(0.1, 1.0, kind="tight"),
        r"kind is 'tight'; it must be one of sharp, published",
    ),
    Wrong(
        "weight of no kind",
        lambda: required_weight(0.1, 1.0, kind=None),
        r"kind is None; it must be one of sharp, published",
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
