"""L-BFGS with exactly one evaluation per step, for many starts in lock step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.objectives.base import Objective
from attnreg.solvers.base import Solver, State, add_counts, count, select
from attnreg.solvers.result import Status
from attnreg.solvers.secant import Pairs, corrected_solve, no_pairs, push
from attnreg.solvers.trial import interpolate


class Memory(NamedTuple):
    """The secant pairs and the line search under way."""

    pairs: Pairs
    direction: jax.Array
    length: jax.Array


@dataclasses.dataclass(frozen=True)
class LBFGS(Solver):
    """L-BFGS whose backtracking line search is spread over steps: every step is one value and gradient.

    A usual line search loops inside a step; under `vmap` every start then waits for the slowest search. Here a rejected
    trial only shortens the length that the next step tries (Armijo, quadratic interpolation), so starts never wait.

    Args:
        tol: stop at gradient norm ≤ tol × its norm at the start.
        max_steps: evaluations. memory: pairs kept.

    Cost per step: one value and gradient and 4·memory·p multiplications (p unknowns).
    """

    tol: float = 1e-8
    max_steps: int = 300
    memory: int = 10

    def init(self, objective: Objective, params: Any) -> State:
        """Value and gradient; the first trial moves a tenth of the start's norm."""
        value, gradient = objective.value_and_grad(params)
        g, x = ravel_pytree(gradient)[0], ravel_pytree(params)[0]
        norm = jnp.linalg.norm(g)
        size = jnp.linalg.norm(x)
        first = jnp.where(size > 0, size / 10, jnp.ones_like(size)) / jnp.where(norm > 0, norm, jnp.ones_like(norm))
        inner = Memory(no_pairs(self.memory, g), -g, first)
        return self.start(params, value, gradient, damping=first, inner=inner, counts=count(values=1, gradients=1))

    def step(self, objective: Objective, state: State) -> State:
        """Try one point along the direction; on success take a new direction, on failure shorten."""
        memory: Memory = state.inner
        x, unravel = ravel_pytree(state.params)
        g = ravel_pytree(state.gradient)[0]
        move = memory.length * memory.direction
        trial = unravel(x + move)
        value, gradient = objective.value_and_grad(trial)
        g_new = ravel_pytree(gradient)[0]
        norm = jnp.linalg.norm(g_new)
        slope = jnp.dot(g, memory.direction)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        accepted = finite & (value <= state.value + 1e-4 * memory.length * slope)
        taken = self._advance(memory, move, g_new - g, g_new)
        judged = jnp.where(finite, value, jnp.inf)
        shorter = memory._replace(
            length=interpolate(memory.length, memory.length * slope, state.value, judged, least=0.1)
        )
        eps = jnp.finfo(value.dtype).eps
        stuck = ~accepted & (jnp.linalg.norm(move) <= eps * jnp.linalg.norm(x))
        new, old = (trial, value, gradient, norm), (state.params, state.value, state.gradient, state.gradient_norm)
        params, value, gradient, norm = select(accepted, new, old)
        return state._replace(
            params=params,
            value=value,
            gradient=gradient,
            gradient_norm=norm,
            inner=select(accepted, taken, shorter),
            damping=memory.length,
            status=jnp.where(stuck, Status.STALLED, state.status).astype(jnp.int32),
            steps=state.steps + 1,
            counts=add_counts(state.counts, count(values=1, gradients=1)),
        )

    def _advance(self, memory: Memory, s, y, g) -> Memory:
        """The memory with a new pair (kept only where the curvature is positive) and its direction."""
        pairs = push(memory.pairs, s, y, least=float(jnp.finfo(s.dtype).eps))
        # Not unrolled: stages of many starts compile this solver again for every ridge.
        direction = -corrected_solve(pairs, lambda q: _newest_scale(pairs) * q, g, unroll=False)
        descends = jnp.dot(direction, g) < 0
        return Memory(pairs, jnp.where(descends, direction, -g), jnp.ones_like(memory.length))


def _newest_scale(pairs: Pairs) -> jax.Array:
    """⟨s, y⟩/⟨y, y⟩ of the newest pair, the size of an inverse Hessian; 1 without pairs."""
    sy, yy = jnp.dot(pairs.S[-1], pairs.Y[-1]), jnp.dot(pairs.Y[-1], pairs.Y[-1])
    return jnp.where(yy > 0, sy / jnp.where(yy > 0, yy, 1), 1)
