"""Kernels, interpreted: the numbers of the closed forms on every shape, and streamed rows where there is no kernel.

Both layouts run here, that of a GPU (masked loads, powers of two) and that of a TPU (keys across, blocks that reach
over the end). What the two compilers make of them: tests/accelerators. The oracle is that of the contract of losses.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.flatten_util import ravel_pytree

from attnreg.lift.sweeps import TILES, Tiles
from attnreg.objectives import AttentionObjective, OneLayerObjective, fused
from attnreg.problems import AttentionRegression, ProblemError, Teacher
from attnreg.problems.checks import replaced
from tests.contract import loss_cases as cases
from tests.contract.test_losses_contract import ALLOWED, EPS32, any_case, values
from tests.objectives import one_layer_cases
from tests.objectives.test_one_layer import natural
from tests.oracles import lifted, rows

# Tiles that no shape below is a multiple of, several to a row.
SMALL = {name: Tiles(name, 4, 4, 64, interpret=True) for name in ("triton", "mosaic")}
both = pytest.mark.parametrize("compiler", list(SMALL))
some = {name: strategy for name, strategy in any_case.items() if name != "weight"}


@functools.partial(jax.jit, static_argnames="tiles")
def by_kernels(problem, X, V, tiles):
    objective = AttentionObjective(problem, kernel=tiles)
    assert fused.tiles_for(objective) == tiles
    value, gradient = objective.value_and_grad(X)
    return {
        "value": value,
        "value alone": objective.value(X),
        "gradient": gradient,
        "hvp, cache none": objective.hvp(X, V),
        "gauss_newton hvp": objective.hvp(X, V, gauss_newton=True),
    }


def errors(case, compiler):
    got = by_kernels(replaced(case.problem, weight=None), case.X, case.V, SMALL[compiler])
    assert {x.dtype for x in got.values()} == {np.dtype(np.float32)}
    return cases.errors(got, case, EPS32)


def check(case, compiler):
    found = errors(case, compiler)
    assert max(found.values()) <= ALLOWED, found


@both
@values
@given(**some)
def test_kernels_match_the_oracle_of_the_contract(compiler, **options):
    """Sizes of logits to 1000, targets of every kind, masks that leave rows and columns without a key."""
    check(
        cases.draw(options.pop("seed"), "normalized", dtype=np.float32, weight=0.0, empty_rows=True, **options),
        compiler,
    )


@both
@pytest.mark.parametrize("shape", [shape for shape in cases.SHAPES if shape != "uneven blocks"])
def test_degenerate_shapes(compiler, shape):
    for seed in range(3):
        check(cases.draw(seed, "normalized", shape=shape, dtype=np.float32, weight=0.0), compiler)


def drawn(seed, k=2, n=9, m=9, d1=3, d2=2, *, mask=None, causal=False, teacher=False, size=1.0):
    """A case in float32 with any of a mask, a causal order and a teacher."""
    rng = np.random.default_rng(seed)
    A1, A2, X, V = (rng.normal(size=s).astype("f") for s in ((k, n, d1), (k, m, d2), (d1, d2), (d1, d2)))
    X *= np.float32(size)
    allowed = np.ones((k, n, m), bool) if mask is None else np.broadcast_to(mask, (k, n, m))
    allowed = allowed & np.tri(n, m, dtype=bool) if causal else allowed
    if teacher:
        Q, K = (rng.normal(size=s).astype("f") for s in ((k, n, 3), (k, m, 3)))
        S = np.where(allowed, lifted.extended(Q) @ lifted.extended(K).swapaxes(1, 2), -np.inf)
        B, targets = (
            np.array([[rows.softmax(s) if np.isfinite(s).any() else 0 * s for s in d] for d in S]),
            Teacher(Q, K),
        )
    else:
        B = targets = rng.dirichlet(np.ones(m), (k, n)).astype("f")
    problem = AttentionRegression(A1, A2, targets, mask=mask, causal=causal)
    return cases.Case(lifted.Data(A1, A2, B, "normalized", allowed), problem, X, V, None)


@both
@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_causal_order_and_targets_from_factors(compiler, causal, teacher):
    for seed in range(2):
        check(drawn(seed, causal=causal, teacher=teacher), compiler)


MASKS = {
    "keys of each document": (2, 1, 9),
    "queries": (1, 9, 1),
    "pairs of all documents": (1, 9, 9),
    "one number": (1, 1, 1),
}


@both
@pytest.mark.parametrize("shape", MASKS.values(), ids=list(MASKS))
def test_masks_broadcast(compiler, shape):
    mask = np.random.default_rng(3).random(shape) < 0.6
    check(drawn(4, mask=mask), compiler)
    check(drawn(5, mask=np.zeros(shape, bool)), compiler)


@both
def test_a_masked_column_and_saturated_rows_are_finite_and_right(compiler):
    mask = np.ones((1, 1, 9), bool)
    mask[..., [0, 8]] = False
    check(drawn(6, mask=mask, size=1e4, causal=True), compiler)


def apart(a, b) -> float:
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


@both
def test_scale_moves_the_logits(compiler):
    case = drawn(7)
    scaled = replaced(case.problem, scale=jnp.asarray(0.5, jnp.float32))
    have = by_kernels(scaled, case.X, case.V, SMALL[compiler])
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), scaled)
    exact = AttentionObjective(wide)
    X, V = (jnp.asarray(x, jnp.float64) for x in (case.X, case.V))
    value, gradient = exact.value_and_grad(X)
    want = {"value": value, "gradient": gradient, "hvp, cache none": exact.hvp(X, V)}
    size = float(jnp.sum(jnp.abs(wide.A1)) * jnp.max(jnp.abs(wide.A2)) * jnp.max(jnp.abs(V)))
    for name, x in want.items():
        assert apart(have[name], x) <= ALLOWED * EPS32 * size, name


@functools.partial(jax.jit, static_argnames=("tiles", "gauss_newton"))
def layer_by(problem, params, v, tiles, gauss_newton):
    objective = OneLayerObjective(problem, kernel=tiles)
    value, gradient = objective.value_and_grad(params)
    line = objective.linearize(params, gauss_newton=gauss_newton, cache="none")
    return [value, objective.value(params), *(ravel_pytree(x)[0] for x in (gradient, line.gradient, line.hvp(v)))]


@both
@pytest.mark.parametrize("gauss_newton", [False, True])
@pytest.mark.parametrize("name", [name for name in one_layer_cases.CASES if name != "weighted"])
def test_one_layer_matches_autodiff_in_double_precision(compiler, name, gauss_newton):
    problem, params = one_layer_cases.build(name, dtype=jnp.float32)
    double = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, (problem, params))
    v = jax.tree.map(lambda x: jax.random.normal(jax.random.key(5), x.shape, x.dtype), params)
    value, gradient, hessian = one_layer_cases.autodiff(*double)
    if gauss_newton:
        hessian = jax.jit(lambda o, x: o.gauss_newton(x))(OneLayerObjective(double[0]), double[1])
    want = [value, value, gradient, gradient, hessian @ ravel_pytree(v)[0].astype(jnp.float64)]
    have = layer_by(problem, params, v, SMALL[compiler], gauss_newton)
    for mine, theirs in zip(have, want, strict=True):
        assert mine.dtype == jnp.float32
        assert apart(mine, theirs) <= ALLOWED * EPS32 * natural(*double)


def test_values_can_be_differentiated_and_mapped():
    case = drawn(8, n=5, m=5)
    objective = AttentionObjective(case.problem, kernel=SMALL["mosaic"])
    plain, X, V = objective.differentiable(), jnp.asarray(case.X), jnp.asarray(case.V)

    @jax.jit
    def derived(o, X, V):
        _, second = jax.jvp(jax.grad(o.value), (X,), (V,))
        back = jax.grad(lambda x: jnp.sum(o.value_and_grad(x)[1] * V))(X)
        data = jax.grad(lambda B: replaced(o, problem=replaced(o.problem, B=B)).value(X))(o.problem.B)
        return jax.grad(o.value)(X), second, back, data, jax.vmap(o.value)(jnp.stack([X, V]))

    for have, want in zip(derived(objective, X, V), derived(plain, X, V), strict=True):
        assert apart(have, want) <= 64 * EPS32 * (1 + float(jnp.max(jnp.abs(want))))


# The table of docs/guides/accelerators.md: what is asked for, and why its rows are streamed.
STREAMED = {
    "loss": (dict(loss="kl"), "loss 'kl'"),
    "weight": (dict(weight=0.3), "weight"),
    "soft cap": (dict(soft_cap=5.0), "soft_cap"),
}


@pytest.mark.parametrize(("options", "why"), STREAMED.values(), ids=list(STREAMED))
def test_what_has_no_kernel_is_streamed_to_the_last_bit(options, why):
    A, B = np.eye(3, 2, dtype="f"), np.full((3, 3), 1 / 3, "f")
    problem = AttentionRegression(A, A, B, **options)
    assert fused.uncovered(problem, TILES["gpu"]) == why
    same(problem)


def same(problem):
    X = jnp.full(problem.shape, 0.3, problem.dtype)
    have, want = (AttentionObjective(problem, kernel=kernel).value_and_grad(X) for kernel in ("fused", "streamed"))
    assert all(np.array_equal(a, b) for a, b in zip(have, want, strict=True))


def test_double_precision_and_wide_rows_are_streamed():
    A, B = np.eye(3, 2), np.full((3, 3), 1 / 3)
    same(AttentionRegression(A, A, B))
    assert fused.uncovered(AttentionRegression(A, A, B), TILES["gpu"]) == "dtype float64"
    wide = np.zeros((3, 65), "f")
    assert fused.uncovered(AttentionRegression(wide, wide, B.astype("f")), TILES["gpu"]) == "more than 64 columns"
    assert fused.uncovered(AttentionRegression(wide, wide, B.astype("f")), TILES["tpu"]) is None
    shapes = replaced(
        AttentionRegression(A.astype("f"), A.astype("f"), B.astype("f")),
        A1=jax.ShapeDtypeStruct((1, 2**17, 16), jnp.float32),
        A2=jax.ShapeDtypeStruct((1, 2**17, 16), jnp.float32),
        B=jax.ShapeDtypeStruct((1, 2**17, 2**17), jnp.float32),
    )
    assert "fast memory" in str(fused.uncovered(shapes, TILES["tpu"]))
    assert fused.uncovered(shapes, TILES["gpu"]) is None


def test_the_kernel_is_a_part_of_the_program_and_is_checked():
    A, B = np.eye(3, 2, dtype="f"), np.full((3, 3), 1 / 3, "f")
    problem = AttentionRegression(A, A, B)
    assert AttentionObjective(problem).kernel == "streamed"
    assert AttentionObjective(problem, kernel="fused").kernel == TILES["cpu"]
    treedefs = {jax.tree.structure(AttentionObjective(problem, kernel=kernel)) for kernel in ("streamed", "fused")}
    assert len(treedefs) == 2
    for refused in ("flash", True, None):
        with pytest.raises(ProblemError, match=r"kernel is .*; it must be one of 'streamed', 'fused'"):
            AttentionObjective(problem, kernel=refused)
