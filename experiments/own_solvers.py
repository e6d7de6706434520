"""Our solvers as contenders of the benchmark: the same shape as a peer."""

from collections.abc import Callable

import jax
import optax

from attnreg.objectives import AttentionObjective
from attnreg.solvers import Newton, NewtonCG, Optax, Solver
from experiments.cells import Cell
from experiments.peers import Outcome, Peer, Prepared

OURS = "attnreg "
LBFGS = optax.lbfgs(memory_size=30)


def own(name: str, setting: str, make: Callable[[float], Solver]) -> Peer:
    """One of our solvers, built as `make(tol)`; what is timed is `solver.run`, one compiled call."""

    def prepare(cell: Cell, tol: float, seconds: float) -> Prepared:
        del seconds
        solver, objective = make(tol), AttentionObjective(cell.problem)
        start = cell.ours(cell.x0)
        result = jax.block_until_ready(solver.run(objective, start))
        if not bool(result.converged):
            ratio = float(result.gradient_norm / result.history.gradient_norm[0])
            return Prepared(None, f"gradient {ratio:.1e} after {int(result.steps)} steps")

        def run() -> Outcome:
            result = jax.block_until_ready(solver.run(objective, start))
            counts = {key: int(value) for key, value in result.counts._asdict().items() if int(value)}
            return Outcome(result.params.reshape(cell.x0.shape), {"steps": int(result.steps)} | counts)

        return Prepared(run)

    return Peer(OURS + name, setting, prepare)


def own_methods() -> list[Peer]:
    """Every solver of this package with the settings that are compared."""
    return [
        own("Newton", "default", lambda tol: Newton(tol=tol)),
        own("Newton", "chord 0.5", lambda tol: Newton(tol=tol, chord=0.5)),
        own("NewtonCG", "default", lambda tol: NewtonCG(tol=tol)),
        own("NewtonCG", "forcing 0.1", lambda tol: NewtonCG(tol=tol, forcing=0.1)),
        own("Optax", "lbfgs memory 30", lambda tol: Optax(LBFGS, tol=tol, max_steps=2000)),
    ]
