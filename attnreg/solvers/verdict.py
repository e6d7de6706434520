"""Second looks at how a solve ended: is a zero gradient a minimum, is a stalled one as small as rounding lets it be?

They cost a few products or one pass and are taken only where they matter, outside the solver's own program.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.solvers.result import Result, Status, status_of

PRODUCTS = 16  # Hessian-vector products that the smallest and the largest curvature are told from
_DOUBTFUL = (Status.STATIONARY, Status.STALLED, Status.MAX_STEPS)


def settled(objective: Any, start: Any, result: Result) -> Result:
    """`result` with the final verdict on a stationary start, a stall, and a run that used up its steps.

    * A start whose gradient is zero, or no larger than its own rounding error: CONVERGED or AT_ROUNDING at a minimum,
      SADDLE where the curvature is negative along some direction, FLAT where there is no curvature and the loss is not
      zero. A first-order objective has no curvature to look at: STATIONARY.
    * A stall whose gradient is no larger than its rounding error (`objective.rounding`): AT_ROUNDING.

    `Solver.run` does this by itself, except inside `jit` or `vmap`, where every lane would pay for it: there a result
    keeps its first status, and `jax.vmap(settled)` settles a batch afterwards.

    Args:
        objective: of the solve. start: its start. result: of one solve.

    Returns:
        The `Result` with its final status, and with the start in the place of a point that only noise has led to.

    Precision: curvature below √eps of the largest is not told from zero; rounding is an upper estimate
    (tests/solvers/test_verdicts.py).
    Cost: nothing for a solve that converged; else two passes over the data, and `PRODUCTS` products at such a start.
    Source: derived here; Lanczos for the curvature.
    """
    if isinstance(result.status, jax.core.Tracer):
        return _settle(objective, start, result)
    return _compiled(objective, start, result) if int(result.status) in _DOUBTFUL else result


def _settle(objective: Any, start: Any, result: Result) -> Result:
    status, at_start = result.status, result.history.gradient_norm[0]
    still = status == Status.STATIONARY
    noise = jax.eval_shape(lambda x: objective.rounding(x), start)
    if noise is not None:
        doubtful = (status == Status.STALLED) | (status == Status.MAX_STEPS)
        at_end, at_beginning = (
            jax.lax.cond(doubtful, lambda x: objective.rounding(x), lambda x: jnp.zeros((), noise.dtype), x)
            for x in (result.params, start)
        )
        stalled = (status == Status.STALLED) & (result.gradient_norm <= at_end)
        nowhere = doubtful & (at_start <= at_beginning)
        # Where there was nothing to solve, the start is the answer, not where noise has led.
        params = jax.tree.map(lambda a, b: jnp.where(nowhere, a, b), start, result.params)
        value = jnp.where(nowhere, result.history.value[0], result.value)
        norm = jnp.where(nowhere, at_start, result.gradient_norm)
        result = result._replace(params=params, value=value, gradient_norm=norm)
        status = status_of(stalled | nowhere, Status.AT_ROUNDING, status)
        still = still | nowhere
    if hasattr(objective, "linearize"):
        seen = jax.lax.cond(still, lambda: _curvature(objective, start, result.value), lambda: status)
        here = status_of(status == Status.STATIONARY, Status.CONVERGED, status)
        status = jnp.where(still, jnp.where(seen == Status.CONVERGED, here, seen), status)
    return result._replace(status=status)


_compiled = jax.jit(_settle)


def _curvature(objective: Any, x: Any, value: jax.Array) -> jax.Array:
    """SADDLE, FLAT or CONVERGED for a point of zero gradient."""
    low, high = extreme_curvatures(objective, x)
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    noise = jnp.sqrt(jnp.finfo(value.dtype).eps)
    flat = status_of((size == 0) & (value > 0), Status.FLAT, Status.CONVERGED)
    return status_of(low < -noise * size, Status.SADDLE, flat)


def extreme_curvatures(objective: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest eigenvalue of the Hessian as `PRODUCTS` Lanczos steps see them, scalars.

    A random start has a part along every eigenvector, so a negative eigenvalue of the size of the largest is seen; the
    smallest value seen is never below the smallest eigenvalue by more than rounding.
    """
    line = objective.linearize(x)
    flat, unravel = ravel_pytree(x)
    steps = min(PRODUCTS, flat.size)
    first = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    tiny = jnp.finfo(flat.dtype).tiny

    def step(carry, i):
        basis, q = carry
        basis = basis.at[i].set(q)
        h = ravel_pytree(line.hvp(unravel(q)))[0]
        row = basis @ h
        rest = h - row @ basis
        rest = rest - (basis @ rest) @ basis  # twice is enough
        size = jnp.linalg.norm(rest)
        # Where the Krylov space is exhausted the rest is rounding: a zero vector adds the eigenvalue 0 and no other.
        done = size <= jnp.sqrt(jnp.finfo(flat.dtype).eps) * jnp.linalg.norm(h)
        return (basis, jnp.where(done, jnp.zeros_like(rest), rest / jnp.maximum(size, tiny))), row

    empty = jnp.zeros((steps, flat.size), flat.dtype)
    start = (empty, first / jnp.linalg.norm(first))
    _, rows = jax.lax.scan(step, start, jnp.arange(steps))
    # Row i holds qᵢᵀ-products with the basis known at step i: the lower triangle of the projected Hessian.
    lower = jnp.tril(rows)
    values = jnp.linalg.eigvalsh(lower + lower.T - jnp.diag(jnp.diagonal(lower)))
    return values[0], values[-1]
