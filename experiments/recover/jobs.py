"""The runs that an experiment consists of, in their order, and what is known of each when it is over."""

from typing import Any, NamedTuple

import numpy as np

from attnreg.problems.checks import ProblemError, check_integer, check_number

OURS, ADAM = "attnreg", "minibatch Adam"
COLUMNS = ("seconds", "cpu", "train", "heldout")
REASONS = ("", "tolerance", "seconds", "stalled")


class Job(NamedTuple):
    """One run. Adam of a round takes the rate and scale that did best in the tuning before it."""

    method: str
    part: str  # "tuning", "round" or "texts"
    targets: str
    documents: int
    seed: int
    rate: float = 0.0
    scale: float = 0.0
    steps: int = 0


class Run(NamedTuple):
    """A finished run: its job with the rate and scale it had, its curve (points, 4), and its facts."""

    job: Job
    curve: np.ndarray
    reason: str
    determined: tuple[int, ...]
    compile_seconds: float

    @property
    def heldout(self) -> float:
        """The best held-out loss, infinite if a run left the numbers."""
        losses = self.curve[:, 3]
        return float(np.min(losses, initial=np.inf, where=np.isfinite(losses)))

    def reached(self, loss: float, clock: str = "seconds") -> float | None:
        """Seconds by the wall, or of "cpu", until the held-out loss was at most `loss`."""
        below = np.flatnonzero(self.curve[:, 3] <= loss)
        return float(self.curve[below[0], COLUMNS.index(clock)]) if below.size else None


def jobs_of(config: Any, targets: str) -> list[Job]:
    """Tuning of the peer; then rounds of ours and the peer in turn; then other numbers of texts."""
    _check(config)
    peer, documents = config.peer, config.data.documents
    tuning = [
        Job(ADAM, "tuning", targets, documents, config.seed, rate, scale, peer.tune_steps)
        for rate in peer.rates
        for scale in peer.scales
    ]
    rounds = []
    for seed in range(config.seed, config.seed + config.rounds):
        rounds.append(Job(OURS, "round", targets, documents, seed))
        if tuning:
            rounds += [Job(ADAM, "round", targets, documents, seed, steps=steps) for steps in peer.steps]
    texts = [Job(OURS, "texts", kind, k, config.seed) for kind in config.texts_targets for k in config.texts]
    return tuning + rounds + texts


def _check(config: Any) -> None:
    """Refuse options under which there would be nothing to run, or nothing to compare."""
    check_integer("rounds", config.rounds, at_least=1)
    check_number("fit.seconds", config.fit.seconds, above=0)
    check_number("fit.tol", config.fit.tol, at_least=0)
    for name in ("tune_steps", "documents"):
        check_integer(f"peer.{name}", config.peer[name], at_least=1)
    for steps in config.peer.steps:
        check_integer("peer.steps", steps, at_least=1)
    for name in ("rates", "scales"):
        for value in config.peer[name]:
            check_number(f"peer.{name}", value, above=0)
    for name in ("scales", "steps"):
        if config.peer.rates and not config.peer[name]:
            raise ProblemError(f"peer.{name} is empty; the peer needs one: give it, or leave peer.rates empty too")
    for number in config.texts:
        check_integer("texts", number, at_least=1)
