"""Gradient descent with a step size from the curvature."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.problems.checks import check_number
from attnreg.solvers.base import Solver
from attnreg.solvers.result import Status, status_of
from attnreg.solvers.state import State, count, counted, moved, tree_norm


class Inner(NamedTuple):
    """The step size, halved after every failure."""

    eta: jax.Array


@dataclasses.dataclass(frozen=True)
class GradientDescent(Solver):
    """`x ← x − η ∇L`; `step_size=None` takes η = 1/λ with λ the largest eigenvalue of the preconditioner at the start.

    A step that raises the loss is undone and η halved, so the method cannot diverge.

    Args:
        step_size: η > 0, or None. A first-order objective has no preconditioner and needs a number.
        tol, max_steps: see `Solver`; a step is one trial point.

    Precision: the gradient norm falls to `tol` times its norm at the start, or to its rounding error; the status says
    which (tests/solvers/test_solver_table.py, tests/solvers/test_verdicts.py).
    Cost: one value and gradient a step.
    Raises: ProblemError for an option out of range.
    Source: the textbook method.
    """

    CONTROL: ClassVar[str] = "step size η"

    step_size: float | None = None
    tol: float | None = None
    max_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None:
            check_number("step_size", self.step_size, above=0)

    def needs(self) -> tuple[str, ...]:
        """A preconditioner, when it is to choose the step size."""
        return ("preconditioner",) if self.step_size is None else ()

    def init(self, objective: Any, params: Any) -> State:
        """Value, gradient and the step size."""
        value, gradient = objective.value_and_grad(params)
        eta = 1 / objective.preconditioner(params).largest() if self.step_size is None else self.step_size
        inner = Inner(jnp.asarray(eta, value.dtype))
        return self.begin(params, value, gradient, inner=inner, counts=count(values=1, gradients=1))

    def control(self, state: State) -> jax.Array:
        """η."""
        return state.inner.eta

    def advance(self, objective: Any, state: State) -> State:
        """One descent step."""
        eta = state.inner.eta
        trial = jax.tree.map(lambda x, g: x - eta * g, state.params, state.gradient)
        value, gradient = objective.value_and_grad(trial)
        norm = tree_norm(gradient)
        better = jnp.isfinite(norm) & (value <= state.value)
        state = counted(moved(state, better, trial, value, gradient, norm), values=1, gradients=1)
        eta = jnp.where(better, eta, eta / 2)
        # No shorter step can help once what it promises is below rounding of the loss.
        lost = ~better & (eta * norm * norm <= jnp.finfo(value.dtype).eps * jnp.abs(value))
        status = status_of(lost, Status.STALLED, state.status)
        return state._replace(inner=Inner(eta), status=status, steps=state.steps + 1)
