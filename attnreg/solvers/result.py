"""What a solve returns: one `Result`, with a status that says why it ended and what to do about it."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.problems.reprs import compact, compact_repr, number


class Status(enum.IntEnum):
    """Why a solver stopped. Compiled code returns the number; `describe` has the words."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_STEPS = 3
    BAD_START = 4
    OUT_OF_TIME = 5
    AT_ROUNDING = 6
    SADDLE = 7
    FLAT = 8
    STATIONARY = 9


MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "the gradient fell below the tolerance",
    Status.STALLED: (
        "no step lowers the loss any more, and the gradient is above its rounding error. Likely causes: the loss is "
        "known to fewer digits than the gradient (use float64, or a larger tol), or the point is a saddle of a "
        "degenerate problem"
    ),
    Status.MAX_STEPS: "max_steps was reached before the tolerance; raise max_steps, loosen tol, or try another start",
    Status.BAD_START: (
        "the loss or gradient is not finite at the start. Likely causes: logits that overflow the dtype (the entries "
        "of A1 X A2ᵀ, and the sums that make them), a rescaled loss that overflows (exp(2 max logit) must fit it), or "
        "NaN in the start. Scale the data, start nearer zero, or use float64"
    ),
    Status.OUT_OF_TIME: "the time budget was used up before the tolerance",
    Status.AT_ROUNDING: (
        "the gradient is at the level of its rounding errors, short of the tolerance: as converged as this "
        "dtype can tell"
    ),
    Status.SADDLE: (
        "the start is a saddle: its gradient is zero and the loss curves down from it. Start elsewhere: "
        "objective.start(), or the start plus a small random perturbation"
    ),
    Status.FLAT: (
        "gradient and curvature are zero at the start and the loss is not. Likely causes: logits so large that the "
        "softmax is saturated (start nearer zero), or queries or keys that are zero, or alike in every row"
    ),
    Status.STATIONARY: "the gradient is zero at the start; the curvature has not been looked at",
}


def describe(status: int | jax.Array) -> str:
    """The message of a status, with its likely causes.

    Args:
        status: one `Status`, or its number as an int32 scalar.

    Returns:
        A sentence or two.

    >>> describe(Status.CONVERGED)
    'the gradient fell below the tolerance'
    """
    return MESSAGES[Status(int(status))]


@compact_repr
class Counts(NamedTuple):
    """How often each quantity was evaluated.

    Args:
        values, gradients, hessians, hvps: int32 scalars.
    """

    values: jax.Array
    gradients: jax.Array
    hessians: jax.Array
    hvps: jax.Array


@compact_repr
class History(NamedTuple):
    """Per-step record, row 0 the start; rows after the last step are NaN.

    Args:
        value, gradient_norm: (max_steps + 1,) floats, after each step. control: the same shape, the number the solver
            steers by, named by `Solver.CONTROL` (for example Newton's relative Levenberg damping).
        seconds: the same shape, wall time since the start; NaN unless the host loop ran.
    """

    value: jax.Array
    gradient_norm: jax.Array
    control: jax.Array
    seconds: jax.Array


class Result(NamedTuple):
    """Outcome of a solve.

    Args:
        params: the last accepted point, a pytree. value, gradient_norm: floating scalars, there.
        status: int32 scalar, a `Status`. steps: int32 scalar. counts: what was evaluated. history: step by step.
    """

    params: Any
    value: jax.Array
    gradient_norm: jax.Array
    status: jax.Array
    steps: jax.Array
    counts: Counts
    history: History

    @property
    def converged(self) -> jax.Array:
        """True where the gradient met the tolerance or is as small as rounding lets it be."""
        return (self.status == Status.CONVERGED) | (self.status == Status.AT_ROUNDING)

    def __repr__(self) -> str:
        said = {"status": Status(int(self.status)).name} if number(jnp.asarray(self.status)) else {}
        return compact(self, **said)

    @property
    def message(self) -> str:
        """The status of a single solve in words."""
        return describe(self.status)


def status_of(condition: jax.Array, status: jax.Array | Status, otherwise: jax.Array | Status) -> jax.Array:
    """`status` where the condition holds, `otherwise` elsewhere, as the int32 that a state carries."""
    return jnp.where(condition, status, otherwise).astype(jnp.int32)
