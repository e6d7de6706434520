"""Arrays that do not belong together, and the options of a problem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems import LinearRegression, SoftmaxRegression, Teacher
from tests.contract.wrong_calls.arrays import D1, D2, D3, C, M, N, R, attention, layer, linear, softmax, teacher
from tests.contract.wrong_calls.row import Wrong

SINGLE = np.float32


def ones(*shape, dtype=np.float64):
    return np.ones(shape, dtype)


def many(build, *lead):
    """The arrays of a problem with leading axes."""
    return {name: np.broadcast_to(build.array(name), (*lead, *build.array(name).shape)) for name in build.letters}


def of(build, **changes):
    return functools.partial(build, **changes)


_TWO = many(attention, 2, 3)
SHAPES = [
    Wrong("A1 a vector", of(attention, A1=ones(3)), r"A1 has shape \(3,\); it must be \(…, n, d1\)"),
    Wrong("A2 a vector", of(layer, A2=ones(3)), r"A2 has shape \(3,\); it must be \(…, m, d2\)"),
    Wrong("B rows", of(attention, B=ones(3, M)), r"B has shape \(3, 5\): its n is 3, but A1 gives n = 4; B must be .*4, 5"),
    Wrong("B keys", of(attention, B=ones(N, 6)), r"B has shape \(4, 6\): its m is 6, but A2 gives m = 5; B must be"),
    Wrong("B transposed", of(attention, B=ones(M, N)), r"B has shape \(5, 4\): its n is 5, but A1 gives n = 4"),
    Wrong("A3 keys", of(layer, A3=ones(4, D3)), r"A3 has shape \(4, 6\): its m is 4, but A2 gives m = 5"),
    Wrong("B rows, layer", of(layer, B=ones(3, C)), r"B has shape \(3, 7\): its n is 3, but A1 gives n = 4"),
    Wrong("no queries", of(attention, A1=ones(0, D1)), r"A1 has shape \(0, 3\): an empty axis"),
    Wrong("no features", of(attention, A1=ones(N, 0)), r"A1 has shape \(4, 0\): an empty axis"),
    Wrong("no documents", of(attention, A1=ones(0, N, D1)), r"A1 has shape \(0, 4, 3\): an empty axis"),
    Wrong("B documents", of(attention, B=ones(2, N, M)),
          r"B has shape \(2, 4, 5\), with leading axes \(2,\), but A1 has leading axes \(\); the documents must match"),
    Wrong("A2 documents", of(attention, A2=ones(2, M, D2)), r"A2 has shape \(2, 5, 2\), with leading axes \(2,\)"),
    Wrong("A3 documents", of(layer, A3=ones(2, M, D3)), r"A3 has shape \(2, 5, 6\), with leading axes \(2,\)"),
    Wrong("leading axes swapped", lambda: attention(**(_TWO | {"B": np.swapaxes(_TWO["B"], 0, 1)})),
          r"B has shape \(3, 2, 4, 5\), with leading axes \(3, 2\), but A1 has leading axes \(2, 3\).*\(2, 3, n, m\)"),
    Wrong("leading axes merged", lambda: attention(**(_TWO | {"A2": ones(6, M, D2)})),
          r"A2 has shape \(6, 5, 2\), with leading axes \(6,\), but A1 has leading axes \(2, 3\)"),
    Wrong("layer, leading axes swapped", lambda: layer(**(many(layer, 2, 3) | {"A3": ones(3, 2, M, D3)})),
          r"A3 has shape \(3, 2, 5, 6\), with leading axes \(3, 2\), but A1 has leading axes \(2, 3\)"),
    Wrong("teacher ranks", of(teacher, K=ones(M, 3)), r"K has shape \(5, 3\): its r is 3, but Q gives r = 2"),
    Wrong("teacher documents", of(teacher, K=ones(2, M, R)), r"K has shape \(2, 5, 2\), with leading axes \(2,\)"),
    Wrong("teacher rows", lambda: attention(B=Teacher(ones(3, R), ones(M, R))), r"B.Q has shape .*its n is 3, but A1 gi"),
    Wrong("teacher keys", lambda: attention(B=Teacher(ones(N, R), ones(6, R))), r"B.K has shape .*its m is 6, but A2 gi"),
    Wrong("teacher leading axes swapped", lambda: attention(**(_TWO | {"B": Teacher(ones(3, 2, N, R), ones(3, 2, M, R))})),
          r"B.Q has shape \(3, 2, 4, 2\), with leading axes \(3, 2\), but A1 has leading axes \(2, 3\)"),
    Wrong("vector b", of(softmax, b=ones(3)), r"b has shape \(3,\): its n is 3, but A gives n = 4"),
    Wrong("vector b documents", of(softmax, b=ones(2, N)), r"b has shape \(2, 4\), with leading axes \(2,\)"),
    Wrong("vector A", of(linear, A=ones(N)), r"A has shape \(4,\); it must be \(…, n, d\)"),
    Wrong("mixed dtypes", of(attention, A2=ones(M, D2, dtype=SINGLE)),
          r"one dtype, but have A1 float64, A2 float32, B float64; cast them with .astype"),
    Wrong("mixed dtypes, layer", of(layer, A3=ones(M, D3, dtype=SINGLE)), r"A3 float32, B float64; cast them"),
    Wrong("mixed dtypes, teacher", of(teacher, K=ones(M, R, dtype=SINGLE)), r"Q float64, K float32; cast them"),
    Wrong("mixed dtypes, single", of(softmax, b=ones(N, dtype=SINGLE)), r"A float64, b float32; cast them"),
    Wrong("teacher of another dtype", lambda: attention(B=Teacher(ones(N, R, dtype=SINGLE), ones(M, R, dtype=SINGLE))),
          r"A1 float64, A2 float64, B.Q float32, B.K float32; cast them"),
]  # fmt: skip

_SQUARE = dict(A2=ones(N, D2), B=ones(N, N))
OPTIONS = [
    Wrong("loss unknown", of(attention, loss="huber"), r"loss is 'huber'; it must be one of normalized, rescaled.*register"),
    Wrong("loss None", of(attention, loss=None), r"loss is None; it must be one of normalized"),
    Wrong("loss a list", of(attention, loss=["kl"]), r"loss is \['kl'\]; it must be one of normalized"),
    Wrong("loss capitals", of(attention, loss="Normalized"), r"loss is 'Normalized'; it must be one of normalized"),
    Wrong("loss of a single row", of(softmax, loss="sinh"), r"loss is 'sinh'; it must be one of normalized"),
    Wrong("causal a string", of(attention, causal="no"), r"causal is 'no', a str; it must be True or False"),
    Wrong("causal a number", of(layer, causal=1), r"causal is 1, a int; it must be True or False"),
    Wrong("causal None", of(layer, causal=None), r"causal is None, a NoneType; it must be True or False"),
    Wrong("causal not square", of(attention, causal=True), r"causal=True needs as many keys as queries.* n = 4 .* m = 5"),
    Wrong("causal not square, layer", of(layer, causal=True), r"causal=True needs as many keys as queries"),
    Wrong("kl of negative targets", of(attention, loss="kl", B=-ones(N, M)),
          r"B has 20 negative entries of 20, down to -1; loss 'kl' needs targets of at least 0"),
    Wrong("kl of a negative row", of(softmax, loss="kl", b=np.array([0.5, 0.7, -0.2, 0])), r"b has 1 negative entries of 4"),
    Wrong("unknown option", of(attention, bias=1.0), "unexpected keyword argument 'bias'", TypeError),
    Wrong("unknown option, layer", of(layer, loss="kl"), "unexpected keyword argument 'loss'", TypeError),
    Wrong("unknown option, single", lambda: SoftmaxRegression(ones(N, D2), ones(N), mask=None),
          "unexpected keyword argument 'mask'", TypeError),
    Wrong("unknown option, linear", lambda: LinearRegression(ones(N, D2), ones(N), weight=1.0),
          "unexpected keyword argument 'weight'", TypeError),
    Wrong("missing targets", lambda: attention.build(A1=ones(N, D1), A2=ones(M, D2)), "missing 1 required.*'B'", TypeError),
    Wrong("ridge inside jit, no scalar", lambda: jax.jit(lambda r: attention(ridge=r).ridge)(ones(3)),
          r"ridge has shape \(3,\) and dtype float64; it must be a floating scalar"),
    Wrong("shapes inside jit", lambda: jax.jit(lambda a: attention(A1=a).ridge)(ones(3, D1)),
          r"B has shape \(4, 5\): its n is 4, but A1 gives n = 3"),
]  # fmt: skip


def _masks(build, name):
    full = r"\(4, 5\)"
    return [
        Wrong(f"{name}: mask of numbers", of(build, mask=ones(N, M)), r"mask has dtype float64; it must be boolean, True where"),
        Wrong(f"{name}: mask of integers", of(build, mask=ones(N, M, dtype=int)), r"mask has dtype int64; it must be boolean"),
        Wrong(f"{name}: mask a string", of(build, mask="causal"), r"mask has dtype <U6; it must be boolean"),
        Wrong(f"{name}: mask ragged", of(build, mask=[[True], [True, False]]), r"mask is not an array .*must broadcast"),
        Wrong(f"{name}: mask empty", of(build, mask=ones(0, M, dtype=bool)), r"mask has shape \(0, 5\): an empty axis"),
        Wrong(f"{name}: mask without keys", of(build, mask=ones(N, 0, dtype=bool)), r"mask has shape \(4, 0\): an empty axis"),
        Wrong(f"{name}: mask transposed", of(build, mask=ones(M, N, dtype=bool)),
              rf"mask has shape \(5, 4\); it must broadcast to \(documents, n, m\) = {full}"),
        Wrong(f"{name}: mask documents", of(build, mask=ones(2, N, M, dtype=bool)), r"mask has shape \(2, 4, 5\); it must br"),
        Wrong(f"{name}: mask of swapped documents", lambda: build(**many(build, 2, 3), mask=ones(3, 2, N, M, dtype=bool)),
              r"mask has shape \(3, 2, 4, 5\); it must broadcast to \(documents, n, m\) = \(2, 3, 4, 5\)"),
        Wrong(f"{name}: mask of merged documents", lambda: build(**many(build, 2, 3), mask=ones(6, N, M, dtype=bool)),
              r"mask has shape \(6, 4, 5\); it must broadcast to \(documents, n, m\) = \(2, 3, 4, 5\)"),
        Wrong(f"{name}: weight shape", of(build, weight=ones(N, 4)), rf"weight has shape \(4, 4\); it must broadcast.* {full}"),
        Wrong(f"{name}: weight of swapped documents", lambda: build(**many(build, 2, 3), weight=ones(3, 2, 1, 1)),
              r"weight has shape \(3, 2, 1, 1\); it must broadcast to \(documents, n, m\) = \(2, 3, 4, 5\)"),
        Wrong(f"{name}: weight empty", of(build, weight=ones(N, 0)), r"weight has shape \(4, 0\): an empty axis"),
        Wrong(f"{name}: weight NaN", of(build, weight=np.nan), r"weight is nan; it must be a finite number"),
        Wrong(f"{name}: weight has a NaN", of(build, weight=np.nan * ones(N, M)), r"weight has 20 NaN or infinite entries"),
        Wrong(f"{name}: weight complex", of(build, weight=1j), r"weight is 1j, a complex; it must be a number"),
        Wrong(f"{name}: weight complex array", of(build, weight=1j * ones(N, M)), r"weight has dtype complex128; it must be fl"),
        Wrong(f"{name}: weight integers", of(build, weight=ones(N, M, dtype=int)), r"weight has dtype int64; it must be float"),
        Wrong(f"{name}: weight a string", of(build, weight="1"), r"weight is '1', a str; it must be a number"),
        Wrong(f"{name}: weight a flag", of(build, weight=True), r"weight is True, a bool; it must be a number"),
        Wrong(f"{name}: weight of another dtype", of(build, weight=ones(N, M, dtype=SINGLE)),
              r"weight has dtype float32, the data have float64; cast one of them"),
    ]  # fmt: skip


def _ridges(build, kind, name):
    return [
        Wrong(f"{kind}: {name} {label}", of(build, **{name: value}), rf"{name} {words}")
        for label, value, words in (
            ("negative", -1.0, r"is -1.0; it must be at least 0"),
            ("NaN", float("nan"), r"is nan; it must be a finite number"),
            ("infinite", np.inf, r"is inf; it must be a finite number"),
            ("a string", "0.1", r"is '0.1', a str; it must be a number"),
            ("a flag", True, r"is True, a bool; it must be a number"),
            ("None", None, r"is None, a NoneType; it must be a number"),
            ("complex", 1j, r"is 1j, a complex; it must be a number"),
            ("an array", ones(3), r"has shape \(3,\); it must be a scalar"),
            ("a list", [0.1], r"has shape \(1,\); it must be a scalar"),
            ("a negative array", jnp.asarray(-2.0), r"is -2.0; it must be at least 0"),
        )
    ]


CALLS = [*SHAPES, *OPTIONS, *_masks(attention, "attention"), *_masks(layer, "one layer")]
CALLS += [*_ridges(attention, "attention", "ridge"), *_ridges(layer, "one layer", "ridge")]
CALLS += _ridges(layer, "one layer", "ridge_y")
CALLS += [
    Wrong("value weight shape", of(layer, value_weight=ones(4)), r"value_weight has shape \(4,\); it must broadcast to .* \(5,\)"),
    Wrong("value weight NaN", of(layer, value_weight=np.nan), r"value_weight is nan; it must be a finite number"),
    Wrong("value weight empty", of(layer, value_weight=ones(0)), r"value_weight has shape \(0,\): an empty axis"),
    Wrong("value weight a string", of(layer, value_weight="1"), r"value_weight is '1', a str; it must be a number"),
    Wrong("softmax: weight shape", of(softmax, weight=ones(3)), r"weight has shape \(3,\); it must broadcast to \(4,\)"),
    Wrong("softmax: weight a string", of(softmax, weight="w"), r"weight is 'w', a str; it must be a number"),
    Wrong("softmax: ridge", of(softmax, ridge="0"), r"ridge is '0', a str; it must be a number"),
    Wrong("linear: ridge", of(linear, ridge=-1), r"ridge is -1; it must be at least 0"),
    Wrong("ridge beyond float32", lambda: attention(**{k: v.astype(SINGLE) for k, v in many(attention).items()}, ridge=1e39),
          r"ridge is 1e\+39, too large for the data's float32; cast the data or take less"),
]  # fmt: skip
