"""The watch over a fit: the clock, the best weights so far, and the caller who is told."""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh

from attnreg.parallel import Spread, spread
from attnreg.problems.arrays import placed
from attnreg.problems.checks import ProblemError, check_flag, check_number
from attnreg.problems.reprs import compact_repr

SPOKEN = 5.0  # seconds between two lines of `progress=True`


@compact_repr
class Progress(NamedTuple):
    """One line of a fit.

    Args:
        seconds: since its start. phase, step: which phase, and how far it is.
        train, heldout: losses as plain floats in the fit's unit; NaN without held-out documents.
        weights: the current ones, floats shaped like those of the result (…), for the inputs and outputs as given: what
            a checkpoint needs (`start=`).
    """

    seconds: float
    phase: str
    step: int
    train: float
    heldout: float
    weights: Any


def unseen(heldout: Any, target: str, A: Any) -> tuple[Any, Any, Any]:
    """Held-out documents `(A, target)` or `(A, target, mask)` as arrays, for a fit that reads A; no mask is None."""
    if not isinstance(heldout, tuple | list):
        raise ProblemError(f"heldout is a {type(heldout).__name__}; it must be (A, {target}) or (A, {target}, mask)")
    if len(heldout) not in (2, 3):
        raise ProblemError(f"heldout has {len(heldout)} parts; it must be (A, {target}) or (A, {target}, mask)")
    reads, B, *mask = map(placed, heldout)
    if reads.ndim and reads.shape[-1] != A.shape[-1]:
        raise ProblemError(f"heldout A is {reads.shape[-1]} wide; it must be {A.shape[-1]}, as A")
    return reads, B, mask[0] if mask else None


def judged(objective: Any, unit: float, mesh: Mesh | None) -> Callable[[Any], float]:
    """The loss of weights in a unit, by an objective of held-out documents, spread over a mesh where they divide."""
    shared = objective if mesh is None else spread(objective, mesh, strict=False)
    if isinstance(shared, Spread):
        return lambda weights: float(shared.value(shared.place(weights))) / unit
    return lambda weights: float(objective.value(weights)) / unit


def check_limits(tol: float, seconds: float, callback: Any, progress: Any) -> None:
    """Refuse a tolerance, a time, a callback or a choice of progress that a watch could not use."""
    check_flag("progress", progress)
    check_number("tol", tol, at_least=0)
    check_number("seconds", seconds, above=0)
    if callback is not None and not callable(callback):
        raise ProblemError(f"callback is a {type(callback).__name__}; it must be a function of a Progress")


class Watch:
    """Judges weights, keeps the best, and says when and why to stop.

    unit: what training losses are relative to. judge: the held-out loss of weights, or None. agree: makes a decision by
    the clock common to all processes of a fit. progress: whether it also prints, on stderr, how far it is: when a phase
    begins, every `SPOKEN` seconds, and at the end.
    """

    def __init__(
        self,
        unit: float,
        judge: Callable[[Any], float] | None,
        tol: float,
        seconds: float,
        callback: Callable[[Progress], None] | None,
        agree: Callable[[bool], bool] = bool,
        progress: bool = False,
    ):
        self.began: float = time.perf_counter()
        self.progress: bool = progress
        self._spoken, self._phase = 0.0, ""
        self._say("compiling …")
        self.agree: Callable[[bool], bool] = agree
        self.unit: float = unit or 1.0
        self.judge: Callable[[Any], float] | None = judge
        self.tol: float = tol
        self.seconds: float = seconds
        self.callback: Callable[[Progress], None] | None = callback
        self.kept: tuple[float, float, float, Any] | None = None
        self.trace: list[tuple[float, str, int, float, float]] = []
        self.reason: str = ""

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    def left(self) -> float:
        """Seconds that are left, at least a hundredth."""
        return max(self.seconds - self.elapsed(), 0.01)

    def expired(self) -> bool:
        """Whether the time is over, for any process of the fit."""
        return self.agree(self.elapsed() >= self.seconds)

    def note(self, phase: str, step: int, train: float, weights: Any) -> bool:
        """Judge weights, keep the best, tell the caller; true when it is time to stop."""
        held = float("nan") if self.judge is None else self.judge(weights)
        decides = train if self.judge is None else held
        if self.kept is None or decides < self.kept[0]:
            self.kept = (decides, train, held, weights)
        self.trace.append((self.elapsed(), phase, step, train, held))
        if self.callback is not None:
            self.callback(Progress(*self.trace[-1], weights))
        if phase != self._phase or self.elapsed() - self._spoken >= SPOKEN:
            self._phase, self._spoken = phase, self.elapsed()
            self._say(f"{phase}, step {step}: {_losses(train, held)}")
        if decides <= self.tol:
            self.reason = "tolerance"
        elif self.expired():
            self.reason = "seconds"
        return bool(self.reason)

    def best(self) -> tuple[float, float, Any]:
        """Training loss, held-out loss and weights of the best point."""
        assert self.kept is not None
        self._say(f"ended by {self.reason or 'stalled'}: {_losses(*self.kept[1:3])}")
        return self.kept[1:]

    def _say(self, text: str) -> None:
        if self.progress:
            print(f"{self.elapsed():6.1f} s  {text}", file=sys.stderr, flush=True)


def _losses(train: float, held: float) -> str:
    """Both losses in words; there is no held-out one without such documents."""
    return f"loss {train:.3g}" + ("" if held != held else f", held out {held:.3g}")
