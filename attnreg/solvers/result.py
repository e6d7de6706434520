"""What a solve returns: one `Result`, with a status that says why it ended and what to do about it."""

import enum
from typing import Any, NamedTuple

import jax


class Status(enum.IntEnum):
    """Why a solver stopped. Compiled code returns the number; `describe` has the words."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_STEPS = 3
    BAD_START = 4
    OUT_OF_TIME = 5


MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "the gradient fell below the tolerance",
    Status.STALLED: (
        "no step lowers the loss any more. Likely causes: the gradient is already rounding error (compare "
        "gradient_norm with eps × its size at the start; use float64 or a larger tol), or the point is a saddle of a "
        "degenerate problem"
    ),
    Status.MAX_STEPS: "max_steps was reached before the tolerance; raise max_steps, loosen tol, or try another start",
    Status.BAD_START: (
        "the loss or gradient is not finite at the start. Likely causes: a rescaled loss that overflows "
        "(exp(2 max logit) must fit the dtype; scale the data, start nearer zero, use float64), or NaN in the start"
    ),
    Status.OUT_OF_TIME: "the time budget was used up before the tolerance",
}


def describe(status: int | jax.Array) -> str:
    """The message of a status, with its likely causes.

    >>> describe(Status.CONVERGED)
    'the gradient fell below the tolerance'
    """
    return MESSAGES[Status(int(status))]


class Counts(NamedTuple):
    """How often each quantity was evaluated (int32 scalars)."""

    values: jax.Array
    gradients: jax.Array
    hessians: jax.Array
    hvps: jax.Array


class History(NamedTuple):
    """Per-step record, row 0 the start; rows after the last step are NaN.

    value, gradient_norm: after each step. damping: the solver's regularisation (Levenberg shift or trust radius).
    seconds: wall time since the start; NaN unless the host loop ran.
    """

    value: jax.Array
    gradient_norm: jax.Array
    damping: jax.Array
    seconds: jax.Array


class Result(NamedTuple):
    """Outcome of a solve: params (the last accepted point), value, gradient_norm, status, steps, counts, history."""

    params: Any
    value: jax.Array
    gradient_norm: jax.Array
    status: jax.Array
    steps: jax.Array
    counts: Counts
    history: History

    @property
    def converged(self) -> jax.Array:
        """True where the gradient tolerance was met."""
        return self.status == Status.CONVERGED
