"""Our solvers as contenders for time to a tolerance."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attnreg.fit.continuation import normalized_first
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers import Newton, NewtonCG, Optax, Result, Solver
from experiments.benchmarks.cells import Cell
from experiments.benchmarks.peers import Contender, Outcome, Prepared

OURS = "attnreg "
LBFGS = optax.lbfgs(memory_size=30)


@functools.partial(jax.jit, static_argnums=0)
def _run(solver: Solver, objective: Any, start: Any) -> Result:
    """One program for all instances of a size."""
    return solver.run(objective, start)


def own(name: str, setting: str, make: Callable[[float], Solver]) -> Contender:
    """One of our solvers, built as `make(tol)`; timed is `solver.run`, compiled ahead like every peer."""

    def prepare(cell: Cell, tol: float, seconds: float) -> Prepared:
        del seconds
        solver, objective, start = make(tol), cell.objective, cell.ours(cell.x0)
        program = _run.lower(solver, objective, start).compile()
        return prepared(cell, tol, lambda: program(objective, start))

    return Contender(OURS + name, setting, prepare)


def own_continued(setting: str, make: Callable[[float], Solver]) -> Contender:
    """Rescaled problems from the solution of the normalized one (elsewhere refused)."""

    def prepare(cell: Cell, tol: float, seconds: float) -> Prepared:
        del seconds
        problem = cell.problem
        if not isinstance(problem, AttentionRegression) or problem.loss != "rescaled":
            return Prepared(None, "not run: for rescaled problems only")
        # The second solve starts close to the minimum: its tolerance is relative to the gradient there.
        start = cell.ours(cell.x0)
        return prepared(cell, tol, lambda: normalized_first(make(tol), problem, start)[0])

    return Contender(OURS + "normalized_first", setting, prepare)


def prepared(cell: Cell, tol: float, run: Callable[[], Result]) -> Prepared:
    """Run once; refuse unless the gradient is `tol` times that at the cell's start."""
    goal = tol * float(jnp.linalg.norm(cell.objective.value_and_grad(cell.ours(cell.x0))[1]))
    result = jax.block_until_ready(run())
    if not float(result.gradient_norm) <= goal:
        ratio = float(result.gradient_norm) / goal * tol
        return Prepared(None, f"gradient {ratio:.1e} after {int(result.steps)} steps")

    def again() -> Outcome:
        result = run()  # whoever times it waits
        return Outcome(result.params, {"steps": result.steps} | result.counts._asdict())

    return Prepared(again)


def own_methods() -> list[Contender]:
    """Every solver of this package with the settings that are compared."""
    return [
        own("Newton", "default", lambda tol: Newton(tol=tol)),
        own("Newton", "coarse float32", lambda tol: Newton(tol=tol, coarse_dtype="float32")),
        own("Newton", "no warm-up", lambda tol: Newton(tol=tol, warmup=0)),
        own("Newton", "Gauss–Newton, no warm-up", lambda tol: Newton(tol=tol, warmup=0, curvature="gauss_newton")),
        own("NewtonCG", "default", lambda tol: NewtonCG(tol=tol)),
        own("Optax", "lbfgs memory 30", lambda tol: Optax(LBFGS, tol=tol, max_steps=2000)),
        own_continued("Newton", lambda tol: Newton(tol=tol)),
    ]
