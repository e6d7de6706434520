"""What a peer is: a solver on the plain loss (or residuals) of a cell, that both benchmarks run by the same four calls.

A peer is bound to the functions of a cell and takes start and data as arguments, so that all instances of one size
share its programs. x is whatever the cell says: a vector, a matrix, or any pytree of arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.benchmarks.cells import Cell
from experiments.benchmarks.timing import Clock

MAX_STEPS = 5000  # of a trial between two looks at the clock, and the most in all
CHUNK = 20  # steps between two looks at the loss in a hunt


class Outcome(NamedTuple):
    """What one solve gives: the point in any shape, and how often what was evaluated (numbers, or device scalars)."""

    x: Any
    evaluations: dict[str, Any]


class Trial(NamedTuple):
    """A run towards a gradient norm: the norm it came to, how long that took, and the same run again if it got there.

    `replay` is what is timed: compiled, without a test that its solver would not make.
    """

    size: float
    spent: str
    replay: Callable[[], Outcome] | None


class Method(NamedTuple):
    """A peer bound to a cell's functions.

    Attributes:
        begin: `(x0, data) -> carry`.
        advance: `(carry, data) -> carry`, a chunk of steps later.
        x: `carry -> x`.
        trial: `(x0, data, goal, seconds) -> Trial`; ends when the gradient norm is `goal` or the CPU seconds are over.
    """

    begin: Callable[[Any, Any], Any]
    advance: Callable[[Any, Any], Any]
    x: Callable[[Any], Any]
    trial: Callable[[Any, Any, float, float], Trial]


class Peer(NamedTuple):
    """A solver with one setting; `dense` is how many arrays of residuals × unknowns it forms."""

    name: str
    setting: str
    bind: Callable[[Cell], Method]
    dense: float = 0.0


class Functions(NamedTuple):
    """The plain loss and residuals over their unit; `data` is `arguments(cell)`."""

    loss: Callable[[Any, Any], jax.Array]
    residuals: Callable[[Any, Any], jax.Array]


class Steps(NamedTuple):
    """A compiled peer as pure functions: start(x0, data) -> carry, step(carry, data), x(carry), counts(carry)."""

    start: Callable[[Any, Any], Any]
    step: Callable[[Any, Any], Any]
    x: Callable[[Any], Any]
    counts: Callable[[Any], dict[str, Any]]


def arguments(cell: Cell) -> tuple[Any, jax.Array]:
    """What the functions of a bound peer take as data: the cell's, and the unit of its losses."""
    return cell.data, jnp.asarray(cell.unit(cell.data))


def scaled(cell: Cell) -> Functions:
    """Loss and residuals over the unit (several libraries stop at once on small losses)."""

    def loss(x: Any, data: Any) -> jax.Array:
        return cell.loss(x, data[0]) / data[1]

    def residuals(x: Any, data: Any) -> jax.Array:
        if cell.residuals is None:
            raise ValueError(f"cell {cell.name!r} has no residuals to give")
        return cell.residuals(x, data[0]) / jnp.sqrt(data[1])

    return Functions(loss, residuals)


def gradient_norm(functions: Functions, x: Any, data: Any) -> jax.Array:
    """Norm of the autodiff gradient of the scaled loss."""
    return jnp.linalg.norm(ravel_pytree(jax.grad(functions.loss)(x, data))[0])


def compiled(
    name: str, setting: str, make: Callable[[Functions, Cell], Steps], *, dense: float = 0.0, chunk: int = CHUNK
) -> Peer:
    """The peer of `make(functions, cell)`: every call of it is one compiled program."""

    def bind(cell: Cell) -> Method:
        functions = scaled(cell)
        steps = make(functions, cell)

        @jax.jit
        def advance(carry: Any, data: Any) -> Any:
            return jax.lax.fori_loop(0, chunk, lambda _, c: steps.step(c, data), carry)

        def trial(x0: Any, data: Any, goal: float, seconds: float) -> Trial:
            needed, size, spent = _steps_needed(functions, steps, (x0, data), goal, seconds)
            return Trial(size, spent, None if needed is None else _replay(steps, (x0, data), needed))

        return Method(jax.jit(steps.start), advance, steps.x, trial)

    return Peer(name, setting, bind, dense)


def _replay(steps: Steps, given: tuple[Any, Any], number: int) -> Callable[[], Outcome]:
    """The first `number` steps in one compiled loop without any test."""

    def solve(x0: Any, data: Any, number: Any) -> tuple[Any, dict[str, Any]]:
        carry = jax.lax.fori_loop(0, number, lambda _, c: steps.step(c, data), steps.start(x0, data))
        return steps.x(carry), steps.counts(carry)

    program = jax.jit(solve).lower(*given, np.int64(number)).compile()

    def run() -> Outcome:
        x, count = program(*given, np.int64(number))  # whoever times it waits
        return Outcome(x, {"steps": number} | count)

    return run


def _steps_needed(
    functions: Functions, steps: Steps, given: tuple[Any, Any], goal: float, seconds: float
) -> tuple[int | None, float, str]:
    """How many steps bring the gradient norm to `goal`, or None; the norm reached, and what was spent."""
    x0, data = given

    def advance(data: Any, carry: Any, taken: Any, goal: Any, most: Any) -> tuple[Any, Any, Any]:
        def unfinished(state: Any) -> Any:
            _, i, size = state
            return (size > goal) & (i < most)

        def body(state: Any) -> Any:
            carry, i, _ = state
            carry = steps.step(carry, data)
            return carry, i + 1, gradient_norm(functions, steps.x(carry), data)

        start = (carry, taken, gradient_norm(functions, steps.x(carry), data))
        return jax.lax.while_loop(unfinished, body, start)

    carry = jax.jit(steps.start)(x0, data)
    program = jax.jit(advance).lower(data, carry, np.int64(0), goal, np.int64(1)).compile()
    taken, size, most, clock = 0, np.inf, 1, Clock()
    while size > goal:
        carry, taken, size = jax.block_until_ready(program(data, carry, np.int64(taken), goal, np.int64(most)))
        size = float(size)
        if not np.isfinite(size):
            return None, np.inf, f"after {int(taken)} steps"
        if size > goal and (clock.cpu > seconds or most == MAX_STEPS):
            return None, size, f"after {int(taken)} steps, {clock.cpu:.0f} CPU s"
        most = min(2 * most, MAX_STEPS)
    return int(taken), size, ""
