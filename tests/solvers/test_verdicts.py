"""Verdicts that must not be false: saddles, perfect optima, flat starts, tiny numbers, noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.synthetic import attention_instance
from attnreg.fit import METHODS, solve
from attnreg.objectives import AttentionObjective, FactoredObjective, Factors, OneLayerObjective
from attnreg.problems import AttentionRegression, OneLayerRegression, ProblemError, Unknowns
from attnreg.solvers import LBFGS, Newton, Status, settled
from attnreg.solvers.state import tree_norm
from attnreg.solvers.verdict import extreme_curvatures


def instance(dtype, **options):
    return attention_instance(jax.random.key(0), n=16, d=2, dtype=dtype, **options)


def test_zero_factors_are_a_saddle_and_not_where_a_solve_starts():
    objective = FactoredObjective(instance(jnp.float64).problem, 2)
    result = solve(objective, objective.zeros())
    assert int(result.status) == Status.SADDLE
    assert not bool(result.converged)
    assert "objective.start()" in result.message
    assert bool(solve(objective).converged)
    assert float(solve(objective).value) < 1e-6 * float(result.value)


@pytest.mark.parametrize("rank", [0, 3, -1, 2.0, True])
def test_a_rank_outside_its_range_is_refused(rank):
    with pytest.raises(ProblemError, match="rank is"):
        FactoredObjective(instance(jnp.float64).problem, rank)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tol", [None, 1e-8])
def test_a_perfect_optimum_in_float32_has_converged(method, tol):
    problem, truth = instance(jnp.float32)
    objective = AttentionObjective(problem)
    assert bool(solve(objective, truth, method=method, tol=tol).converged)
    if tol is None and method != "adam":  # a constant rate of 0.01 is slow, not wrong
        options = dict(max_steps=20_000) if method == "gradient_descent" else {}
        result = solve(objective, method=method, **options)
        assert bool(result.converged), result.message


def test_a_tolerance_below_rounding_ends_as_converged_and_says_so():
    # With noise no rounding makes the gradient 0 by chance.
    result = solve(instance(jnp.float32, noise=0.05).problem, tol=1e-12)
    assert int(result.status) == Status.AT_ROUNDING
    assert bool(result.converged)
    assert "rounding" in result.message


def test_a_solve_that_is_only_short_of_steps_is_not_called_rounding():
    result = solve(instance(jnp.float64, noise=0.05).problem, method="gradient_descent", max_steps=5)
    assert int(result.status) == Status.MAX_STEPS
    assert not bool(result.converged)


def test_a_flat_start_is_not_a_minimum():
    problem = AttentionRegression(np.ones((2, 1)), np.array([[1.0], [-1.0]]), np.full((2, 2), 0.5))
    saturated = solve(problem, jnp.full((1, 1), 1e6))
    assert int(saturated.status) == Status.FLAT
    assert "saturated" in saturated.message
    alike = AttentionRegression(np.ones((2, 1)), np.zeros((2, 1)), np.array([[0.2, 0.8], [0.5, 0.5]]))
    assert int(solve(alike).status) == Status.FLAT


def test_a_stationary_minimum_has_converged():
    problem = AttentionRegression(np.ones((2, 1)), np.zeros((2, 1)), np.full((2, 2), 0.5))
    assert int(solve(problem).status) == Status.CONVERGED
    assert int(solve(problem).steps) == 0


def test_tiny_data_do_not_underflow_into_convergence():
    problem, _ = instance(jnp.float32, noise=0.01)
    tiny = AttentionRegression(1e-12 * problem.A1, 1e-12 * problem.A2, problem.B)
    gradient = AttentionObjective(tiny).value_and_grad(jnp.zeros((2, 2), jnp.float32))[1]
    assert float(jnp.sum(gradient * gradient)) == 0  # the plain sum of squares is lost
    assert float(tree_norm(gradient)) == pytest.approx(
        float(np.linalg.norm(np.asarray(gradient, np.float64))), rel=1e-5
    )
    result = solve(tiny, method="gradient_descent", max_steps=3)
    assert int(result.steps) > 0


def test_lbfgs_reaches_a_tolerance_near_rounding_on_many_instances():
    """Forty random ridge problems in one program, all to 1e-9: below rounding of the loss the gradient decides."""
    keys = jax.random.split(jax.random.key(7), 40)

    def problem(key):
        keys = jax.random.split(key, 3)
        B = jax.nn.softmax(jax.random.normal(keys[2], (1, 12, 10)), axis=-1)
        return jax.random.normal(keys[0], (1, 12, 3)), jax.random.normal(keys[1], (1, 10, 2)), B

    @jax.jit
    @jax.vmap
    def run(key):
        objective = AttentionObjective(AttentionRegression(*problem(key), ridge=0.1))
        return LBFGS(tol=1e-9, max_steps=500).run(objective, objective.zeros() + 0.1)

    result = run(keys)
    assert np.all(np.asarray(result.status) == Status.CONVERGED), np.bincount(np.asarray(result.status))


def test_a_batch_is_settled_afterwards():
    objective = FactoredObjective(instance(jnp.float64).problem, 1)
    starts = jax.tree.map(lambda a, b: jnp.stack([a, b]), objective.zeros(), objective.start())
    results = jax.vmap(Newton().run, (None, 0))(objective, starts)
    assert int(results.status[0]) == Status.STATIONARY
    final = jax.vmap(settled, (None, 0, 0))(objective, starts, results)
    assert [int(s) for s in final.status] == [Status.SADDLE, Status.CONVERGED]


def test_the_layer_starts_where_its_gradient_in_x_does_not_vanish():
    rng = np.random.default_rng(1)
    A = rng.normal(size=(2, 12, 3))
    objective = OneLayerObjective(OneLayerRegression(A, A, A, rng.normal(size=(2, 12, 2))))
    assert float(jnp.linalg.norm(objective.value_and_grad(objective.zeros())[1].X)) == 0
    assert float(jnp.linalg.norm(objective.value_and_grad(objective.start())[1].X)) > 0.1


def test_extreme_curvatures_are_those_of_the_dense_hessian():
    problem, truth = instance(jnp.float64, noise=0.1)
    objective = AttentionObjective(problem)
    values = np.linalg.eigvalsh(objective.hessian(truth))
    np.testing.assert_allclose(extreme_curvatures(objective, truth), (values[0], values[-1]), atol=1e-9 * values[-1])


def layer(A, X, Y):
    return OneLayerRegression(A, A, A, jax.nn.softmax(A @ X @ A.swapaxes(1, 2), axis=-1) @ A @ Y + 0.1)


ROUNDED = {
    "attention": lambda p, X: (AttentionObjective(p), X),
    "factors": lambda p, X: (FactoredObjective(p, 2), Factors(X, X + 1)),
    "layer": lambda p, X: (OneLayerObjective(layer(p.A1, X, X)), Unknowns(X + 1, X)),
}


@pytest.mark.parametrize("kind", ROUNDED)
def test_rounding_is_above_the_error_of_the_gradient_and_not_far_above(kind):
    """The error is that of float32 against the same float32 numbers in float64."""
    narrow = instance(jnp.float32, noise=0.1).problem
    X = jax.random.normal(jax.random.key(1), (2, 2), jnp.float32)
    objective, x = ROUNDED[kind](narrow, X)
    wide_objective, wide_x = jax.tree.map(lambda a: a.astype(jnp.float64), (objective, x))
    error = jax.tree.map(
        lambda a, b: a.astype(jnp.float64) - b, objective.value_and_grad(x)[1], wide_objective.value_and_grad(wide_x)[1]
    )
    assert float(tree_norm(error)) <= float(objective.rounding(x)) <= 1000 * float(tree_norm(error))


@pytest.mark.parametrize("method", METHODS)
def test_logits_that_overflow_are_said(method):
    problem, _ = instance(jnp.float32)
    result = solve(problem, jnp.full(problem.shape, 3e38, jnp.float32), method=method)
    assert int(result.status) == Status.BAD_START
    assert not bool(result.converged)
    assert "logits that overflow the dtype" in result.message
