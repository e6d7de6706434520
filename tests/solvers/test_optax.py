"""First-order solvers: monotone descent, the step size, closed-form gradients inside optax's line searches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attnreg.solvers import Counts, GradientDescent, Optax, Status
from attnreg.solvers.gradient_descent import Inner
from attnreg.solvers.optax import _with_closed_form_gradient
from tests.solvers import table

OBJECTIVE = table.objective(table.stack()["noisy"])
START = OBJECTIVE.zeros()


# Compiled as a whole: operation by operation would cost a compilation each.
init = jax.jit(lambda solver, objective, x: solver.init(objective, x), static_argnums=0)
step = jax.jit(lambda solver, objective, state: solver.step(objective, state), static_argnums=0)
value_and_grad = jax.jit(lambda objective, x: objective.value_and_grad(x))


def test_descent_never_climbs():
    """Not with a step size a thousand times too long either: it is halved until the loss falls."""
    result = GradientDescent(step_size=100.0, tol=1e-2, max_steps=3000).run(OBJECTIVE, START)
    values = np.asarray(result.history.value[: int(result.steps) + 1])
    assert np.all(np.diff(values) <= 0)
    assert bool(result.converged)


def test_the_default_step_is_the_inverse_of_the_largest_curvature_estimate():
    state = init(GradientDescent(), OBJECTIVE, START)
    assert float(state.inner.eta) == pytest.approx(
        1 / float(jax.jit(lambda o, x: o.preconditioner(x).largest())(OBJECTIVE, START)), rel=1e-12
    )
    stepped = step(GradientDescent(), OBJECTIVE, state)
    np.testing.assert_allclose(stepped.params, -state.inner.eta * state.gradient, rtol=1e-12)


def test_a_step_that_climbs_is_undone_and_halved():
    before = init(GradientDescent(), OBJECTIVE, START)._replace(inner=Inner(jnp.asarray(1e30)))
    after = step(GradientDescent(), OBJECTIVE, before)
    np.testing.assert_array_equal(after.params, before.params)
    assert float(after.value) == float(before.value)
    assert float(after.inner.eta) == 5e29
    assert int(Counts(*after.counts).gradients) == 2


def test_line_searches_differentiate_the_closed_form():
    scale = jnp.asarray(3.0)
    function = _with_closed_form_gradient(OBJECTIVE, scale, START)
    X = START + 0.1
    value, gradient = jax.jit(jax.value_and_grad(function))(X)
    expected_value, expected = value_and_grad(OBJECTIVE, X)
    assert float(value) == pytest.approx(float(expected_value) / 3, rel=1e-14)
    np.testing.assert_allclose(gradient, expected / 3, rtol=1e-14)


def test_optax_sees_the_loss_divided_by_its_start():
    """One plain descent step of optax is that of the scaled loss."""
    solver = Optax(optax.sgd(1e-3), max_steps=1)
    state = init(solver, OBJECTIVE, START)
    stepped = step(solver, OBJECTIVE, state)
    np.testing.assert_allclose(stepped.params, -1e-3 * state.gradient / state.value, rtol=1e-12)
    value, gradient = value_and_grad(OBJECTIVE, stepped.params)
    assert float(stepped.value) == pytest.approx(float(value), rel=1e-14)
    np.testing.assert_allclose(stepped.gradient, gradient, rtol=1e-12)


def test_line_search_evaluations_are_counted_and_its_value_is_the_true_one():
    solver = Optax(optax.lbfgs(), max_steps=5)
    result = solver.run(OBJECTIVE, START)
    assert int(result.counts.gradients) > 5
    value, gradient = value_and_grad(OBJECTIVE, result.params)
    assert float(result.value) == pytest.approx(float(value), rel=1e-12)
    assert float(result.gradient_norm) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-9)


def test_a_diverging_optimiser_is_stopped():
    problem = table.OTHERS["rescaled"]()
    objective = table.objective(problem)
    result = Optax(optax.sgd(1e6), max_steps=50).run(objective, jnp.zeros(problem.shape))
    assert int(result.status) == Status.STALLED
    # It ends at the last finite point.
    assert np.all(np.isfinite(result.params))
    assert np.isfinite(float(result.value))
