"""L-BFGS with exactly one evaluation per step, for many starts in lock step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.objectives import Objective
from attnreg.solvers.result import Status
from attnreg.solvers.solver import Solver, State, add_counts, count, select


class Memory(NamedTuple):
    """Last `memory` steps S and gradient changes Y (oldest first), 1/⟨s,y⟩, and the line search under way."""

    S: jax.Array
    Y: jax.Array
    rho: jax.Array
    gamma: jax.Array
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
        pairs = jnp.zeros((self.memory, g.size), g.dtype)
        norm = jnp.linalg.norm(g)
        size = jnp.linalg.norm(x)
        first = jnp.where(size > 0, size / 10, jnp.ones_like(size)) / jnp.where(norm > 0, norm, jnp.ones_like(norm))
        inner = Memory(pairs, pairs, pairs[:, 0], jnp.ones_like(norm), -g, first)
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
        shorter = memory._replace(length=_shorten(memory.length, slope, state.value, value, finite))
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
        sy, yy = jnp.dot(s, y), jnp.dot(y, y)
        eps = jnp.finfo(s.dtype).eps
        good = sy > eps * jnp.linalg.norm(s) * jnp.sqrt(yy)
        one = jnp.ones_like(sy)
        rho = one / jnp.where(good, sy, one)
        pushed = Memory(
            jnp.concatenate([memory.S[1:], s[None]]),
            jnp.concatenate([memory.Y[1:], y[None]]),
            jnp.concatenate([memory.rho[1:], rho[None]]),
            sy / jnp.where(good, yy, one),
            memory.direction,
            one,
        )
        kept = select(good, pushed, memory._replace(length=one))
        direction = -_two_loops(kept, g)
        descends = jnp.dot(direction, g) < 0
        return kept._replace(direction=jnp.where(descends, direction, -g))


def _shorten(length, slope, value, trial, finite) -> jax.Array:
    """Minimum of the parabola through value, slope and trial, kept within [0.1, 0.5] of the length."""
    rise = trial - value - slope * length
    wanted = -slope * length * length / (2 * jnp.where(rise > 0, rise, jnp.ones_like(rise)))
    bounded = jnp.clip(wanted, 0.1 * length, 0.5 * length)
    return jnp.where(finite & (rise > 0), bounded, 0.1 * length).astype(length.dtype)


def _two_loops(memory: Memory, g: jax.Array) -> jax.Array:
    """The inverse Hessian approximation times g; empty slots have s = y = 0 and do nothing."""

    def down(q, pair):
        s, y, rho = pair
        a = rho * jnp.dot(s, q)
        return q - a * y, a

    def up(q, pair):
        s, y, rho, a = pair
        return q + (a - rho * jnp.dot(y, q)) * s, None

    pairs = (memory.S, memory.Y, memory.rho)
    q, a = jax.lax.scan(down, g, pairs, reverse=True)
    return jax.lax.scan(up, memory.gamma * q, (*pairs, a))[0]
