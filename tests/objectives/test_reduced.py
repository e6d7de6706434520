"""The reduced objective against autodiff through the elimination, and against the least-squares definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.objectives.reduced import VariableProjection
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from tests.objectives.one_layer_cases import build, definition
from tests.oracles import one_layer as oracle

NAMES = ["documents", "weighted", "all_widths_differ", "values"]
EPS = float(jnp.finfo(jnp.float64).eps)


def with_ridge(name, ridge_y=0.3):
    problem, params = build(name)
    fields = {f: getattr(problem, f) for f in ("A1", "A2", "A3", "B", "mask", "causal", "weight", "ridge")}
    values = problem.value_weight
    values = None if values is None else values[..., 0]
    return OneLayerRegression(**fields, ridge_y=ridge_y, value_weight=values), params.X


def reduced(problem):
    """φ(X) by the normal equations, differentiable: the elimination inside is exact, so autodiff sees all of φ."""
    loss = definition(problem)
    k, n, m = problem.sizes[:3]
    mask = jnp.ones((k, n, m), bool) if problem.mask is None else jnp.broadcast_to(problem.mask, (k, n, m))
    mask = mask & jnp.tril(jnp.ones((n, m), bool))[None] if problem.causal else mask

    def phi(X):
        S = jnp.einsum("kna,ab,kmb->knm", problem.A1, X, problem.A2)
        F = jnp.where(mask, jax.nn.softmax(S, axis=-1, where=mask), 0)
        Z = jnp.einsum("knm,kmd->knd", F, problem.A3).reshape(k * n, -1)
        B = problem.B.reshape(k * n, -1)
        K = Z.T @ Z + problem.ridge_y / 2 * jnp.eye(Z.shape[1])
        if problem.value_weight is not None:
            K = K + jnp.einsum("kma,kmb->ab", problem.value_weight**2 * problem.A3, problem.A3) / 2
        Y = jnp.linalg.solve(K, Z.T @ B)
        return loss(Unknowns(X, Y))

    return phi


@pytest.mark.parametrize("name", NAMES)
def test_value_gradient_and_exact_hessian_agree_with_autodiff(name):
    problem, X = with_ridge(name)
    phi = reduced(problem)
    value, gradient, hessian = jax.jit(VariableProjection(problem, block_rows=2).value_grad_hessian)(X)
    p = X.size
    want = jax.jit(jax.jacfwd(jax.grad(phi)))(X).reshape(p, p)
    # The elimination is as accurate as K = 2ZᵀZ + λ is well conditioned: λ = 0.3 bounds it by ‖Z‖²/0.15.
    scale = 1e4 * (1 + float(jnp.max(jnp.abs(want))))
    np.testing.assert_allclose(value, phi(X), atol=scale * EPS)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(phi))(X), atol=scale * EPS)
    np.testing.assert_allclose(hessian, want, atol=scale * EPS)


@pytest.mark.parametrize("gauss_newton", [False, True])
@pytest.mark.parametrize("cache", ["none", "blocks"])
def test_hvp_is_the_reduced_hessian_times_a_vector(cache, gauss_newton):
    problem, X = with_ridge("weighted")
    objective = VariableProjection(problem, block_rows=3)
    hessian = objective.value_grad_hessian(X, gauss_newton=gauss_newton)[2]
    v = jax.random.normal(jax.random.key(1), X.shape)
    have = objective.linearize(X, gauss_newton=gauss_newton, cache=cache).hvp(v)
    np.testing.assert_allclose(have.ravel(), hessian @ v.ravel(), atol=1e-11 * float(jnp.max(jnp.abs(hessian))))


@pytest.mark.parametrize("name", NAMES)
def test_gauss_newton_is_positive_semidefinite(name):
    problem, X = with_ridge(name, ridge_y=1e-6)
    low = np.linalg.eigvalsh(VariableProjection(problem).gauss_newton(X))
    assert low[0] >= -1e-10 * max(1.0, low[-1])


def test_y_is_the_least_squares_solution_even_when_z_has_rank_one():
    problem, X = with_ridge("documents", ridge_y=0.0)
    for scale in (0.0, 1e-9, 1.0):
        objective = VariableProjection(problem)
        Z, B = np.asarray(objective.joint.attended(scale * X)), np.asarray(problem.B.reshape(-1, 3))
        Y = objective.complete(scale * X).Y
        assert bool(jnp.all(jnp.isfinite(Y)))
        want = oracle.best_y(Z, B, 0.0)
        have, best = (np.sum((Z @ y - B) ** 2) for y in (np.asarray(Y), want))
        assert have <= best + 1e-9 * np.sum(B**2)


def test_uniform_attention_has_a_finite_modest_y():
    # One document at X = 0: every row of Z is the mean value vector, and B is nowhere near a multiple of it.
    problem, X = build("square")
    params = VariableProjection(problem).complete(jnp.zeros_like(X.X))
    assert float(jnp.linalg.norm(params.Y)) <= 10 * float(jnp.linalg.norm(problem.B)) / float(
        jnp.linalg.norm(jnp.mean(problem.A3, axis=1))
    )


def test_value_equals_the_joint_value_at_the_completed_point():
    problem, X = with_ridge("masked")
    objective = VariableProjection(problem)
    joint = OneLayerObjective(problem).value(objective.complete(X))
    np.testing.assert_allclose(objective.value(X), joint, rtol=1e-13)


def test_wrong_unknown_is_refused():
    problem, X = with_ridge("documents")
    with pytest.raises(ValueError, match="X has shape"):
        VariableProjection(problem).value(X.T)
