"""`fit_layer`: the weights of an attention layer from what it reads and what it writes."""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.fit.coordinates import scaled, variation, whitened
from attnreg.fit.first_phase import Stochastic, stochastic_slices
from attnreg.fit.gauss_newton import Options, gauss_newton_steps
from attnreg.fit.layer_fit import LayerFit, determined
from attnreg.objectives.layer import LayerObjective
from attnreg.problems.checks import ProblemError, check_integer, check_number
from attnreg.problems.layer import LayerRegression, LayerWeights

# A first phase whose loss stays above this has not found a basin; it is then drawn again, this many times in all.
LOST, ATTEMPTS = 0.5, 3


class Progress(NamedTuple):
    """One line of a fit: seconds since its start, phase, step in the phase, losses so far in `UNIT` (NaN if unknown).

    weights: the current ones, for the inputs and outputs as they were given.
    """

    seconds: float
    phase: str
    step: int
    train: float
    heldout: float
    weights: LayerWeights


def fit_layer(
    A: ArrayLike,
    outputs: ArrayLike,
    *,
    rank: int,
    heads: int = 1,
    value_rank: int | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    heldout: tuple[ArrayLike, ...] | None = None,
    tol: float = 1e-8,
    seconds: float = 120.0,
    key: jax.Array | None = None,
    start: LayerWeights | None = None,
    callback: Callable[[Progress], None] | None = None,
    first: Stochastic | None = None,
    second: Options | None = None,
) -> LayerFit:
    """Weights with which `Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h` is near `outputs`.

    First Adam on a few documents at a time from small weights, which finds the basin; then Levenberg–Marquardt on all
    documents in whitened inputs, which goes down to rounding if such weights exist.

    Args:
        A: (…, n, d) what the layer reads; leading axes are documents. outputs: (…, n, c) what it writes.
        rank: r, the width of queries and keys. heads: h, their outputs add up.
        value_rank: s, the width of the values; None takes V (h, d, c) whole and no O.
        mask: boolean, broadcastable to (…, n, n), True where a query may attend a key. causal: keys ≤ query only.
        heldout: documents to judge by, `(A, outputs)` or `(A, outputs, mask)`.
        tol: loss at which to stop, held out if there is such, in units of the deviation from the column mean.
        seconds: wall time after which it ends with what it has (compiling counts too).
        key: PRNG key; None is `jax.random.key(0)`.
        start: weights to go on from instead of the first phase.
        callback: called with `Progress`.
        first, second: constants of the two phases.

    Returns:
        `LayerFit`, with the weights of the best held-out (else training) loss.

    Precision: weights have the dtype of A; float32 reaches about 1e-9 (docs/guides/recover.md).
    Cost: `Stochastic.steps` gradients of a few documents, then per step up to `Options.max_products` products of
        `LayerObjective`; memory as there.
    Raises:
        ProblemError: for data or options that do not fit.

    Example:
        >>> import numpy as np
        >>> from attnreg.fit.layer_fit import predict
        >>> rng = np.random.default_rng(0)
        >>> A, X, V = (rng.normal(size=s).astype("float32") for s in ((12, 32, 6), (6, 2), (6, 3)))
        >>> np.savez("reads_and_writes.npz", A=A, B=predict(LayerWeights(X[None], X[None] / 2, V[None]), A))
        >>> data = np.load("reads_and_writes.npz")
        >>> fit = fit_layer(data["A"][:8], data["B"][:8], rank=2, heldout=(data["A"][8:], data["B"][8:]))
        >>> fit.heldout < 1e-6, fit.weights.Q.shape, fit.predict(data["A"]).shape
        (True, (1, 6, 2), (12, 32, 3))
    """
    check_number("tol", tol, at_least=0)
    check_number("seconds", seconds, above=0)
    check_integer("rank", rank, at_least=1)
    problem = LayerRegression(jnp.asarray(A), jnp.asarray(outputs), mask, causal)
    objective = LayerObjective(problem, heads, rank, value_rank)
    judge = None
    if heldout is not None:
        if len(heldout) not in (2, 3):
            raise ProblemError(f"heldout has {len(heldout)} parts; it must be (A, outputs) or (A, outputs, mask)")
        unseen = LayerRegression(*map(jnp.asarray, heldout), causal=causal)
        judge = LayerObjective(unseen, heads, rank, value_rank)
    run = _Run(objective, judge, tol, seconds, callback)
    run.go(jax.random.key(0) if key is None else key, start, first or Stochastic(), second or Options())
    return run.result()


class _Run:
    """The host loop of one fit: coordinates, the clock, the best weights so far."""

    def __init__(self, objective: LayerObjective, judge: LayerObjective | None, tol, seconds, callback):
        self.began = time.perf_counter()
        self.objective, self.judge, self.tol, self.seconds, self.callback = objective, judge, tol, seconds, callback
        self.unit = variation(objective.problem) or 1.0
        self.judge_unit = 1.0 if judge is None else variation(judge.problem) or 1.0
        self.white, self.input_rank = whitened(objective.problem)
        self.best: tuple[float, float, float, LayerWeights] | None = None
        self.trace: list[tuple[float, str, int, float, float]] = []
        self.reason = "stalled"

    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def expired(self) -> bool:
        return self.elapsed() >= self.seconds

    def note(self, phase: str, step: int, train: float, weights: LayerWeights) -> float:
        """Judge weights (of the given inputs), keep the best, tell the caller; the loss that decides."""
        held = float("nan") if self.judge is None else float(_value(self.judge, weights)) / self.judge_unit
        decides = train if self.judge is None else held
        if self.best is None or not decides >= self.best[0]:
            self.best = (decides, train, held, weights)
        self.trace.append((self.elapsed(), phase, step, train, held))
        if self.callback is not None:
            self.callback(Progress(*self.trace[-1], weights))
        return decides

    def go(self, key: jax.Array, start: LayerWeights | None, first: Stochastic, second: Options) -> None:
        if start is None:
            weights = self.find_basin(key, first)
        else:
            weights = LayerWeights(
                *(None if W is None else jnp.asarray(W, self.objective.problem.dtype) for W in start)
            )
        if self.reason == "tolerance" or self.expired():
            self.reason = self.reason if self.reason == "tolerance" else "seconds"
            return
        white = dataclasses.replace(self.objective, problem=self.white.problem(self.objective.problem))
        x = self.white.weights_in(weights)
        unit = self.unit / self.white.size**2
        for number, step in enumerate(gauss_newton_steps(white, x, second, self.expired), 1):
            decides = self.note("gauss_newton", number, step.value / unit, self.white.weights_back(step.params))
            if decides <= self.tol:
                self.reason = "tolerance"
                return
            if self.expired():
                self.reason = "seconds"
                return

    def find_basin(self, key: jax.Array, options: Stochastic) -> LayerWeights:
        """The first phase, drawn again while it ends lost."""
        coordinates = scaled(self.objective.problem)
        objective = dataclasses.replace(self.objective, problem=coordinates.problem(self.objective.problem))
        best, weights = float("inf"), None
        for attempt in range(ATTEMPTS):
            final = float("inf")
            for part in stochastic_slices(objective, jax.random.fold_in(key, attempt), options):
                now, final = coordinates.weights_back(part.params), part.loss
                if self.note("stochastic", part.steps, part.loss, now) <= self.tol:
                    self.reason = "tolerance"
                    return now
                if self.expired():
                    break
            if final < best or weights is None:
                best, weights = final, now
            if best <= LOST or self.expired():
                break
        return weights

    def result(self) -> LayerFit:
        assert self.best is not None
        _, train, held, weights = self.best
        host = LayerWeights(*(None if W is None else np.asarray(W) for W in weights))
        return LayerFit(
            host, train, held, self.reason, determined(self.objective, self.input_rank), self.elapsed(),
            tuple(self.trace), self.objective.problem.causal,
        )  # fmt: skip


_value = jax.jit(lambda objective, x: objective.value(x))
