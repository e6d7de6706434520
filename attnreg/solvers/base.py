"""The solver interface: `init` and `step` are pure, `run` is one compiled loop, `run_on_host` shows progress.

A solver is a frozen dataclass of options (hashable, so it is static under jit). It sees an objective, never a loss.
"""

import abc
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from attnreg.objectives.base import Objective
from attnreg.solvers.result import Counts, History, Result, Status


class State(NamedTuple):
    """Where a solver stands. `inner` is the solver's own memory (a cached Hessian, an optax state)."""

    params: Any
    value: jax.Array
    gradient: Any
    gradient_norm: jax.Array
    start_value: jax.Array
    start_gradient_norm: jax.Array
    damping: jax.Array
    growth: jax.Array
    status: jax.Array
    steps: jax.Array
    counts: Counts
    inner: Any


def tree_dot(a: Any, b: Any) -> jax.Array:
    """Inner product of two pytrees."""
    return cast(jax.Array, sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def tree_norm(a: Any) -> jax.Array:
    """Euclidean norm of a pytree."""
    return jnp.sqrt(tree_dot(a, a))


def tree_axpy(scale: Any, a: Any, b: Any) -> Any:
    """`scale · a + b`."""
    return jax.tree.map(lambda x, y: scale * x + y, a, b)


def count(**counts: int | jax.Array) -> Counts:
    """`Counts` with the named entries, zero elsewhere."""
    return Counts(*(jnp.asarray(counts.get(name, 0), jnp.int32) for name in Counts._fields))


def add_counts(a: Counts, b: Counts) -> Counts:
    """Entrywise sum."""
    return Counts(*(x + y for x, y in zip(a, b, strict=True)))


class Solver(abc.ABC):
    """Options of a solver. Subclasses are frozen dataclasses with fields `tol` and `max_steps` at least.

    tol: stop when the gradient norm is at most `tol` times its norm at the start.
    """

    tol: float
    max_steps: int

    @abc.abstractmethod
    def init(self, objective: Objective, params: Any) -> State:
        """The state at the start."""

    @abc.abstractmethod
    def step(self, objective: Objective, state: State) -> State:
        """One iteration. Does nothing once `state.status` is not RUNNING."""

    def start(self, params, value, gradient, *, damping, inner, counts: Counts) -> State:
        """Common part of `init`."""
        norm = tree_norm(gradient)
        ok = jnp.isfinite(value) & jnp.isfinite(norm)
        status = jnp.where(ok, jnp.where(norm == 0, Status.CONVERGED, Status.RUNNING), Status.BAD_START)
        return State(
            params=params,
            value=value,
            gradient=gradient,
            gradient_norm=norm,
            start_value=value,
            start_gradient_norm=norm,
            damping=jnp.asarray(damping, value.dtype),
            growth=jnp.asarray(2, value.dtype),
            status=status.astype(jnp.int32),
            steps=jnp.zeros((), jnp.int32),
            counts=counts,
            inner=inner,
        )

    def ended(self, state: State) -> State:
        """`state` with CONVERGED set where the tolerance is met."""
        done = (state.status == Status.RUNNING) & (state.gradient_norm <= self.tol * state.start_gradient_norm)
        return state._replace(status=jnp.where(done, Status.CONVERGED, state.status).astype(jnp.int32))

    def run(self, objective: Objective, params: Any) -> Result:
        """Solve from `params` in one compiled loop; can be jitted and vmapped over objectives and starts."""
        return _run(self, objective, params)

    def iterate(self, objective: Objective, params: Any, *, state: State | None = None) -> Iterator[State]:
        """States one by one from a host loop, the start first; ends by itself when the solver does.

        Pass `state` (for example from a checkpoint) to go on from there; `params` then only gives shapes.
        The step is compiled before the first state is handed out, so what a caller times is the work.
        """
        start = _init(self, objective, params)
        compiled = _step.lower(self, objective, start).compile()
        now: State = jax.block_until_ready(start if state is None else state)
        yield now
        while int(now.status) == Status.RUNNING and int(now.steps) < self.max_steps:
            now = jax.block_until_ready(compiled(objective, now))
            yield now

    def run_on_host(
        self,
        objective: Objective,
        params: Any,
        *,
        callback: Callable[[State, float], None] | None = None,
        seconds: float = float("inf"),
    ) -> Result:
        """The same solve with a host loop: `callback(state, elapsed)` after each step, stopped after `seconds`.

        Neither compilation nor the callback is on the clock.
        """
        clock = Stopwatch()
        rows: list[tuple] = []
        state = None
        for state in clock.time(self.iterate(objective, params)):
            late = clock.seconds >= seconds and int(state.status) == Status.RUNNING
            if late:
                state = state._replace(status=jnp.asarray(Status.OUT_OF_TIME, jnp.int32))
            elapsed = jnp.asarray(clock.seconds, state.value.dtype)
            rows.append((state.value, state.gradient_norm, state.damping, elapsed))
            if callback is not None:
                callback(state, clock.seconds)
            if late:
                break
        assert state is not None, "a solver hands out its start"
        return finished(state, History(*(jnp.stack(column) for column in zip(*rows, strict=True))))


class Stopwatch:
    """Time spent inside a generator of states after its first one, and nowhere else."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def time(self, states: Iterator[State]) -> Iterator[State]:
        """The same states; `seconds` grows by what each took to make."""
        for position in itertools.count():
            begun = time.perf_counter()
            state = next(states, None)
            if state is None:
                return
            self.seconds += time.perf_counter() - begun if position else 0.0
            yield state


def rounding_of_value(state: State) -> jax.Array:
    """Size of rounding errors in the loss: residuals carry eps × the targets' size, `√start_value`."""
    eps = jnp.finfo(state.value.dtype).eps
    return 8 * eps * (jnp.abs(state.value) + jnp.sqrt(jnp.abs(state.value * state.start_value)))


def acceptable(state: State, value, gradient_norm, predicted) -> tuple[jax.Array, jax.Array]:
    """Whether to take a trial point, and the ratio of actual to predicted decrease.

    Below rounding error of the loss the ratio says nothing and the gradient decides.
    """
    finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    actual = jnp.where(finite, state.value - value, -jnp.inf)
    noise = rounding_of_value(state)
    blind = (predicted <= noise) & (jnp.abs(actual) <= 4 * noise)
    ratio = jnp.where(blind, jnp.where(gradient_norm < state.gradient_norm, 1.0, 0.0), actual / predicted)
    return finite & (ratio > 1e-4) & (predicted > 0), ratio.astype(state.value.dtype)


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Pytree `where`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def finished(state: State, history: History) -> Result:
    """The `Result` of a solve that ends in `state`."""
    status = jnp.where(state.status == Status.RUNNING, Status.MAX_STEPS, state.status).astype(jnp.int32)
    return Result(state.params, state.value, state.gradient_norm, status, state.steps, state.counts, history)


@functools.partial(jax.jit, static_argnums=0)
def _run(solver: Solver, objective: Objective, params: Any) -> Result:
    state = solver.ended(solver.init(objective, params))
    nan = jnp.full((solver.max_steps + 1,), jnp.nan, state.value.dtype)
    history = _record(History(nan, nan, nan, nan), state)

    def unfinished(carry):
        state, _ = carry
        return (state.status == Status.RUNNING) & (state.steps < solver.max_steps)

    def advance(carry):
        state, history = carry
        state = solver.ended(solver.step(objective, state))
        return state, _record(history, state)

    state, history = jax.lax.while_loop(unfinished, advance, (state, history))
    return finished(state, history)


def _record(history: History, state: State) -> History:
    def put(column, value):
        return column.at[state.steps].set(value)

    return history._replace(
        value=put(history.value, state.value),
        gradient_norm=put(history.gradient_norm, state.gradient_norm),
        damping=put(history.damping, state.damping),
    )


@functools.partial(jax.jit, static_argnums=0)
def _init(solver: Solver, objective: Objective, params: Any) -> State:
    return solver.ended(solver.init(objective, params))


@functools.partial(jax.jit, static_argnums=0)
def _step(solver: Solver, objective: Objective, state: State) -> State:
    return solver.ended(solver.step(objective, state))
