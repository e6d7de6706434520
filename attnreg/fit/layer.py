"""Fit a one-layer problem globally: blind restarts where they are cheap, else starts from the jet problem.

The loss has many minima, and which one a run ends in is decided early. From X within a cosine of about 0.4 of the truth
Gauss–Newton on the reduced objective finds the global minimum almost always; a random X has cosine 1/d. The jet problem
(`attnreg.objectives.jets`) knows X to a cosine above 0.9 at its global minimum, and its minima are told apart by their
values, so the search for the basin is done there, where a start costs milliseconds (docs/theory/one_layer.md has the
measurements). With few unknowns a blind restart costs a millisecond too, and one in two to eight hits: those are
tried first, in one program that ends at the first hit.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.objectives.jets import JetObjective, jet_problem
from attnreg.objectives.reduced import VariableProjection
from attnreg.problems.checks import ProblemError, check_integer, check_number
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from attnreg.problems.reprs import compact_repr
from attnreg.solvers.lbfgs import LBFGS
from attnreg.solvers.newton import Newton
from attnreg.solvers.race import Stage, normal_starts, race, take

# Blind restarts are for X of at most so many numbers: they are faster than a batch of jets at d = 6, and not at d = 8.
BLIND_UNKNOWNS = 36
BLIND_LOGITS = 0.5  # standard deviation of the logits of a blind start; 0.3 to 1 are alike
BLIND = Newton(tol=1e-14, max_steps=10, curvature="gauss_newton", damping=1e-2, warmup=0)


@dataclasses.dataclass(frozen=True)
class Search:
    """How to look for the global minimum; hashable.

    Args:
        blind: random X that are tried first, where X has at most `BLIND_UNKNOWNS` numbers.
        batch: jet starts per batch.
        ridges, steps: the falling ridge of the jet stages, and the evaluations in each.
        keep: starts that go on after each stage; the last number is how many candidates of a batch are refined.
        scale: size of the random jet starts. randoms: random X refined in every second batch.
        tol: relative loss (of ‖B − column mean‖²) that ends the search.
        probe, polish: Gauss–Newton steps before a candidate is judged, and at most.
        hopeless: a probed candidate above this relative loss is dropped.

    Raises: ProblemError for an option out of range.
    """

    blind: int = 32
    batch: int = 16
    ridges: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-5)
    steps: tuple[int, ...] = (75, 75, 75, 75)
    keep: tuple[int, ...] = (16, 16, 16, 2)
    scale: float = 0.1
    randoms: int = 4
    tol: float = 1e-10
    probe: int = 8
    polish: int = 60
    hopeless: float = 0.03

    def __post_init__(self) -> None:
        for name in ("batch", "probe", "polish"):
            check_integer(name, getattr(self, name), at_least=1)
        for name in ("blind", "randoms"):
            check_integer(name, getattr(self, name), at_least=0)
        for name in ("scale", "hopeless"):
            check_number(name, getattr(self, name), above=0)
        check_number("tol", self.tol, at_least=0)
        if not len(self.ridges) == len(self.steps) == len(self.keep) >= 1:
            sizes = f"{len(self.ridges)}, {len(self.steps)} and {len(self.keep)}"
            raise ProblemError(f"ridges, steps and keep have {sizes} entries; they must have one each a stage")
        if self.randoms == 0 and self.keep[-1] == 0:
            raise ProblemError("keep ends with 0 and randoms is 0: no candidate would ever be refined")


MET = "the tolerance was met"


class Trace(NamedTuple):
    """One event of a fit: seconds since the start, what happened, best relative loss so far."""

    seconds: float
    event: str
    best: float


@compact_repr
class Fit(NamedTuple):
    """Outcome of a global fit.

    Args:
        params: X (d1, d2) and Y (d3, c), in the data's dtype. relative: loss over ‖B − column mean‖², a float.
        solved: whether `relative` is at most `Search.tol`: at a noiseless problem, the global minimum.
        reason: why it ended, in words.
        seconds: by the clock. batches, refined, jet_evaluations: batches tried, candidates refined, evaluations spent.
        trace: what happened when.
    """

    params: Unknowns
    relative: float
    solved: bool
    reason: str
    seconds: float
    batches: int
    refined: int
    jet_evaluations: int
    trace: tuple[Trace, ...]


def variation(problem: OneLayerRegression) -> jax.Array:
    """`‖B − column mean‖²`, the loss of the best constant output and the unit of relative losses."""
    B = problem.B.reshape(-1, problem.B.shape[2])
    return jnp.sum((B - jnp.mean(B, axis=0, keepdims=True)) ** 2)


def indifferent(problem: OneLayerRegression) -> str | None:
    """Why no X can change the outputs, or None: every row of logits, or what it weighs, is constant."""

    def alike(A):
        gap = jnp.max(jnp.abs(A - A[:, :1]))
        return bool(gap <= 8 * jnp.finfo(A.dtype).eps * jnp.max(jnp.abs(A)))

    if not bool(jnp.any(problem.A1)):
        return "the queries A1 are zero"
    if alike(problem.A2):
        return "the keys A2 of a document are all alike"
    if alike(problem.A3):
        return "the values A3 of a document are all alike"
    return None


def fit_one_layer(
    key: jax.Array,
    problem: OneLayerRegression,
    *,
    search: Search | None = None,
    seconds: float = 60.0,
    batches: int = 1000,
    callback: Callable[[Trace], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Fit:
    """Global fit of X and Y.

    Args:
        key: PRNG key of the starts.
        problem: small X is first tried blindly. Then without masks the jet problem gives the starts; with a mask, small
            random X does.
        search: the options; None takes the defaults.
        seconds: time by `clock` after which no new candidate is begun. batches: at most this many batches of starts.
        callback: called with every `Trace`.
        clock: wall time; `time.process_time` makes `seconds` a budget of CPU time.

    Returns:
        `Fit` with the best point found. Where no X can change the outputs (A1 zero, keys or values all alike) it
        returns at once, and `Fit.reason` says so.

    Precision: `Search.tol`; how often it is reached is measured by configs/multi_start.py (docs/guides/one_layer.md).
    Cost: where X is small, up to `blind` times 10 reduced Gauss–Newton steps (`VariableProjection`); per batch
    `batch × Σ steps` jet evaluations of O(d⁴), and per candidate 8 to 60 of those steps.
    Raises: ProblemError for a problem or options that are none.
    Source: derived in docs/theory/one_layer.md.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> keys = jax.random.split(jax.random.key(1), 5)
        >>> A1, A2, A3 = (jax.random.normal(k, (24, 2)) for k in keys[:3])
        >>> X, Y = (jax.random.normal(k, (2, 2)) for k in keys[3:])
        >>> problem = OneLayerRegression(A1, A2, A3, jax.nn.softmax(A1 @ X @ A2.T) @ A3 @ Y)
        >>> fit_one_layer(jax.random.key(0), problem).solved
        True
    """
    if not isinstance(problem, OneLayerRegression):
        raise ProblemError(f"problem is a {type(problem).__name__}; it must be a OneLayerRegression")
    search = Search() if search is None else search
    if not isinstance(search, Search):
        raise ProblemError(f"search is a {type(search).__name__}; it must be a Search")
    check_number("seconds", seconds, at_least=0, infinite=True)
    check_integer("batches", batches, at_least=1)
    hunt = _Hunt(problem, search, seconds, callback, clock)
    why = None if problem.weight is not None else indifferent(problem)
    return hunt.run(key, batches) if why is None else hunt.give_up(why)


class _Hunt:
    """The host loop of one fit: what was found so far, and the clock."""

    def __init__(self, problem, search: Search, seconds: float, callback, clock):
        self.problem, self.search, self.seconds, self.callback = problem, search, seconds, callback
        self.reduced = VariableProjection(problem)
        self.unit = float(variation(problem)) or 1.0
        self.clock, self.started = clock, clock()
        self.best_X, self.best = self.reduced.zeros(), float("inf")
        self.trace: list[Trace] = []
        self.refined, self.spent = 0, 0

    def elapsed(self) -> float:
        return self.clock() - self.started

    def note(self, event: str) -> None:
        self.trace.append(Trace(self.elapsed(), event, self.best))
        if self.callback is not None:
            self.callback(self.trace[-1])

    def run(self, key: jax.Array, batches: int) -> Fit:
        if self.search.blind and self.best_X.size <= BLIND_UNKNOWNS:
            key, sub = jax.random.split(key)
            self._blind(sub)
            if self.best <= self.search.tol:
                return self._outcome(MET, 0)
        masked = self.problem.mask is not None or self.problem.causal
        jets = None if masked else _prepare(self.problem)
        done = 0
        while done < batches and self.best > self.search.tol and (done == 0 or self.elapsed() < self.seconds):
            key, sub = jax.random.split(key)
            # When a batch of jet starts fails, the jet itself may be too poor (few queries): random X of the same size
            # takes every second turn, for which only stalling, not the probe's loss, is a verdict.
            if jets is None or done % 2 == 1:
                starts, hopeless = self._random(sub, jets), float("inf")
            else:
                starts, hopeless = self._from_jets(sub, jets), self.search.hopeless
            done += 1
            for i in range(starts.shape[0]):
                if self.best <= self.search.tol or (i > 0 and self.elapsed() >= self.seconds):
                    break
                self._refine(starts[i], hopeless)
        reason = "all batches were tried" if done == batches else "the time was up"
        return self._outcome(MET if self.best <= self.search.tol else reason, done)

    def give_up(self, why: str) -> Fit:
        """The best Y at X = 0, where X changes nothing."""
        self.best = float(self.reduced.value(self.best_X)) / self.unit
        reason = f"{why}: no X changes the outputs, and the best Y is found at X = 0"
        self.note(reason)
        return self._outcome(reason, 0)

    def _outcome(self, reason: str, batches: int) -> Fit:
        params, solved = self.reduced.complete(self.best_X), self.best <= self.search.tol
        done = (self.elapsed(), batches, self.refined, self.spent, tuple(self.trace))
        return Fit(params, self.best, solved, reason, *done)

    def _blind(self, key) -> None:
        """Random X one after another; the best is refined if none of them solves the problem."""
        goal = self.search.tol * self.unit
        X, value, tried = blind_starts(self.reduced, key, goal, count=self.search.blind)
        self.refined, relative = self.refined + int(tried), float(value) / self.unit
        if relative < self.best:
            self.best_X, self.best = X, relative
        self.note(f"{int(tried)} blind starts: best relative loss {relative:.3g}")
        if relative > self.search.tol:
            self._refine(X, float("inf"))

    def _random(self, key, jets: JetObjective | None) -> jax.Array:
        starts = normal_starts(key, self.reduced.zeros(), self.search.randoms)
        return starts * (self.search.scale if jets is None else jets.unit.X)

    def _from_jets(self, key, jets: JetObjective) -> jax.Array:
        survivors = _race(self.search, jets, key)
        self.spent += int(survivors.evaluations)
        self.note(f"jet batch: best mismatch {float(survivors.values[0]):.3g}")
        return take(survivors.params, jnp.arange(self.search.keep[-1])).X * jets.unit.X

    def _refine(self, X: jax.Array, hopeless: float) -> None:
        """Gauss–Newton from one candidate: a probe, and the rest only if the probe is promising."""
        self.refined += 1
        solver = Newton(tol=1e-14, max_steps=self.search.probe, curvature="gauss_newton", damping=1e-2)
        result = solver.run(self.reduced, X)
        rounds = 0
        while float(result.value) / self.unit > self.search.tol and rounds * self.search.probe < self.search.polish:
            if float(result.value) / self.unit > hopeless * (2 if rounds == 0 else 1):
                break
            before = float(result.value)
            result = solver.run(self.reduced, result.params)
            rounds += 1
            if float(result.value) > 0.98 * before:
                break
        relative = float(result.value) / self.unit
        if relative < self.best:
            self.best_X, self.best = result.params, relative
        self.note(f"candidate {self.refined}: relative loss {relative:.3g}")


_prepare = jax.jit(jet_problem)


@jax.jit(static_argnames="count")
def blind_starts(
    reduced: VariableProjection, key: jax.Array, goal: jax.Array | float, *, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best X (d1, d2) of at most `count` blind restarts, its loss, and how many were tried until one met `goal`."""
    problem, zero = reduced.problem, reduced.zeros()
    rows = [jnp.mean(jnp.sum(A * A, axis=-1)) for A in (problem.A1, problem.A2)]
    size = BLIND_LOGITS / jnp.sqrt(jnp.maximum(rows[0] * rows[1], jnp.finfo(zero.dtype).tiny))

    def unfinished(carry):
        _, value, tried = carry
        return (tried < count) & ~(value <= goal)

    def one(carry):
        best, value, tried = carry
        draw = jax.random.normal(jax.random.fold_in(key, tried), zero.shape, zero.dtype)
        result = BLIND.run(reduced, size * draw)
        better = result.value < value  # NaN is not
        return jnp.where(better, result.params, best), jnp.where(better, result.value, value), tried + 1

    nothing = jnp.asarray(jnp.inf, zero.dtype)
    return jax.lax.while_loop(unfinished, one, (zero, nothing, jnp.int32(0)))


def _race(search: Search, jets: JetObjective, key: jax.Array):
    starts = normal_starts(key, jets.zeros(), search.batch, scale=search.scale)
    stages = [
        Stage(
            LBFGS(tol=1e-6, max_steps=steps),
            dataclasses.replace(jets, ridge=jnp.asarray(ridge, jets.ridge.dtype)),
            keep,
        )
        for ridge, steps, keep in zip(
            jnp.asarray(search.ridges, jets.ridge.dtype), search.steps, search.keep, strict=True
        )
    ]
    return race(stages, starts)
