"""`solve`: the cost model behind "auto", methods by name, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.fit.solve import (
    DENSE_UNKNOWNS,
    METHODS,
    NEWTON_CG_STEP,
    choose_effort,
    choose_method,
    make_solver,
    solve,
)
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.base import Costs
from attnreg.objectives.factored import FactoredObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError
from attnreg.solvers import Newton, NewtonCG, Optax, Status, base
from tests.solvers import table


def sized(n, d, k=1):
    """An objective of given sizes; nothing is allocated."""
    small = AttentionRegression(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 2)))
    shapes = {"A1": (k, n, d), "A2": (k, n, d), "B": (k, n, n)}
    for name, shape in shapes.items():
        object.__setattr__(small, name, jax.ShapeDtypeStruct(shape, jnp.float64))
    return AttentionObjective(small)


@pytest.mark.parametrize(
    ("objective", "method"),
    [
        (sized(512, 16), "newton"),
        (sized(1024, 16), "newton"),
        (sized(2048, 32), "newton"),
        (sized(64, 4), "newton"),
        (sized(512, 384, k=4), "newton_cg"),
        (sized(2048, 128), "newton_cg"),
        (sized(64, 90), "newton_cg"),
    ],
    ids=lambda x: x if isinstance(x, str) else "x".join(map(str, x.problem.sizes)),
)
def test_auto_takes_dense_newton_while_it_is_cheap(objective, method):
    chosen, reason = choose_method(objective)
    assert chosen == method
    assert str(objective.costs().unknowns) in reason or "gradients" in reason


def test_the_cost_model_is_the_documented_rule():
    class Priced(FactoredObjective):
        def costs(self):
            return price

    problem = table.stack()["noisy"]
    base = 1e9
    for ratio, method in ((0.9, "newton"), (1.1, "newton_cg")):
        p = 100
        price = Costs(base, base * NEWTON_CG_STEP * ratio - p**3 / 3, p)
        assert choose_method(Priced(problem, 2))[0] == method
    price = Costs(1e30, 1.0, DENSE_UNKNOWNS + 1)
    assert choose_method(Priced(problem, 2))[0] == "newton_cg"
    price = None
    assert choose_method(Priced(problem, 2)) == ("newton_cg", "the objective has no cost model")


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_every_method_can_be_made_with_its_limits(method):
    solver = make_solver(method, tol=1e-3, max_steps=7)
    assert (solver.tol, solver.max_steps) == (1e-3, 7)
    default = make_solver(method)
    assert dataclasses.asdict(default).get("max_steps") == type(default)(**_required(default)).max_steps


def _required(solver):
    return {"optimizer": solver.optimizer} if isinstance(solver, Optax) else {}


def test_options_reach_the_solver():
    assert make_solver("newton", curvature="gauss_newton") == Newton(curvature="gauss_newton")
    assert make_solver("newton_cg", max_cg=3) == NewtonCG(max_cg=3)
    with pytest.raises(ValueError, match="method is 'sgd'; it must be one of 'newton', 'newton_cg'"):
        make_solver("sgd")


def test_solve_starts_at_zero_and_takes_the_best_method():
    objective = table.objective(table.stack()["noisy"])
    result = solve(objective, effort="full")
    explicit = Newton().run(objective, objective.zeros())
    assert int(result.status) == Status.CONVERGED
    np.testing.assert_array_equal(result.params, explicit.params)


@pytest.mark.parametrize(
    ("objective", "effort"),
    [
        (sized(64, 17, k=8), "quick"),
        (sized(256, 8), "quick"),
        (sized(1024, 8), "full"),
        (sized(512, 384, k=4), "full"),
    ],
    ids=lambda x: x if isinstance(x, str) else "x".join(map(str, x.problem.sizes)),
)
def test_small_problems_are_compiled_quickly(objective, effort):
    assert choose_effort(objective) == effort


def test_without_a_cost_model_the_effort_is_full():
    class Unpriced(AttentionObjective):
        def costs(self):
            return None

    assert choose_effort(Unpriced(table.stack()["noisy"])) == "full"


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_the_effort_of_the_compiler_changes_a_solution_by_rounding_only(method):
    objective = table.objective(table.stack()["noisy"])
    limits = dict(tol=1e-6, max_steps=3000)
    quick, full = (solve(objective, method=method, effort=effort, **limits) for effort in ("quick", "full"))
    assert int(quick.status) == int(full.status) == Status.CONVERGED
    np.testing.assert_allclose(quick.value, full.value, rtol=1e-9)


def test_quick_programs_are_those_of_the_options(monkeypatch):
    """ "auto" takes them, "full" does not, and neither does a solve inside another program."""
    taken = []
    monkeypatch.setattr(base, "_run_quickly", lambda *arguments: taken.append(1) or base._run(*arguments))
    objective = table.objective(table.stack()["noisy"])
    solve(objective)
    assert taken == [1]
    solve(objective, effort="full")
    Newton().run(objective, objective.start())
    jax.jit(lambda o: solve(o, effort="quick").value)(objective)
    jax.vmap(lambda x: solve(objective, x, effort="quick").value)(jnp.stack([objective.start()] * 2))
    assert taken == [1]


def test_a_compiler_that_does_not_know_an_option_gets_the_others(monkeypatch):
    monkeypatch.setattr(base, "QUICK", {"xla_no_such_option": 1, "xla_backend_optimization_level": 0})
    monkeypatch.setattr(base, "_known", list(base.QUICK))
    objective = table.objective(table.stack()["noisy"])
    assert bool(solve(objective, effort="quick").converged)
    assert base._known == ["xla_backend_optimization_level"]


def test_other_failures_of_the_compiler_are_raised(monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(base, "_with_options", lambda names: fail)
    objective = table.objective(table.stack()["noisy"])
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        solve(objective, effort="quick")


def test_an_unknown_effort_is_refused():
    objective = table.objective(table.stack()["noisy"])
    with pytest.raises(ProblemError, match="effort is 'fast'; it must be one of 'auto', 'full', 'quick'"):
        solve(objective, effort="fast")  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="effort is 'auto'; it must be one of 'full', 'quick'"):
        Newton().run(objective, objective.start(), effort="auto")  # type: ignore[arg-type]
