"""What objectives promise beyond the loss contract: block sizes, caches, the Kronecker estimate, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.lift import tensor_trick as tt
from attnreg.objectives import attention
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems import loss_names
from attnreg.problems.attention import AttentionRegression
from tests.contract import loss_cases as cases

EPS = float(np.finfo(np.float64).eps)


def objective(loss="normalized", block_rows=None, *, n=7, m=5, d1=3, d2=2, documents=2, condition=1.0, **options):
    rng = np.random.default_rng(0)
    spread = [condition ** -np.linspace(0, 1, d) for d in (d1, d2)]
    A1, A2 = rng.normal(size=(documents, n, d1)) * spread[0], rng.normal(size=(documents, m, d2)) * spread[1]
    B = rng.dirichlet(np.ones(m), (documents, n))
    return AttentionObjective(AttentionRegression(A1, A2, B, loss=loss, **options), block_rows)


# Compiled once per structure: method by method, operation by operation would cost a compilation each.
value = jax.jit(lambda o, X: o.value(X))
preconditioner = jax.jit(lambda o, X: o.preconditioner(X))
gauss_newton = jax.jit(lambda o, X: o.gauss_newton(X))
hvp = jax.jit(lambda o, X, V: o.hvp(X, V))


def point(seed=1, shape=(3, 2)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("block_rows", [1, 3])
def test_block_size_changes_only_rounding(block_rows):
    X, V = point(), point(2)
    expected = cases.second_order(objective().problem, X, V, None)
    for name, value in cases.second_order(objective().problem, X, V, block_rows).items():
        atol = 64 * EPS * float(jnp.max(jnp.abs(expected[name])))
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("loss", loss_names())
def test_agreement_with_autodiff_does_not_decay_with_size(loss, monkeypatch):
    """Blocks of rows and of keys at a size where sums have hundreds of terms: norms agree to 100 eps."""
    monkeypatch.setattr(tt, "SQUARE_ENTRIES", 2**11)
    rng = np.random.default_rng(6)
    mask, weight = rng.random((2, 300, 257)) < 0.7, 0.1 * rng.normal(size=(2, 300, 257))
    o = objective(loss, n=300, m=257, d1=8, d2=6, mask=mask, weight=weight, ridge=0.1)
    X, V = point(1, (8, 6)) / 4, point(2, (8, 6))
    got, expected = cases.closed_forms(o.problem, X, V, 64), cases.differentiated(o.problem, X, V)
    for name, value in expected.items():
        assert np.linalg.norm(got[name] - value) <= 100 * EPS * np.linalg.norm(value), name


def test_auto_cache_takes_the_cheapest_that_fits(monkeypatch):
    small, wide = objective(), objective(n=4, m=3, d1=2, d2=6)
    assert small._choose_cache("auto") == "blocks"
    assert wide._choose_cache("auto") == "entries", "d2² > 2m: cached blocks cost more than the rows"
    monkeypatch.setattr(attention, "CACHE_BYTES", 8)
    assert small._choose_cache("auto") == wide._choose_cache("auto") == "none"


@pytest.mark.parametrize("loss", ["normalized", "sinh_rescaled"])
def test_kronecker_estimate_is_psd_and_keeps_the_trace(loss):
    o, X = objective(loss, weight=0.3, ridge=0.1), point() / 3
    K = preconditioner(o, X)
    assert float(jnp.min(K.eigenvalues)) >= 0
    trace = float(jnp.trace(gauss_newton(o, X)))
    assert float(jnp.sum(K.eigenvalues) + X.size * K.shift) == pytest.approx(trace, rel=1e3 * EPS)


def test_kronecker_estimate_is_exact_when_all_rows_curve_alike():
    o, X, V = objective("linear", documents=1, ridge=0.1), point(), point(2)
    np.testing.assert_allclose(preconditioner(o, X).apply(V), hvp(o, X, V), rtol=1e3 * EPS)


def test_kronecker_estimate_beats_none_as_a_preconditioner():
    o, X = objective(n=32, m=32, d1=4, d2=4, condition=30.0, documents=1), jnp.zeros((4, 4))
    H = np.asarray(gauss_newton(o, X))
    K = preconditioner(o, X)
    damping = 1e-6 * np.trace(H) / 16
    H = H + damping * np.eye(16)
    solve = jax.jit(jax.vmap(lambda column: K.shifted_solve(column.reshape(4, 4), damping).ravel()))
    spread = np.abs(np.linalg.eigvals(np.asarray(solve(jnp.asarray(H.T))).T))
    assert np.max(spread) / np.min(spread) < np.linalg.cond(H) / 100


def test_gauge_directions_change_nothing():
    """X + v wᵀ with A2 w = 1 leaves softmax alone: no gradient and no curvature along it."""
    rng = np.random.default_rng(5)
    A1, A2, X = rng.normal(size=(6, 3)), np.c_[rng.normal(size=(8, 2)), np.ones(8)], rng.normal(size=(3, 3))
    B = rng.dirichlet(np.ones(8), 6)
    o = AttentionObjective(AttentionRegression(A1, A2, B))
    shift = np.outer(rng.normal(size=3), [0, 0, 1.0])
    here, gradient = jax.jit(lambda o, X: o.value_and_grad(X))(o, X)
    assert float(value(o, X + shift)) == pytest.approx(float(here), rel=64 * EPS)
    assert abs(np.vdot(gradient, shift)) <= 256 * EPS
    np.testing.assert_allclose(hvp(o, X, shift), 0, atol=1024 * EPS)


def test_documents_share_one_unknown():
    o, X = objective(), point()
    p = o.problem
    single = [AttentionObjective(AttentionRegression(p.A1[i], p.A2[i], p.B[i])) for i in range(2)]
    assert float(value(o, X)) == pytest.approx(sum(float(value(s, X)) for s in single), rel=64 * EPS)


def test_unknowns_of_the_wrong_kind_are_refused():
    o = objective()
    with pytest.raises(ValueError, match=r"X has shape \(2, 3\); it must be \(3, 2\)"):
        o.value_and_grad(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="X has dtype float32, the data have float64"):
        o.value(jnp.zeros((3, 2), jnp.float32))
    with pytest.raises(ValueError, match="cache is 'all'; it must be"):
        o.linearize(o.zeros(), cache="all")


def test_zeros_have_the_shape_and_dtype_of_the_unknown():
    o = objective()
    assert o.zeros().shape == (3, 2)
    assert o.zeros().dtype == jnp.float64
