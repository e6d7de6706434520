"""L-BFGS with exactly one evaluation per step, for many starts in lock step."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.problems.checks import check_integer
from attnreg.solvers.base import Solver
from attnreg.solvers.result import Status, status_of
from attnreg.solvers.secant import Pairs, corrected_solve, no_pairs, push
from attnreg.solvers.state import State, acceptable, count, counted, moved, select
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
    Below the rounding error of the loss the Armijo rule sees noise, and the gradient norm decides instead.

    Args:
        tol, max_steps: see `Solver`; a step is one evaluation.
        memory: pairs kept.

    Precision: the gradient norm falls to `tol` times its norm at the start, or to its rounding error; the status says
    which (tests/solvers/test_solver_table.py, tests/solvers/test_verdicts.py).
    Cost: per step one value and gradient and 4·memory·p multiplications (p unknowns).
    Raises: ProblemError for an option out of range.
    Source: Nocedal's two-loop recursion (`attnreg.solvers.secant`); the line search is derived from the lock step.
    """

    CONTROL: ClassVar[str] = "length of the trial, relative to the direction"

    tol: float | None = None
    max_steps: int = 300
    memory: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("memory", self.memory, at_least=1)

    def init(self, objective: Any, params: Any) -> State:
        """Value and gradient; the first trial moves a tenth of the start's norm."""
        value, gradient = objective.value_and_grad(params)
        g, x = ravel_pytree(gradient)[0], ravel_pytree(params)[0]
        norm = jnp.linalg.norm(g)
        size = jnp.linalg.norm(x)
        first = jnp.where(size > 0, size / 10, jnp.ones_like(size)) / jnp.where(norm > 0, norm, jnp.ones_like(norm))
        inner = Memory(no_pairs(self.memory, g), -g, first)
        return self.begin(params, value, gradient, inner=inner, counts=count(values=1, gradients=1))

    def control(self, state: State) -> jax.Array:
        """The length that the next step tries."""
        return state.inner.length

    def advance(self, objective: Any, state: State) -> State:
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
        accepted, _ = acceptable(state, value, norm, -memory.length * slope)
        taken = self._advance(memory, move, g_new - g, g_new)
        judged = jnp.where(finite, value, jnp.inf)
        shorter = memory._replace(
            length=interpolate(memory.length, memory.length * slope, state.value, judged, least=0.1)
        )
        eps = jnp.finfo(value.dtype).eps
        stuck = ~accepted & (jnp.linalg.norm(move) <= eps * jnp.linalg.norm(x))
        state = counted(moved(state, accepted, trial, value, gradient, norm), values=1, gradients=1)
        status = status_of(stuck, Status.STALLED, state.status)
        return state._replace(inner=select(accepted, taken, shorter), status=status, steps=state.steps + 1)

    def _advance(self, memory: Memory, s, y, g) -> Memory:
        """The memory with a new pair (kept only where the curvature is positive) and its direction."""
        pairs = push(memory.pairs, s, y, least=float(jnp.finfo(s.dtype).eps))
        direction = -corrected_solve(pairs, lambda q: pairs.scale * q, g)
        descends = jnp.dot(direction, g) < 0
        return Memory(pairs, jnp.where(descends, direction, -g), jnp.ones_like(memory.length))
