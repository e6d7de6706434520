"""Objectives: unknowns, directions, caches and options; everything is refused before anything is traced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from attnreg.lift.sketches import TensorSparse, TensorSRHT, walsh_hadamard
from attnreg.objectives import AttentionObjective, FactoredObjective, Factors, OneLayerObjective, VariableProjection
from attnreg.objectives.regularizer import RegularizerHessian
from attnreg.objectives.sampled import sampled_hessian, sampled_joint_hessian
from attnreg.problems import Unknowns
from tests.contract.wrong_calls.arrays import D1, D2, D3, C, M, N, attention, layer
from tests.contract.wrong_calls.row import Wrong

RANK = 2
full, factored = AttentionObjective(attention()), FactoredObjective(attention(), RANK)
joint, reduced = OneLayerObjective(layer()), VariableProjection(layer())
MATRIX, PAIR = jnp.ones((D1, D2)), Unknowns(jnp.ones((D1, D2)), jnp.ones((D3, C)))
FACTORS = Factors(jnp.ones((D1, RANK)), jnp.ones((D2, RANK)))
SHAPE = r"\(3, 2\)"

# Every method that takes the unknown, called with something else in its place.
METHODS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "value": lambda o, x, v: o.value(x),
    "value_and_grad": lambda o, x, v: o.value_and_grad(x),
    "value_grad_hessian": lambda o, x, v: o.value_grad_hessian(x),
    "hessian": lambda o, x, v: o.hessian(x),
    "gauss_newton": lambda o, x, v: o.gauss_newton(x),
    "linearize": lambda o, x, v: o.linearize(x),
    "preconditioner": lambda o, x, v: o.preconditioner(x),
    "hvp": lambda o, x, v: o.hvp(x, v),
    "rounding": lambda o, x, v: o.rounding(x),
}
OBJECTIVES = {
    "full": (full, MATRIX),
    "factored": (factored, FACTORS),
    "joint": (joint, PAIR),
    "reduced": (reduced, MATRIX),
}
# Objective, what is wrong, the wrong unknown, and what is said.
UNKNOWNS = [
    ("full", "transposed", jnp.ones((D2, D1)), rf"X has shape \(2, 3\); it must be {SHAPE}"),
    ("reduced", "transposed", jnp.ones((D2, D1)), rf"X has shape \(2, 3\); it must be {SHAPE}"),
    (
        "factored",
        "of another rank",
        Factors(jnp.ones((D1, 3)), jnp.ones((D2, 3))),
        rf"Q has shape \(3, 3\); it must be {SHAPE}",
    ),
    ("joint", "with a narrow Y", PAIR._replace(Y=jnp.ones((D3, 1))), r"Y has shape \(6, 1\); it must be \(6, 7\)"),
]
ONCE = [
    ("full", "a row", jnp.ones((1, D2)), rf"X has shape \(1, 2\); it must be {SHAPE}"),
    ("full", "a vector", jnp.ones(D1 * D2), rf"X has shape \(6,\); it must be {SHAPE}"),
    ("full", "a scalar", 0.0, rf"X is a float; it must be an array of shape {SHAPE}"),
    ("full", "None", None, rf"X is a NoneType; it must be an array of shape {SHAPE}"),
    ("full", "a list", [[0.0, 0.0]] * 3, rf"X is a list; it must be an array of shape {SHAPE}"),
    (
        "full",
        "single precision",
        MATRIX.astype(jnp.float32),
        r"X has dtype float32, the data have float64; cast one of them",
    ),
    ("full", "integer", MATRIX.astype(int), r"X has dtype int64, the data have float64; cast one of them"),
    ("full", "factors", FACTORS, rf"X is a Factors; it must be an array of shape {SHAPE}"),
    ("reduced", "both unknowns", PAIR, rf"X is a Unknowns; it must be an array of shape {SHAPE}"),
    ("factored", "a matrix", MATRIX, r"the unknown is a \w+; it must be Factors\(Q, K\)"),
    ("factored", "a plain tuple", tuple(FACTORS), r"the unknown is a tuple; it must be Factors\(Q, K\)"),
    ("factored", "the other pair", Unknowns(*FACTORS), r"the unknown is a Unknowns; it must be Factors\(Q, K\)"),
    ("factored", "K transposed", FACTORS._replace(K=jnp.ones((3, D2))), r"K has shape \(3, 2\); it must be \(2, 2\)"),
    (
        "factored",
        "K in single precision",
        FACTORS._replace(K=FACTORS.K.astype(jnp.float32)),
        r"K has dtype float32, the data have float64",
    ),
    ("joint", "a matrix", MATRIX, r"the unknown is a \w+; it must be Unknowns\(X, Y\)"),
    ("joint", "a dict", dict(X=MATRIX), r"the unknown is a dict; it must be Unknowns\(X, Y\)"),
    ("joint", "without Y", PAIR._replace(Y=None), r"Y is a NoneType; it must be an array of shape \(6, 7\)"),
    (
        "joint",
        "Y in single precision",
        PAIR._replace(Y=PAIR.Y.astype(jnp.float32)),
        r"Y has dtype float32, the data have float64",
    ),
]
DIRECTIONS = [
    ("full", "transposed", jnp.ones((D2, D1)), rf"V has shape \(2, 3\); it must be {SHAPE}"),
    ("full", "a row to broadcast", jnp.ones((1, D2)), rf"V has shape \(1, 2\); it must be {SHAPE}"),
    ("full", "a column to broadcast", jnp.ones((D1, 1)), rf"V has shape \(3, 1\); it must be {SHAPE}"),
    ("full", "many at once", jnp.ones((4, D1, D2)), rf"V has shape \(4, 3, 2\); it must be {SHAPE}"),
    ("full", "a number", 1.0, rf"V is a float; it must be an array of shape {SHAPE}"),
    ("full", "single precision", MATRIX.astype(jnp.float32), r"V has dtype float32, the data have float64"),
    ("factored", "a matrix", MATRIX, r"V is a \w+; it must be Factors\(Q, K\)"),
    (
        "factored",
        "of another rank",
        Factors(jnp.ones((D1, 1)), jnp.ones((D2, 1))),
        rf"V.Q has shape \(3, 1\); it must be {SHAPE}",
    ),
    ("joint", "a matrix", MATRIX, r"V is a \w+; it must be Unknowns\(X, Y\)"),
    ("joint", "Y transposed", PAIR._replace(Y=jnp.ones((C, D3))), r"V.Y has shape \(7, 6\); it must be \(6, 7\)"),
    ("reduced", "both unknowns", PAIR, rf"V is a Unknowns; it must be an array of shape {SHAPE}"),
]


def row(label, function, words, error=ValueError):
    return Wrong(label, function, words, error)


CALLS = [
    row(
        f"{kind}.{name}: unknown {what}",
        lambda kind=kind, call=call, x=x: call(OBJECTIVES[kind][0], x, OBJECTIVES[kind][1]),
        words,
    )
    for kind, what, x, words in UNKNOWNS
    for name, call in METHODS.items()
]
CALLS += [
    row(f"{kind}: unknown {what}", lambda kind=kind, x=x: OBJECTIVES[kind][0].value(x), words)
    for kind, what, x, words in ONCE
]
CALLS += [
    row(f"{kind}.hvp: direction {what}", lambda kind=kind, v=v: OBJECTIVES[kind][0].hvp(OBJECTIVES[kind][1], v), words)
    for kind, what, v, words in DIRECTIONS
]
CALLS += [
    row(
        f"{kind}: cache {cache!r}",
        lambda o=o, x=x, cache=cache: o.linearize(x, cache=cache),
        rf"cache is {cache!r}; it must be one of 'auto', 'none'",
    )
    for kind, (o, x) in OBJECTIVES.items()
    for cache in ("all", None)
]
CALLS += [
    row(
        "factored: cache of another objective",
        lambda: factored.linearize(FACTORS, cache="blocks"),
        r"cache is 'blocks'; it must be one of 'auto', 'none', 'entries'",
    ),
    row(
        "joint: cache of another objective",
        lambda: joint.linearize(PAIR, cache="entries"),
        r"cache is 'entries'; it must be one of 'auto', 'none', 'blocks'",
    ),
    row(
        "gauss_newton a string",
        lambda: full.value_grad_hessian(MATRIX, gauss_newton="yes"),
        r"gauss_newton is 'yes', a str; it must be True or False",
    ),
    row(
        "gauss_newton of a line",
        lambda: full.linearize(MATRIX, gauss_newton=1),
        r"gauss_newton is 1, a int; it must be True or False",
    ),
    row(
        "gauss_newton of a product",
        lambda: full.hvp(MATRIX, MATRIX, gauss_newton=None),
        r"gauss_newton is None, a NoneType; it must be True or False",
    ),
    row("unknown option", lambda: full.value(MATRIX, weight=1.0), "weight", TypeError),
    row(
        "block_rows zero",
        lambda: AttentionObjective(attention(), block_rows=0),
        r"block_rows is 0; it must be at least 1",
    ),
    row(
        "block_rows a string",
        lambda: AttentionObjective(attention(), block_rows="3"),
        r"block_rows is '3', a str; it must be a whole number",
    ),
    row(
        "block_rows a float",
        lambda: OneLayerObjective(layer(), block_rows=2.0),
        r"block_rows is 2.0, a float; it must be a whole number",
    ),
    row(
        "block_rows a flag",
        lambda: FactoredObjective(attention(), RANK, block_rows=True),
        r"block_rows is True, a bool; it must be a whole number",
    ),
    row(
        "block_rows negative",
        lambda: VariableProjection(layer(), block_rows=-1),
        r"block_rows is -1; it must be at least 1",
    ),
    row("rank zero", lambda: FactoredObjective(attention(), 0), r"rank is 0; it must be at least 1"),
    row(
        "rank above the sizes",
        lambda: FactoredObjective(attention(), 3),
        r"rank is 3; it must be at least 1 and at most 2",
    ),
    row(
        "rank a float", lambda: FactoredObjective(attention(), 1.0), r"rank is 1.0, a float; it must be a whole number"
    ),
    row(
        "rank missing",
        lambda: FactoredObjective(attention()),
        "missing 1 required positional argument: 'rank'",
        TypeError,
    ),
    row("start damping negative", lambda: factored.spectral_start(-1.0), r"damping is -1.0; it must be at least 0"),
    row("start damping a string", lambda: factored.spectral_start("1"), r"damping is '1', a str; it must be a number"),
    row(
        "no samples",
        lambda: sampled_hessian(jnp.zeros(2), full, MATRIX, samples=0),
        r"samples is 0; it must be at least 1",
    ),
    row(
        "half a sample",
        lambda: sampled_hessian(jnp.zeros(2), full, MATRIX, samples=0.5),
        r"samples is 0.5, a float; it must be a whole number",
    ),
    row(
        "samples of another objective",
        lambda: sampled_hessian(jnp.zeros(2), joint, PAIR, samples=1),
        r"sampled_hessian samples an? AttentionObjective, not a OneLayerObjective",
    ),
    row(
        "joint samples of another objective",
        lambda: sampled_joint_hessian(jnp.zeros(2), full, MATRIX, samples=1),
        r"sampled_joint_hessian samples an? OneLayerObjective, not a AttentionObjective",
    ),
    row(
        "NumPy unknown of another dtype",
        lambda: full.value(np.ones((D1, D2), np.float16)),
        r"X has dtype float16, the data have float64",
    ),
]


def sampler(**options):
    """The published sampler on a layer with these options."""
    objective = OneLayerObjective(layer(**options))
    return RegularizerHessian()(KEY, objective, PAIR, samples=8)


KEY = jax.random.key(0)
SKETCH = TensorSRHT(jnp.ones(N), jnp.ones(M), jnp.zeros(4, jnp.int32), jnp.zeros(4, jnp.int32))
ONES = jnp.ones((N, D1))
CALLS += [
    row("sketch of no rows", lambda: TensorSRHT.draw(KEY, N, M, rows=0), r"rows is 0; it must be at least 1"),
    row(
        "sketch with unequal blocks",
        lambda: TensorSparse.draw(KEY, N, M, rows=10, blocks=4),
        r"rows is 10; it must be a multiple of blocks, 4",
    ),
    row(
        "sketch of another matrix",
        lambda: SKETCH.apply(jnp.ones((N + 1, D1)), jnp.ones((M, D2))),
        rf"A1 has shape \({N + 1}, 3\); the sketch was drawn for \({N}, d\)",
    ),
    row(
        "sketch of another dtype",
        lambda: SKETCH.apply(ONES.astype(jnp.float32), jnp.ones((M, D2))),
        r"A1 has dtype float32, the sketch float64; draw it with dtype=float32",
    ),
    row(
        "transform of stored entries",
        lambda: SKETCH.apply(BCOO((jnp.ones(1), jnp.zeros((1, 2), jnp.int32)), shape=(N, D1)), jnp.ones((M, D2))),
        r"A1 is sparse; TensorSRHT mixes all rows, so pass A1.todense\(\), or use TensorSparse",
    ),
    row("transform of six rows", lambda: walsh_hadamard(jnp.ones((6, 1))), r"A has 6 rows; .* needs a power of two"),
    row("sketch of a kind unknown", lambda: RegularizerHessian("gauss"), r"kind is 'gauss'; it must be one of 'srht'"),
    row("sketch of no blocks", lambda: RegularizerHessian(blocks=0), r"blocks is 0; it must be at least 1"),
    row(
        "published sampler of a map problem",
        lambda: RegularizerHessian()(KEY, full, MATRIX, samples=8),
        r"RegularizerHessian takes a OneLayerObjective, not a AttentionObjective",
    ),
    row("published sampler without W", lambda: sampler(value_weight=1.0), r"the problem has no weight; .* needs both"),
    row("published sampler without W A3", lambda: sampler(weight=1.0), r"the problem has no value_weight; .* both"),
    row(
        "published sampler with a weight a pair",
        lambda: sampler(weight=np.ones((N, M)), value_weight=1.0),
        r"weight has shape .*, one a pair; it must be one a query, \(n, 1\), or one a key",
    ),
    row(
        "published sampler with a mask",
        lambda: sampler(weight=1.0, value_weight=1.0, mask=np.ones((N, M), bool)),
        r"the problem has a mask; .* use sampled_joint_hessian",
    ),
]
