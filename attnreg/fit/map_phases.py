"""How a head is found from its maps where logarithms of maps are not linear in one matrix: rotary heads, soft caps.

Three phases of Levenberg–Marquardt, all in the factors:

1. on the Kullback–Leibler loss, from small random factors. It is convex in the logits and weighs a key by its mass, so
   a sink that takes most of every row is fitted first and the rest after it;
2. on the distance of row-centred logits to the logarithms of the maps. It weighs all keys alike, so what hides behind a
   sink counts as much as the sink; entries that may have underflowed are left out;
3. on the squared error of the maps, which is what rounded or noisy maps want.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.fit.gauss_newton import Options, announce_steps, gauss_newton_steps
from attnreg.fit.watch import Watch
from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import Block
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import pytree_dataclass, replaced
from attnreg.rows.capping import capped, through
from attnreg.rows.centred import centred
from attnreg.rows.curvature import RowTerms

# Entries of a map below this many times the smallest normal number may have been rounded: their logarithms say nothing.
TRUSTED = 1e3
# Size of the logits' factors at the start, in white inputs: maps are near uniform there.
START = 0.2
# Loss below which the first phase has found the basin, and above which a start has failed; how many starts there are.
NEAR, POOR, STARTS = 1e-2, 3e-2, 6
# A phase ends when so many steps have lowered its loss by less than this factor.
PATIENCE, PROGRESS = 8, 0.7


@pytree_dataclass("rank", "block_rows", "axis_name")
class LogarithmObjective(FactoredObjective):
    """`Σ ‖C(S − B)‖²` in the factors of a head, C centring each row: B holds logarithms of maps."""

    def _each_row(self, projected: AttentionRegression, block: Block) -> RowTerms:
        seen = capped(tt.matmul(block.query, block.keys.T), projected.scale, projected.soft_cap)
        return through(centred(seen.logits, block.b, block.mask), seen)


def trusted(problem: AttentionRegression) -> jax.Array:
    """Where the logarithms of the maps can be trusted, (k, n, m); a causal mask is left to the problem."""
    B = jnp.asarray(problem.B)
    seen = TRUSTED * jnp.finfo(B.dtype).tiny < B
    return seen if problem.mask is None else seen & jnp.asarray(problem.mask)


def divergence_of(objective: FactoredObjective) -> FactoredObjective:
    """The Kullback–Leibler objective of the same maps; what noise has made negative is 0."""
    problem = replaced(objective.problem, loss="kl", B=jnp.maximum(jnp.asarray(objective.problem.B), 0))
    return replaced(objective, problem=problem)


def logarithms_of(objective: FactoredObjective) -> LogarithmObjective:
    """The objective in the logarithms of the same maps."""
    seen = trusted(objective.problem)
    logs = jnp.log(jnp.where(seen, jnp.asarray(objective.problem.B), 1))
    return LogarithmObjective(replaced(objective.problem, B=logs, mask=seen), objective.rank)


def small_factors(objective: FactoredObjective, key: jax.Array) -> Factors:
    """Random factors for white inputs whose logits are small."""
    like, scale = objective.zeros(), objective.problem.scale
    size = START / jnp.sqrt(jnp.asarray(like.Q.shape[0], like.Q.dtype))
    size = size if scale is None else size / jnp.sqrt(scale)
    return Factors(
        *(size * jax.random.normal(k, W.shape, W.dtype) for k, W in zip(jax.random.split(key), like, strict=True))
    )


def phase(objective: FactoredObjective, x: Factors, options: Options, watch: Watch) -> Iterator[tuple[Factors, float]]:
    """Steps of one phase, points and losses, until it makes no progress."""
    losses: list[float] = []
    for step in gauss_newton_steps(objective, x, options, watch.expired):
        losses.append(step.value)
        yield step.params, step.value
        if len(losses) > PATIENCE and losses[-1] > PROGRESS * losses[-1 - PATIENCE]:
            return


def find_head(objective: FactoredObjective, watch: Watch, back: Any, options: Options) -> Factors | None:
    """Factors from the first two phases, of the best of several starts; None when the watch has said stop."""
    divergence, logs = divergence_of(objective), logarithms_of(objective)
    for later in (logs, objective):
        announce_steps(later, later.zeros())
    best, lowest = None, float("inf")
    for attempt in range(STARTS):
        x = small_factors(objective, jax.random.fold_in(jax.random.key(0), attempt))
        for name, of in (("divergence", divergence), ("logarithms", logs)):
            found, train = x, float("inf")
            for number, (point, _) in enumerate(phase(of, x, options, watch), 1):
                loss = float(objective.value(point)) / watch.unit
                if loss < train or name == "divergence":
                    found, train = point, loss
                if watch.note(name, number, loss, back(point)):
                    return None
                if name == "divergence" and loss <= NEAR:
                    break
            # Logarithms of rounded maps can lead away: the first phase is kept where it was better.
            if train < lowest:
                best, lowest = found, train
            x = found
        if lowest <= POOR:
            break
    return best


def every_phase(objective: FactoredObjective, watch: Watch, back: Any, options: Options) -> None:
    """All three phases, until the watch says stop."""
    x = find_head(objective, watch, back, options)
    if x is None:
        return
    for number, step in zip(itertools.count(1), gauss_newton_steps(objective, x, options, watch.expired), strict=False):
        if watch.note("gauss_newton", number, step.value / watch.unit, back(step.params)):
            return
