"""Gradient descent with a step size from the curvature."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.objectives.base import Objective
from attnreg.solvers.base import Solver, State, add_counts, count, tree_norm
from attnreg.solvers.result import Status


@dataclasses.dataclass(frozen=True)
class GradientDescent(Solver):
    """`x ← x − η ∇L`; `step_size=None` takes η = 1/λ with λ the largest eigenvalue of the Kronecker estimate.

    A step that raises the loss is undone and η halved, so the method cannot diverge.

    Cost per step: one value and gradient.
    """

    step_size: float | None = None
    tol: float = 1e-8
    max_steps: int = 1000

    def init(self, objective: Objective, params: Any) -> State:
        """Value, gradient and the step size (kept as the state's damping)."""
        value, gradient = objective.value_and_grad(params)
        eta = 1 / objective.kronecker(params).largest() if self.step_size is None else self.step_size
        return self.start(params, value, gradient, damping=eta, inner=(), counts=count(values=1, gradients=1))

    def step(self, objective: Objective, state: State) -> State:
        """One descent step."""
        trial = jax.tree.map(lambda x, g: x - state.damping * g, state.params, state.gradient)
        value, gradient = objective.value_and_grad(trial)
        norm = tree_norm(gradient)
        better = jnp.isfinite(norm) & (value <= state.value)
        new = (trial, value, gradient, norm)
        old = (state.params, state.value, state.gradient, state.gradient_norm)
        params, value, gradient, norm = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
        eta = jnp.where(better, state.damping, state.damping / 2)
        # No shorter step can help once what it promises is below rounding of the loss.
        lost = ~better & (eta * norm * norm <= jnp.finfo(value.dtype).eps * jnp.abs(value))
        return state._replace(
            params=params,
            value=value,
            gradient=gradient,
            gradient_norm=norm,
            damping=eta,
            status=jnp.where(lost, Status.STALLED, state.status).astype(jnp.int32),
            steps=state.steps + 1,
            counts=add_counts(state.counts, count(values=1, gradients=1)),
        )
