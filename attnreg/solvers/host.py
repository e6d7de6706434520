"""The host's side of a solve: chunks of steps, each one dispatch and one read, and a clock that counts only them."""

import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.checks import check_integer
from attnreg.solvers.result import Status
from attnreg.solvers.state import State

Made = TypeVar("Made")


def chunks(
    solver: Any, objective: Any, params: Any, state: State | None, chunk: int
) -> Iterator[tuple[State, np.ndarray]]:
    """The start and then the state after every `chunk` steps, with value, gradient norm and control after each step.

    Those are rows of a (steps, 3) array. Where `state` is given the loop goes on from there.
    """
    check_integer("chunk", chunk, at_least=1)
    solver.accept(objective, params)
    start = _init(solver, objective, params)
    compiled = _advance.lower(solver, chunk, objective, start).compile()
    now: State = jax.block_until_ready(start if state is None else state)
    yield now, np.stack([np.asarray(x) for x in (now.value, now.gradient_norm, solver.control(now))])[None]
    status, steps = int(now.status), int(now.steps)
    while status == Status.RUNNING and steps < solver.max_steps:
        now, packed = compiled(objective, now)
        said = np.asarray(packed)  # the one read of a chunk, which also waits for it
        status, taken = int(said[0, 0]), int(said[0, 1])
        steps += taken
        yield now, said[1 : taken + 1]


def row_of(solver: Any, state: State) -> jax.Array:
    """What a history keeps of a state: value, gradient norm and control, (3,)."""
    return jnp.stack([x.astype(state.value.dtype) for x in (state.value, state.gradient_norm, solver.control(state))])


class Stopwatch:
    """Time spent inside a generator of states after its first one, and nowhere else."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds: float = seconds

    def time(self, states: Iterator[Made]) -> Iterator[Made]:
        """The same states, or whatever is made; `seconds` grows by what each took to make."""
        for position in itertools.count():
            begun = time.perf_counter()
            state = next(states, None)
            if state is None:
                return
            self.seconds += time.perf_counter() - begun if position else 0.0
            yield state


@functools.partial(jax.jit, static_argnums=0)
def _init(solver: Any, objective: Any, params: Any) -> State:
    return solver.ended(solver.init(objective, params))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advance(solver: Any, chunk: int, objective: Any, state: State) -> tuple[State, jax.Array]:
    """The state after a chunk of steps, or fewer where the solver ends; its status, the steps, and a row of each."""

    def unfinished(carry):
        now, _ = carry
        taken = now.steps - state.steps
        return (now.status == Status.RUNNING) & (now.steps < solver.max_steps) & (taken < chunk)

    def advance(carry):
        now, rows = carry
        place = now.steps - state.steps + 1
        now = solver.ended(solver.advance(objective, now))
        return now, rows.at[place].set(row_of(solver, now))

    empty = jnp.zeros((chunk + 1, 3), state.value.dtype)
    end, rows = jax.lax.while_loop(unfinished, advance, (state, empty))
    said = [end.status, end.steps - state.steps, jnp.zeros_like(end.status)]
    return end, rows.at[0].set(jnp.stack([x.astype(rows.dtype) for x in said]))
