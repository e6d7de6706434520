"""How a head is found from its maps where logarithms of maps are not linear in one matrix: rotary heads, soft caps.

Three phases of Levenberg–Marquardt, all in the factors:

1. on the Kullback–Leibler loss, from small random factors. It is convex in the logits and weighs a key by its mass, so
   a sink that takes most of every row is fitted first and the rest after it;
2. on the distance of row-centred logits to the logarithms of the maps. It weighs all keys alike, so what hides behind a
   sink counts as much as the sink; entries that may have underflowed are left out. Where this ends too high, the spans
   of Q and K are shared out anew among the frequencies (`reassigned`), and the phase is taken again;
3. on the squared error of the maps, which is what rounded or noisy maps want.
"""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.fit.gauss_newton import Options, announce_steps, gauss_newton_steps
from attnreg.fit.watch import Watch
from attnreg.lift import tensor_trick as tt
from attnreg.lift.rotation import nearest_factors
from attnreg.lift.streaming import Block
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.objectives.stacked import StackedObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import pytree_dataclass, replaced
from attnreg.problems.rotary import Rotation
from attnreg.rows.capping import capped, through
from attnreg.rows.centred import centred
from attnreg.rows.curvature import RowTerms

# Entries of a map below this many times the smallest normal number may have been rounded: their logarithms say nothing.
TRUSTED = 1e3
# Size of the logits' factors at the start, in white inputs: maps are near uniform there.
START = 0.2
# Loss of the maps at which the first phase has found the basin; above which spans are shared out anew, so many times;
# and above which a start has failed. How many starts there are.
NEAR, GOOD, ROUNDS, POOR, STARTS = 1e-2, 1e-4, 2, 1e-3, 4
# Conjugate-gradient products that share spans out among frequencies, and equations per unknown that they look at.
PRODUCTS, EQUATIONS = 100, 2
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
    seen = jnp.asarray(TRUSTED * jnp.finfo(B.dtype).tiny < B)
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


@pytree_dataclass("rest", "block_rows", "axis_name")
class StackedLogarithms(StackedObjective):
    """The same in the stacked unknown, in which it is quadratic where there is no soft cap."""

    def _rows(self, Z: jax.Array, block: Block) -> RowTerms:
        seen = capped(self._logits(Z, block), self.problem.scale, self.problem.soft_cap)
        return through(centred(seen.logits, block.b, block.mask), seen)


@jax.jit
def reassigned(objective: LogarithmObjective, x: Factors) -> Factors:
    """What x spans, shared out anew among the frequencies: least squares in the stacked unknown of the spans.

    A local minimum has the right columns at the wrong frequencies, most of all at slow ones, which differ little over a
    text. Within the spans of Q and K the logits are linear in few unknowns, w r² of them, whatever the width of A.

    Cost: `PRODUCTS` products of a `StackedObjective` r wide, and w/2 singular value decompositions.
    """
    turns = objective.problem.rotary
    assert turns is not None
    problem = _some(objective.problem, turns, objective.rank)
    spans = [jnp.linalg.qr(W)[0] for W in x]
    reads = [tt.matmul(A, U) for A, U in zip((problem.A1, problem.A2), spans, strict=True)]
    stacked = StackedLogarithms(replaced(problem, A1=reads[0], A2=reads[1]), objective.rank > turns.width)
    line = stacked.linearize(stacked.zeros(), gauss_newton=True)
    preconditioner = stacked.preconditioner(stacked.zeros())
    Z = jax.scipy.sparse.linalg.cg(
        line.hvp, -line.gradient, tol=float(jnp.finfo(problem.dtype).eps), maxiter=PRODUCTS,
        M=lambda v: preconditioner.solve(v, relative=1e-6),
    )[0]  # fmt: skip
    few = nearest_factors(turns, Z, objective.rank)
    return Factors(*(tt.matmul(U, W) for U, W in zip(spans, few, strict=True)))


def _some(problem: AttentionRegression, turns: Rotation, rank: int) -> AttentionRegression:
    """Evenly spread documents, enough for the stacked unknown of heads `rank` wide."""
    k, n, m = problem.sizes[:3]
    few = min(k, -(-EQUATIONS * turns.width * rank**2 // (n * m // (2 if problem.causal else 1) or 1)))
    every = k // few

    def cut(x):
        return x if x is None or x.shape[0] == 1 else x[: every * few : every]

    parts = {name: cut(getattr(problem, name)) for name in ("A1", "A2", "B", "mask")}
    return replaced(problem, **parts, rotary=turns.documents(cut))


class _Search:
    """The first two phases, and what they have found so far."""

    def __init__(self, objective: FactoredObjective, watch: Watch, back: Any, options: Options):
        self.objective, self.watch, self.back, self.options = objective, watch, back, options
        self.divergence, self.logs = divergence_of(objective), logarithms_of(objective)
        self.best, self.lowest = objective.zeros(), float("inf")
        self.over = False

    def run(self) -> None:
        """Starts until one is good enough."""
        for later in (self.logs, self.objective):
            announce_steps(later, later.zeros())
        for attempt in range(STARTS):
            x = small_factors(self.objective, jax.random.fold_in(jax.random.key(0), attempt))
            train, x = self._phase("divergence", self.divergence, x, NEAR)
            if not self.over:
                train, x = self._phase("logarithms", self.logs, x)
            for _ in range(ROUNDS):
                if self.over or self.objective.problem.rotary is None or train <= GOOD:
                    break
                train, x = self._phase("reassigned", self.logs, reassigned(self.logs, x))
            if self.over or self.lowest <= POOR:
                return

    def _phase(self, name: str, of: FactoredObjective, x: Factors, enough: float = 0.0) -> tuple[float, Factors]:
        """Where a phase ends: the loss of the maps and the factors; the best so far is kept by that loss."""
        loss, losses = float("inf"), []
        for number, step in enumerate(gauss_newton_steps(of, x, self.options, self.watch.expired), 1):
            x, loss = step.params, float(self.objective.value(step.params)) / self.watch.unit
            if loss < self.lowest:
                self.best, self.lowest = x, loss
            self.over = self.watch.note(name, number, loss, self.back(x))
            losses.append(step.value)
            slow = len(losses) > PATIENCE and losses[-1] > PROGRESS * losses[-1 - PATIENCE]
            if self.over or slow or loss <= enough:
                break
        return loss, x


def every_phase(objective: FactoredObjective, watch: Watch, back: Any, options: Options) -> None:
    """All three phases, until the watch says stop."""
    search = _Search(objective, watch, back, options)
    search.run()
    if search.over:
        return
    for number, step in enumerate(gauss_newton_steps(objective, search.best, options, watch.expired), 1):
        if watch.note("gauss_newton", number, step.value / watch.unit, back(step.params)):
            return
