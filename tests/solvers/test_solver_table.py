"""Every solver on every problem: it converges, tells the truth, can be vmapped, run on the host and stopped."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from attnreg import solvers
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers import MESSAGES, Newton, NewtonCG, Solver, Status, describe
from attnreg.solvers.state import tree_norm
from tests.oracles import rows
from tests.solvers import table

PROBLEMS = table.stack()
START = jnp.zeros((table.D, table.D))

every_solver = pytest.mark.parametrize("name", table.SOLVERS)
# Each costs a compilation: the quick suite takes one solver per problem, `-m slow` the whole cross product.
QUICK = {("newton", "linear"), ("newton-cg", "rescaled"), ("newton", "single softmax")}
CROSS = [
    pytest.param(name, problem, marks=() if (name, problem) in QUICK else pytest.mark.slow)
    for name in table.SOLVERS
    for problem in table.OTHERS
]


@functools.cache
def program(solver):
    """A solver over a batch of problems and starts, compiled once for all tests."""
    return jax.jit(jax.vmap(solver.run))


@functools.cache
def solved_together(name):
    """All problems of the stack in one vmapped program: name → Result."""
    starts = jnp.zeros((len(PROBLEMS), *START.shape))
    results = program(table.SOLVERS[name].solver)(table.together(PROBLEMS), starts)
    return {problem: jax.tree.map(lambda x, i=i: x[i], results) for i, problem in enumerate(PROBLEMS)}


evaluate = jax.jit(lambda objective, X: objective.value_and_grad(X))


def tolerance(solver):
    """The tolerance in force in float64."""
    return solver.tolerance(np.float64)


def check(solver, problem, result):
    """What every converged `Result` promises."""
    value, gradient = evaluate(table.objective(problem), result.params)
    norm, steps, history = float(tree_norm(gradient)), int(result.steps), result.history
    assert Status(int(result.status)) == Status.CONVERGED, describe(result.status)
    assert bool(result.converged)
    assert float(result.gradient_norm) <= tolerance(solver) * float(history.gradient_norm[0])
    assert norm == pytest.approx(float(result.gradient_norm), rel=1e-3, abs=1e-13)
    assert float(value) == pytest.approx(float(result.value), rel=1e-9, abs=1e-14)
    for column in (history.value, history.gradient_norm, history.control):
        assert column.shape == (solver.max_steps + 1,)
        assert np.all(np.isnan(column[steps + 1 :]))
    assert np.all(np.isfinite(history.value[: steps + 1]))
    assert float(history.value[steps]) == float(result.value)
    assert float(history.gradient_norm[steps]) == float(result.gradient_norm)
    assert int(result.counts.values) == int(result.counts.gradients) >= steps
    second_order = int(result.counts.hessians) + int(result.counts.hvps)
    assert (second_order > 0) == isinstance(solver, Newton | NewtonCG)


def test_the_table_has_a_row_for_every_exported_solver():
    exported = {x for x in vars(solvers).values() if isinstance(x, type) and issubclass(x, Solver) and x is not Solver}
    # A sampled Hessian makes a solver's path random: it has tests of its own (tests/solvers/test_sketched.py).
    assert {type(row.solver) for row in table.SOLVERS.values()} == exported - {solvers.SketchedNewton}


@every_solver
@pytest.mark.parametrize("problem", PROBLEMS)
def test_converges_and_tells_the_truth(name, problem):
    check(table.SOLVERS[name].solver, PROBLEMS[problem], solved_together(name)[problem])


@pytest.mark.parametrize(("name", "problem"), CROSS)
def test_other_losses(name, problem):
    solver, problem = table.SOLVERS[name].solver, table.OTHERS[problem]()
    start = jnp.zeros(problem.shape)
    check(solver, problem, solver.run(table.objective(problem), start))


@every_solver
def test_alone_on_the_host_and_in_a_batch_are_the_same_run(name):
    solver, problem = table.SOLVERS[name].solver, PROBLEMS["noisy"]
    objective = AttentionObjective(problem, block_rows=5)
    seen = []
    hosted = solver.run_on_host(objective, START, callback=lambda state, seconds: seen.append(int(state.steps)))
    batched = solved_together(name)["noisy"]
    assert seen == list(range(int(hosted.steps) + 1))
    assert hosted.history.value.shape == (int(hosted.steps) + 1,)
    assert np.all(np.diff(hosted.history.seconds) >= 0)
    assert abs(int(hosted.steps) - int(batched.steps)) <= max(1, int(batched.steps) // 20)
    # Both stop within the tolerance, so they agree to about tol × condition.
    gap = np.max(np.abs(table.centred_logits(problem, hosted.params) - table.centred_logits(problem, batched.params)))
    assert gap <= 100 * tolerance(solver)


def test_a_host_loop_goes_on_from_any_of_its_states():
    solver, objective = table.SOLVERS["gradient descent"].solver, AttentionObjective(PROBLEMS["noisy"], block_rows=5)
    states = list(solver.iterate(objective, START))
    resumed = list(solver.iterate(objective, START, state=states[3]))
    assert int(states[-1].status) == Status.CONVERGED
    jax.tree.map(np.testing.assert_array_equal, resumed, states[3:])


@pytest.mark.parametrize("name", ["lbfgs", pytest.param("newton", marks=pytest.mark.slow)])
def test_a_chunk_of_steps_is_those_steps_to_the_last_bit(name):
    solver, objective = table.SOLVERS[name].solver, AttentionObjective(PROBLEMS["noisy"], block_rows=5)
    solver = dataclasses.replace(solver, max_steps=8)
    single = solver.run_on_host(objective, START)
    seen = []
    told = lambda state, seconds: seen.append(int(state.steps))  # noqa: E731
    chunked = solver.run_on_host(objective, START, callback=told, chunk=3)
    steps = int(single.steps)
    assert seen == [*range(0, steps, 3), steps]
    for name in ("params", "value", "gradient_norm", "status", "steps", "counts"):
        jax.tree.map(np.testing.assert_array_equal, getattr(chunked, name), getattr(single, name))
    for name in ("value", "gradient_norm", "control"):
        np.testing.assert_array_equal(getattr(chunked.history, name), getattr(single.history, name))


def test_the_host_loop_stops_when_the_time_is_up():
    solver = table.SOLVERS["gradient descent"].solver
    stopped = solver.run_on_host(AttentionObjective(PROBLEMS["noisy"], block_rows=5), START, seconds=0.0)
    assert int(stopped.status) == Status.OUT_OF_TIME
    assert int(stopped.steps) == 0


@pytest.mark.parametrize(
    "name",
    ["newton", "gradient descent", *(pytest.param(x, marks=pytest.mark.slow) for x in ("newton-cg", "lbfgs", "adam"))],
)
def test_float32(name):
    row = table.SOLVERS[name]
    solver = dataclasses.replace(row.solver, tol=row.tol32)
    problems = table.stack(np.float32)
    starts = jnp.zeros((len(problems), *START.shape), jnp.float32)
    results = program(solver)(table.together(problems), starts)
    assert results.params.dtype == results.value.dtype == jnp.float32
    assert np.all(np.asarray(results.converged)), results.status


def residuals(problem, X):
    """f − b over allowed keys, and its Jacobian in X, by the oracle."""
    r, J = [], []
    A1, A2, B = (np.asarray(x) for x in (problem.A1, problem.A2, problem.B))
    for document, j in np.ndindex(B.shape[:2]):
        allowed = np.asarray(problem.mask)[document, j]
        A = np.kron(A1[document, j][None], A2[document][allowed])
        residual, jacobian, _ = rows.residual(problem.loss, A @ X, B[document, j][allowed])
        r.append(residual)
        J.append(jacobian @ A)
    return np.concatenate(r), np.concatenate(J)


@pytest.mark.parametrize("problem", ["realizable", "noisy", "rank-deficient", "gauge", "masked"])
def test_newton_finds_what_an_independent_optimiser_finds(problem):
    p = PROBLEMS[problem]
    peer = least_squares(
        lambda x: residuals(p, x)[0], np.zeros(9), jac=lambda x: residuals(p, x)[1], xtol=1e-15, ftol=1e-15, gtol=1e-13
    )
    ours = solved_together("newton")[problem]
    assert float(ours.value) <= 2 * peer.cost * (1 + 1e-9) + 1e-14
    gap = table.centred_logits(p, ours.params) - table.centred_logits(p, peer.x.reshape(3, 3))
    assert np.max(np.abs(gap)) <= 1e-5


@every_solver
def test_many_starts_of_one_problem_one_of_them_bad(name):
    solver, problem, many = table.SOLVERS[name].solver, PROBLEMS["noisy"], len(PROBLEMS)
    starts = 0.1 * jnp.asarray(np.random.default_rng(0).normal(size=(many, *START.shape)))
    together = table.together(dict.fromkeys(range(many), problem))
    program(solver)(together, starts)
    compiled = program(solver)._cache_size()
    results = program(solver)(together, starts.at[0, 0, 0].set(jnp.nan))
    # Other numbers in the same shapes: nothing is compiled again.
    assert program(solver)._cache_size() == compiled
    # A start that is no number is reported, and disturbs none of the others.
    assert int(results.status[0]) == Status.BAD_START
    assert int(results.steps[0]) == 0
    assert np.all(np.asarray(results.converged[1:]))
    first, *rest = (table.centred_logits(problem, X) for X in results.params[1:])
    assert all(np.max(np.abs(first - other)) <= 100 * tolerance(solver) for other in rest)


def test_overflow_at_the_start_is_reported_with_its_cause():
    problem = AttentionRegression(np.ones((2, 1)), np.ones((2, 1)), np.eye(2), loss="rescaled")
    result = table.SOLVERS["gradient descent"].solver.run(AttentionObjective(problem), jnp.full((1, 1), 1e3))
    assert int(result.status) == Status.BAD_START
    assert "overflows" in describe(result.status)


def test_max_steps_is_reported():
    solver = dataclasses.replace(table.SOLVERS["gradient descent"].solver, max_steps=2)
    result = solver.run(AttentionObjective(PROBLEMS["noisy"], block_rows=5), START)
    assert int(result.status) == Status.MAX_STEPS
    assert int(result.steps) == 2


@pytest.mark.parametrize("name", ["newton", pytest.param("newton-cg", marks=pytest.mark.slow)])
def test_an_unreachable_tolerance_ends_at_rounding_level(name):
    solver = dataclasses.replace(table.SOLVERS[name].solver, tol=0.0)
    result = solver.run(AttentionObjective(PROBLEMS["noisy"], block_rows=5), START)
    assert int(result.status) == Status.AT_ROUNDING
    assert bool(result.converged)
    assert "rounding" in result.message
    assert float(result.gradient_norm) <= 1e-12 * float(result.history.gradient_norm[0])


def test_a_stationary_start_has_converged():
    problem = AttentionRegression(np.ones((2, 1)), np.zeros((2, 1)), np.full((2, 2), 0.5))
    result = table.SOLVERS["gradient descent"].solver.run(AttentionObjective(problem), jnp.zeros((1, 1)))
    assert int(result.status) == Status.CONVERGED
    assert int(result.steps) == 0


def test_every_status_has_a_message_with_its_causes():
    assert set(MESSAGES) == set(Status)
    for status in (Status.STALLED, Status.BAD_START):
        assert "Likely causes" in describe(status)
