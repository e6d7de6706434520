"""Where a head in factors is looked for first: along one preconditioned step of the full unknown from 0."""

from typing import Any

import jax

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
