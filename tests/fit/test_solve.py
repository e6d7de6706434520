"""`solve`: the cost model behind "auto", methods by name, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.fit.solve import DENSE_UNKNOWNS, METHODS, NEWTON_CG_STEP, choose_method, make_solver, solve
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.base import Costs
from attnreg.objectives.factored import FactoredObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers import Newton, NewtonCG, Optax, Status
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
    result = solve(objective)
    explicit = Newton().run(objective, objective.zeros())
    assert int(result.status) == Status.CONVERGED
    np.testing.assert_array_equal(result.params, explicit.params)
