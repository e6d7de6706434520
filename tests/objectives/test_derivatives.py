"""Derivatives that JAX takes of objectives are the closed forms: finite where autodiff is not, in every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.objectives import AttentionObjective, FactoredObjective, OneLayerObjective, VariableProjection
from attnreg.problems import AttentionRegression, OneLayerRegression, Unknowns
from attnreg.problems.registry import loss_names
from tests.solvers.test_every_objective import OBJECTIVES

EPS = float(np.finfo(np.float64).eps)
MODES = {
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "forward over reverse": lambda f: jax.jacfwd(jax.jacrev(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
}


def masked(dtype, seed=0):
    """Arrays of 6 queries and 5 keys, three in ten of them masked."""
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 5)) < 0.7
    mask[:, 0] = True
    A1, A2, A3 = rng.normal(size=(6, 3)), rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    return *(x.astype(dtype) for x in (A1, A2, A3, rng.dirichlet(np.ones(5), 6))), mask


def sharp(loss):
    """A masked float32 problem and unknowns with logits near 300, far from what float32 can take the exp of."""
    A1, A2, A3, B, mask = masked(np.float32)
    X = jnp.full((3, 2), 100.0, jnp.float32)
    if loss == "one layer":
        problem = OneLayerRegression(A1, A2, A3, A1, mask=mask)
        return OneLayerObjective(problem), Unknowns(X, jnp.ones((2, 3), jnp.float32))
    if loss == "reduced":
        return VariableProjection(OneLayerRegression(A1, A2, A3, A1, mask=mask)), X
    problem = AttentionRegression(A1, A2, B, loss=loss, mask=mask)
    if loss == "linear":
        return FactoredObjective(problem, 2), FactoredObjective(problem, 2).start()
    return AttentionObjective(problem), X


@pytest.mark.parametrize("loss", [*loss_names(), "one layer", "reduced"])
def test_the_gradient_of_a_masked_float32_value_at_large_logits_is_the_closed_form(loss):
    objective, x = sharp(loss)
    if loss not in ("linear", "one layer", "reduced"):
        assert float(jnp.max(jnp.abs(objective.problem.A1[0] @ x @ objective.problem.A2[0].T))) > 250
    _, expected = objective.value_and_grad(x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    jax.tree.map(np.testing.assert_array_equal, jax.grad(objective.value)(x), expected)
    many = jax.tree.map(lambda a: jnp.stack([a, a]), x)
    mapped = jax.jit(jax.vmap(jax.grad(objective.value)))(many)
    size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=0, atol=1e-4 * size), mapped, expected)
    _, along = jax.jvp(objective.value, (x,), (expected,))
    assert np.isfinite(float(along)) or loss in ("rescaled", "cosh_rescaled", "sinh_rescaled")


@pytest.mark.parametrize("loss", loss_names())
def test_the_derivative_in_the_data_is_finite_too(loss):
    objective, x = sharp(loss)
    slope = jax.grad(lambda p: type(objective)(p, *([2] if loss == "linear" else [])).value(x), allow_int=True)
    of_data = slope(objective.problem)
    assert np.isfinite(of_data.A1).all()
    assert np.isfinite(of_data.A2).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_first_and_second_derivatives_in_the_unknowns_are_the_closed_forms(name):
    objective = OBJECTIVES[name]()
    flat, unravel = ravel_pytree(objective.start())
    flat = flat + 0.1

    def value(z):
        return objective.value(unravel(z))

    gradient = ravel_pytree(objective.value_and_grad(unravel(flat))[1])[0]
    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(mode(value)(flat), gradient, rtol=0, atol=64 * EPS * np.max(np.abs(gradient)))
    if not hasattr(objective, "hessian"):
        return
    H = np.asarray(objective.hessian(unravel(flat)))
    for mode, of in MODES.items():
        np.testing.assert_allclose(of(value)(flat), H, rtol=0, atol=256 * EPS * np.max(np.abs(H)), err_msg=mode)


@pytest.mark.parametrize("name", ["AttentionObjective", "FactoredObjective", "OneLayerObjective", "VariableProjection"])
def test_derivatives_in_the_data_are_those_of_differences(name):
    objective = OBJECTIVES[name]()
    x = jax.tree.map(lambda a: a + 0.1, objective.start())
    rng = np.random.default_rng(1)
    A1, B = (jnp.asarray(rng.normal(size=a.shape)) for a in (objective.problem.A1, objective.problem.B))

    def loss(t):
        p = objective.problem
        made = type(p)(**{f: getattr(p, f) for f in p.__dataclass_fields__} | dict(A1=p.A1 + t * A1, B=p.B + t * B))
        moved = type(objective)(made, *([objective.rank] if name == "FactoredObjective" else []))
        return moved.value(jax.tree.map(lambda a: a * (1 + t), x))

    step = 1e-5
    want = (float(loss(jnp.asarray(step))) - float(loss(jnp.asarray(-step)))) / (2 * step)
    for mode in (jax.grad, jax.jacfwd):
        assert float(mode(loss)(jnp.asarray(0.0))) == pytest.approx(want, rel=1e-6)
