"""Where a head in factors is looked for first: along one preconditioned step of the full unknown from 0."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.lift.rotation import nearest_factors
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.factors import Factors
from attnreg.objectives.stacked import StackedObjective
from attnreg.problems.attention import AttentionRegression


def first_direction(problem: AttentionRegression, rank: int, damping: jax.Array, options: tuple[Any, ...]) -> Factors:
    """Factors of the best part of rank `rank` of the step, in the stacked unknown where the problem is rotary."""
    turns = problem.rotary
    if turns is None:
        full = AttentionObjective(problem, *options)
    else:
        full = StackedObjective(problem, rank > turns.width, *options)
    origin = full.zeros()
    step = -full.preconditioner(origin).solve(full.value_and_grad(origin)[1], relative=damping)
    return Factors.nearest(step, rank) if turns is None else Factors(*nearest_factors(turns, step, rank))


def shortened(value: Callable[[Factors], jax.Array], direction: Factors) -> Factors:
    """The direction, or what of it halved up to nine times has the least value. Cost: ten values."""
    dtype = direction.Q.dtype
    scales = jnp.asarray(2.0, dtype) ** -jnp.arange(0, 10, dtype=dtype)
    values = jax.lax.map(lambda c: value(jax.tree.map(lambda a: a * jnp.sqrt(c), direction)), scales)
    best = jnp.sqrt(scales[jnp.nanargmin(values)])
    return jax.tree.map(lambda a: a * best, direction)
