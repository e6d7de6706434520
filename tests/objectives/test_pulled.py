"""A pull towards a point adds ½ weight ‖x − centre‖² to any objective, in every quantity that a solver asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.objectives import AttentionObjective, FactoredObjective, Factors, LayerObjective, Pulled, jet_problem
from attnreg.problems import AttentionRegression, LayerRegression, OneLayerRegression, ProblemError

EPS = float(np.finfo(np.float64).eps)
WEIGHT = 0.7


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def factored():
    A1, A2, S = draw(0, (2, 5, 3), (2, 4, 3), (2, 5, 4))
    objective = FactoredObjective(AttentionRegression(A1, A2, jax.nn.softmax(S, axis=-1)), rank=2)
    centre, x, v = (Factors(*draw(seed, (3, 2), (3, 2))) for seed in (1, 2, 3))
    return objective, centre, x, v


def plain(objective, centre, x):
    """The loss as one would write it on paper."""
    data = objective.problem
    f = jax.nn.softmax(jnp.einsum("knd,dr,er,kme->knm", data.A1, x.Q, x.K, data.A2), axis=-1)
    away = ravel_pytree(x)[0] - ravel_pytree(centre)[0]
    return jnp.sum((f - data.B) ** 2) + WEIGHT / 2 * jnp.sum(away**2)


def close(got, want, scale=None):
    """Within 100 eps of the largest entry of what is wanted."""
    got, want = (np.asarray(ravel_pytree(x)[0]) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=0, atol=100 * EPS * max(1.0, np.max(np.abs(want))))


def test_every_quantity_is_that_of_the_plain_loss():
    objective, centre, x, v = factored()
    pulled = Pulled(objective, centre, jnp.asarray(WEIGHT))
    flat, back = ravel_pytree(x)
    definition = lambda flat: plain(objective, centre, back(flat))  # noqa: E731
    value, gradient = jax.value_and_grad(definition)(flat)
    H = jax.hessian(definition)(flat)
    close(pulled.value(x), value)
    close(pulled.value_and_grad(x), (value, gradient))
    close(jax.grad(pulled.value)(x), gradient)
    close(pulled.value_grad_hessian(x), (value, gradient, H))
    for cache in ("none", "entries"):
        line = pulled.linearize(x, cache=cache)
        close((line.value, line.gradient, line.hvp(v)), (value, gradient, H @ ravel_pytree(v)[0]))


def test_gauss_newton_and_preconditioner_gain_the_weight_on_their_diagonal():
    objective, centre, x, v = factored()
    pulled = Pulled(objective, centre, jnp.asarray(WEIGHT))
    plus = lambda y: jax.tree.map(lambda a, b: a + WEIGHT * b, y, v)  # noqa: E731
    close(pulled.gauss_newton(x), objective.gauss_newton(x) + WEIGHT * np.eye(12))
    close(pulled.linearize(x, gauss_newton=True).hvp(v), plus(objective.linearize(x, gauss_newton=True).hvp(v)))
    close(pulled.preconditioner(x).apply(v), plus(objective.preconditioner(x).apply(v)))


def test_it_starts_at_the_centre_where_the_pull_is_nothing():
    objective, centre, _, _ = factored()
    pulled = Pulled(objective, centre, jnp.asarray(WEIGHT))
    assert pulled.start() is centre
    assert float(pulled.value(centre)) == float(objective.value(centre))
    assert pulled.costs() == objective.costs()


@pytest.mark.parametrize("name", ["matrix", "layer"])
def test_any_second_order_objective_can_be_pulled(name):
    A1, A2, B = draw(4, (1, 4, 2), (1, 4, 2), (1, 4, 4))
    objective = {
        "matrix": lambda: AttentionObjective(AttentionRegression(A1, A2, B)),
        "layer": lambda: LayerObjective(LayerRegression(A1, B), heads=2, rank=1),
    }[name]()
    x = jax.tree.map(lambda a: jnp.full_like(a, 0.3), objective.zeros())
    pulled = Pulled(objective, objective.zeros(), jnp.asarray(WEIGHT))
    close(
        pulled.preconditioner(x).apply(x),
        jax.tree.map(lambda a, b: a + WEIGHT * b, objective.preconditioner(x).apply(x), x),
    )
    close(pulled.value(x), objective.value(x) + WEIGHT / 2 * 0.09 * ravel_pytree(x)[0].size)


def test_float32_stays_float32():
    objective, centre, x, _ = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), factored())
    pulled = Pulled(objective, centre, jnp.float32(WEIGHT))
    value, gradient = pulled.value_and_grad(x)
    assert {leaf.dtype for leaf in (value, *gradient)} == {jnp.dtype(jnp.float32)}


def test_what_cannot_be_pulled_is_refused():
    objective, centre, x, _ = factored()
    with pytest.raises(ProblemError, match=r"centre\.K has shape \(2, 2\)"):
        Pulled(objective, Factors(centre.Q, centre.K[:2]), jnp.asarray(1.0))
    with pytest.raises(ProblemError, match="weight has shape"):
        Pulled(objective, centre, jnp.ones(2))
    A1, A2, B = draw(5, (4, 2), (4, 2), (4, 2))
    with pytest.raises(ProblemError, match="objective is a JetObjective; it must be a SecondOrderObjective"):
        Pulled(jet_problem(OneLayerRegression(A1, A2, A2, B)), x, jnp.asarray(1.0))
