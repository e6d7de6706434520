"""Fits of a layer and of a head from arrays: what is not an array, an option, or a document to judge by."""

import functools

import numpy as np

from attnreg.fit import AttentionRegressor, compare_layers, fit_attention, fit_layer
from attnreg.fit.first_phase import Stochastic
from attnreg.fit.gauss_newton import Options
from attnreg.problems import LayerWeights
from tests.contract.wrong_calls.row import Wrong

A, B = np.full((2, 4, 3), 0.25), np.full((2, 4, 2), 0.25)
MAPS = np.full((2, 4, 4), 0.25)
Q, V = np.full((1, 3, 2), 0.5), np.full((1, 3, 2), 0.5)
WEIGHTS = LayerWeights(Q, Q, V)

BOTH = [
    (dict(rank=0), r"rank is 0; it must be at least 1"),
    (dict(rank=2.0), r"rank is 2.0, a float; it must be a whole number"),
    (dict(tol=-1.0), r"tol is -1.0; it must be at least 0"),
    (dict(tol="1e-8"), r"tol is '1e-8', a str; it must be a number"),
    (dict(seconds=0), r"seconds is 0; it must be above 0"),
    (dict(seconds=None), r"seconds is None, a NoneType; it must be a number"),
    (dict(callback=3), r"callback is a int; it must be a function of a Progress"),
    (dict(progress="yes"), r"progress is 'yes', a str; it must be True or False"),
    (dict(second=0.1), r"second is a float; it must be attnreg.fit.gauss_newton.Options"),
    (dict(second=Options(damping=0.0)), r"second.damping is 0.0; it must be above 0"),
    (dict(second=Options(max_products=0)), r"second.max_products is 0; it must be at least 1"),
    (dict(second=Options(forcing=1.0)), r"second.forcing is 1.0; it must be above 0 and below 1"),
    (dict(causal="no"), r"causal is 'no', a str; it must be True or False"),
    (dict(mask=np.ones((2, 4, 3), bool)), r"mask has shape \(2, 4, 3\)"),
    (dict(mask=np.ones((4, 4))), r"mask has dtype float64; it must be bool"),
    (dict(heldout=A), r"heldout is a ndarray; it must be \(A, (outputs|maps)\) or \(A, (outputs|maps), mask\)"),
    (dict(heldout=(A,)), r"heldout has 1 parts; it must be \(A, (outputs|maps)\)"),
]
LAYERS = [
    (dict(heads=0), r"heads is 0; it must be at least 1"),
    (dict(value_rank=0), r"value_rank is 0; it must be at least 1"),
    (dict(first=600), r"first is a int; it must be attnreg.fit.first_phase.Stochastic"),
    (dict(first=Stochastic(steps=70)), r"first.steps is 70; it must be a multiple of 50, slice_steps"),
    (dict(first=Stochastic(learning_rate=0.0)), r"first.learning_rate is 0.0; it must be above 0"),
    (dict(first=Stochastic(decay=1.0)), r"first.decay is 1.0; it must be at least 0 and below 1"),
    (dict(start=V), r"start is a ndarray; it must be LayerWeights"),
    (dict(start=LayerWeights(Q[:, :2], Q, V)), r"start.Q has shape \(1, 2, 2\); it must be \(1, 3, 2\)"),
    (dict(start=LayerWeights(Q, Q, V, V)), r"start.O is a \w+; it must be None"),
    (dict(heldout=(A, B[:, :, :1])), r"heldout outputs are 1 wide; they must be 2"),
    (dict(heldout=(A, B[:, :3])), r"B has shape \(2, 3, 2\)"),
    (dict(heldout=(A[:, :, :2], B)), r"heldout A is 2 wide; it must be 3, as A"),
]

CALLS = [
    Wrong(f"fit_layer: {options}", functools.partial(fit_layer, A, B, **(dict(rank=2) | options)), words)
    for options, words in BOTH + LAYERS
]
CALLS += [
    Wrong(f"fit_attention: {options}", functools.partial(fit_attention, A, MAPS, **(dict(rank=2) | options)), words)
    for options, words in BOTH
]
CALLS += [
    Wrong(
        "fit_layer: NaN", functools.partial(fit_layer, A * np.nan, B, rank=2), r"A has 24 NaN or infinite entries of 24"
    ),
    Wrong("fit_layer: flat", functools.partial(fit_layer, A[0, 0], B, rank=2), r"A has shape \(3,\)"),
    Wrong("fit_layer: whole", functools.partial(fit_layer, A.astype(int), B, rank=2), r"A has dtype int"),
    Wrong(
        "AttentionRegressor: an option that it has not",
        functools.partial(AttentionRegressor().set_params, ranks=2),
        r"no option 'ranks'; it has rank, heads",
    ),
    Wrong(
        "AttentionRegressor: a vector",
        functools.partial(AttentionRegressor(rank=1).fit, A[0, 0], B),
        r"X has shape \(3,\); it must be \(k, n, d\)",
    ),
    Wrong(
        "AttentionRegressor: rank 0", functools.partial(AttentionRegressor(rank=0).fit, A, B), r"rank is 0; it must be"
    ),
    Wrong("AttentionRegressor before fit", functools.partial(AttentionRegressor().predict, A), r"not fitted yet: call"),
    Wrong("fit_attention: pairs", functools.partial(fit_attention, A, B, rank=2), r"B has shape \(2, 4, 2\)"),
    Wrong(
        "compare_layers of other numbers of heads",
        functools.partial(compare_layers, WEIGHTS, LayerWeights(*(np.tile(W, (2, 1, 1)) for W in (Q, Q, V))), A),
        r"fitted has 1 heads; it must have 2, as true",
    ),
    Wrong(
        "compare_layers of another width",
        functools.partial(compare_layers, WEIGHTS, WEIGHTS, A[:, :, :2]),
        r"A is 2 wide; it must be 3, as the weights",
    ),
    Wrong(
        "compare_layers of arrays",
        functools.partial(compare_layers, Q, WEIGHTS, A),
        r"fitted is a ndarray; it must be LayerWeights",
    ),
]
