"""Joint closed forms in (X, Y) against autodiff of the definition and against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from tests.objectives.one_layer_cases import CASES, autodiff, build
from tests.oracles import one_layer as oracle

EPS = float(jnp.finfo(jnp.float64).eps)


def natural(problem, params) -> float:
    """Size of the terms that cancel in a derivative: Σ_j (‖a‖‖K‖ (1 + ‖AY‖ + ‖b‖))², at least 1."""
    values = float(jnp.linalg.norm(problem.A3)) * (1 + float(jnp.linalg.norm(params.Y)))
    data = float(jnp.linalg.norm(problem.A1) * jnp.linalg.norm(problem.A2)) + 1
    weight = 0.0 if problem.weight is None else float(jnp.max(problem.weight))
    return 1 + (data * (1 + values + float(jnp.linalg.norm(problem.B)) + weight)) ** 2


@jax.jit
def closed_forms(objective, params):
    value, gradient, hessian = objective.value_grad_hessian(params)
    return value, ravel_pytree(gradient)[0], hessian


@functools.partial(jax.jit, static_argnames=("gauss_newton",))
def products(objective, params, v, gauss_newton):
    lines = [objective.linearize(params, gauss_newton=gauss_newton, cache=cache) for cache in ("none", "blocks")]
    hessian = objective.value_grad_hessian(params, gauss_newton=gauss_newton)[2]
    return hessian @ ravel_pytree(v)[0], [ravel_pytree(line.hvp(v))[0] for line in lines]


def close(have, want, scale, factor=200.0):
    assert float(jnp.max(jnp.abs(have - want))) <= factor * EPS * scale


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_hessian_agree_with_autodiff(name):
    problem, params = build(name)
    have = closed_forms(OneLayerObjective(problem, block_rows=2), params)
    for mine, theirs in zip(have, autodiff(problem, params), strict=True):
        close(mine, theirs, natural(problem, params))


@pytest.mark.parametrize("gauss_newton", [False, True])
@pytest.mark.parametrize("name", ["all_widths_differ", "weighted", "values"])
def test_hvp_is_the_hessian_times_a_vector_cached_and_streamed(name, gauss_newton):
    problem, params = build(name)
    objective = OneLayerObjective(problem, block_rows=3)
    vector, unravel = ravel_pytree(params)
    v = unravel(jax.random.normal(jax.random.key(5), vector.shape))
    want, have = products(objective, params, v, gauss_newton)
    for product in have:
        close(product, want, natural(problem, params) * 10)


@pytest.mark.parametrize("name", ["all_widths_differ", "weighted", "values"])
def test_gauss_newton_is_the_residual_jacobian_squared(name):
    problem, params = build(name)
    vector, unravel = ravel_pytree(params)
    k, n, m = problem.sizes[:3]
    mask = jnp.ones((k, n, m), bool) if problem.mask is None else jnp.broadcast_to(problem.mask, (k, n, m))

    def residuals(v):
        p = unravel(v)
        S = jnp.einsum("kna,ab,kmb->knm", problem.A1, p.X, problem.A2)
        F = jnp.where(mask, jax.nn.softmax(S, axis=-1, where=mask), 0)
        R = jnp.einsum("knm,kmd,dc->knc", F, problem.A3, p.Y) - problem.B
        weighted = 0.0 * S if problem.weight is None else jnp.where(mask, problem.weight * S, 0) / jnp.sqrt(2.0)
        ridges = jnp.sqrt(problem.ridge / 2) * p.X, jnp.sqrt(problem.ridge_y / 2) * p.Y
        values = 0.0 if problem.value_weight is None else problem.value_weight / jnp.sqrt(2.0)
        values = values * jnp.einsum("kmd,dc->kmc", problem.A3, p.Y)
        return jnp.concatenate([R.ravel(), weighted.ravel(), values.ravel(), ridges[0].ravel(), ridges[1].ravel()])

    J = jax.jit(jax.jacfwd(residuals))(vector)
    close(jax.jit(OneLayerObjective(problem).gauss_newton)(params), 2 * J.T @ J, natural(problem, params))


@pytest.mark.parametrize("name", ["square", "all_widths_differ"])
def test_a_problem_that_jit_closes_over_gives_the_same_matrix_as_one_that_it_is_given(name):
    """XLA of jax 0.7.0 to 0.8.1 folded the constants of a closed-over problem wrongly, by more than the largest entry
    of the Gauss–Newton matrix, without a word; hence the lower bound of pyproject.toml."""
    problem, params = build(name)
    objective = OneLayerObjective(problem)
    given = jax.jit(lambda o, x: o.gauss_newton(x))(objective, params)
    closed_over = jax.jit(lambda x: objective.gauss_newton(x))(params)
    close(closed_over, given, natural(problem, params))


@pytest.mark.parametrize("name", CASES)
def test_value_agrees_with_numpy(name):
    problem, params = build(name)
    k, n, m = problem.sizes[:3]
    mask = np.ones((k, n, m), bool) if problem.mask is None else np.asarray(problem.mask)
    mask = mask & np.tril(np.ones((n, m), bool)) if problem.causal else mask
    weight = 0.0 if problem.weight is None else np.asarray(problem.weight)
    data = [np.asarray(x) for x in (*params, problem.A1, problem.A2, problem.A3, problem.B)]
    values = 0.0 if problem.value_weight is None else np.asarray(problem.value_weight)
    want = oracle.loss(*data, mask, weight, float(problem.ridge), float(problem.ridge_y), values)
    close(OneLayerObjective(problem).value(params), want, natural(problem, params))


@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_flat_and_peaked_attention(scale):
    problem, params = build("all_widths_differ", scale=scale)
    unit = natural(problem, params) * max(1.0, scale * float(jnp.linalg.norm(problem.A1) * jnp.linalg.norm(problem.A2)))
    have = closed_forms(OneLayerObjective(problem), params)
    for mine, theirs in zip(have, autodiff(problem, params), strict=True):
        close(mine, theirs, unit)


def test_float32_agrees_with_float64():
    problem, params = build("documents")
    low = jax.tree.map(lambda x: x.astype(jnp.float32), (problem, params))
    value, gradient, hessian = OneLayerObjective(low[0]).value_grad_hessian(low[1])
    assert {x.dtype for x in jax.tree.leaves((value, gradient, hessian))} == {jnp.dtype(jnp.float32)}
    want = OneLayerObjective(problem).value_grad_hessian(params)
    bound = 20 * float(jnp.finfo(jnp.float32).eps) * natural(problem, params)
    for have, full in zip(jax.tree.leaves((value, gradient, hessian)), jax.tree.leaves(want), strict=True):
        assert float(jnp.max(jnp.abs(have.astype(jnp.float64) - full))) <= bound


def test_preconditioner_has_the_trace_of_the_gauss_newton_matrix_when_probes_are_exact():
    # With one output channel a sign vector is exact: (N y ω)(N y ω)ᵀ = N y yᵀ Nᵀ.
    problem, params = build("narrow_output")
    objective = OneLayerObjective(problem)
    hessian = objective.gauss_newton(params)
    p = params.X.size
    kron = objective.preconditioner(params)
    have = float(jnp.sum(kron.parts.X.eigenvalues)), float(jnp.sum(kron.parts.Y.eigenvalues))
    want = float(jnp.trace(hessian[:p, :p])), float(jnp.trace(hessian[p:, p:]))
    np.testing.assert_allclose(have, want, rtol=1e-12)


def test_the_preconditioner_has_the_values_regularizer_in_its_y_block():
    problem, params = build("values")
    p, (d3, c) = params.X.size, params.Y.shape
    objective = OneLayerObjective(problem)
    want = objective.value_grad_hessian(params)[2][p:, p:]
    apply = objective.preconditioner(params).apply
    for i in range(d3 * c):
        unit = Unknowns(jnp.zeros_like(params.X), jnp.eye(d3 * c)[i].reshape(d3, c))
        close(apply(unit).Y.ravel(), want[:, i], natural(problem, params))


@pytest.mark.parametrize(
    ("given", "shape"),
    [(0.5, (1, 1, 1)), (np.ones(5), (1, 5, 1)), (np.ones((2, 5)), (2, 5, 1)), ([0.1] * 5, (1, 5, 1))],
)
def test_a_value_weight_is_one_a_key_and_broadcasts_over_documents(given, shape):
    problem, _ = build("values")
    arrays = (problem.A1, problem.A2, problem.A3, problem.B)
    assert OneLayerRegression(*arrays, value_weight=given).value_weight.shape == shape


def test_vmap_over_points_and_the_causal_mask_equal_the_loop():
    problem, params = build("causal")
    objective = OneLayerObjective(problem, block_rows=2)
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    values = jax.vmap(objective.value)(batch)
    for i in range(2):
        one = objective.value(jax.tree.map(lambda x, i=i: x[i], batch))
        close(values[i], one, natural(problem, params))


def test_wrong_unknowns_are_refused():
    problem, params = build("square")
    with pytest.raises(ValueError, match="Y has shape"):
        OneLayerObjective(problem).value(Unknowns(params.X, params.Y[:, :1]))
    with pytest.raises(ValueError, match="X has dtype"):
        OneLayerObjective(problem).value(Unknowns(params.X.astype(jnp.float32), params.Y))
