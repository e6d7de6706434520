"""The runs of one experiment, one after the other: ours and the peer in turn, all that they did kept for a resume."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.fit import Progress, fit_attention, fit_layer
from attnreg.objectives.factors import Factors
from attnreg.problems.checks import ProblemError, check_integer, check_number
from attnreg.problems.layer import LayerWeights
from experiments.benchmarks.activations import layer_start, map_start, maps_cell, outputs_cell
from experiments.benchmarks.peers import Setting, minibatch_adam
from experiments.benchmarks.peers.protocol import arguments
from experiments.benchmarks.timing import Clock
from experiments.recover.data import Activations
from experiments.runner.record import Record

OURS, ADAM = "attnreg", "minibatch Adam"
COLUMNS = ("seconds", "cpu", "train", "heldout")
REASONS = ("", "tolerance", "seconds", "stalled")
POINTS = 2048  # of a curve; a longer one keeps its last point
CHUNK = 50  # steps of Adam between two looks at the held-out texts


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


class State(NamedTuple):
    """What a checkpoint holds.

    job, step: runs finished, lines logged. curves: (jobs, POINTS, 4), `points` of each used. facts: per job why it
    ended, what the inputs determine (4), seconds to compile, rate and scale. best: the weights of the first run of
    ours. now: ours under way, NaN before the phase that can be resumed. adam: the peer under way.
    """

    job: int
    step: int
    curves: np.ndarray
    points: np.ndarray
    facts: np.ndarray
    best: LayerWeights
    now: LayerWeights
    adam: Any


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

    def reached(self, loss: float) -> float | None:
        """Seconds until the held-out loss was at most `loss`."""
        below = np.flatnonzero(self.curve[:, 3] <= loss)
        return float(self.curve[below[0], 0]) if below.size else None


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


class Race:
    """Runs the jobs from where a checkpoint left them; a run of ours goes on in its second phase, else begins anew."""

    def __init__(self, config: Any, record: Record, data: Activations, jobs: list[Job], heads: int):
        self.config, self.record, self.data, self.jobs, self.heads = config, record, data, jobs, heads
        self.main = next(i for i, job in enumerate(jobs) if job.method == OURS)
        self.whole = data.true.O is None
        self._made: dict[Any, Any] = {}
        self._bound: Any = None
        self._warm = False
        blank = jax.tree.map(lambda W: np.full(W.shape, np.nan, config.precision), data.true)
        curves = np.full((len(jobs), POINTS, len(COLUMNS)), np.nan)
        points, facts = np.zeros(len(jobs), np.int64), np.zeros((len(jobs), 8))
        adam = self._blank_adam() if any(job.method == ADAM for job in jobs) else ()
        self.state: State = record.restore(State(0, 0, curves, points, facts, blank, blank, adam))[1]

    def run(self) -> tuple[list[Run], LayerWeights]:
        """Every job that is left; then all of them as they went, and the weights of the first run of ours."""
        while self.state.job < len(self.jobs):
            job = self.jobs[self.state.job]
            (self._ours if job.method == OURS else self._adam)(job)
            lowest = self.finished(self.state.job).heldout
            blank = jax.tree.map(lambda W: np.full_like(W, np.nan), self.state.now)
            adam = self._blank_adam() if self.state.adam else ()
            self._set(job=self.state.job + 1, step=self.state.step + 1, now=blank, adam=adam)
            # A line, and with it a step, of its own: the step of the last point may have a checkpoint already.
            self.record.log(self.state.step, method=job.method, part=job.part, lowest=lowest)
            self.record.save(self.state.step, self.state)
        return [self.finished(i) for i in range(len(self.jobs))], LayerWeights(*self.state.best)

    def finished(self, i: int) -> Run:
        """Job number i as it went."""
        reason, *known, compiling, rate, scale = self.state.facts[i]
        job = self.jobs[i]._replace(rate=float(rate), scale=float(scale))
        curve = np.array(self.state.curves[i, : self.state.points[i]])
        return Run(job, curve, REASONS[int(reason)], tuple(int(n) for n in known), float(compiling))

    def _targets(self, *what: Any) -> Any:
        """`Activations.targets`, made once: those of a whole layer take a while."""
        if what not in self._made:
            self._made[what] = self.data.targets(*what)
        return self._made[what]

    def _set(self, **changes: Any) -> None:
        self.state = self.state._replace(**changes)

    def _note(self, row: tuple[float, ...], **words: Any) -> None:
        """One point of the curve of the job under way, in the state and in the log."""
        i, curves, points = self.state.job, self.state.curves.copy(), self.state.points.copy()
        points[i] = min(points[i] + 1, POINTS)
        curves[i, points[i] - 1] = row
        self._set(curves=curves, points=points, step=self.state.step + 1)
        self.record.log(self.state.step, method=self.jobs[i].method, **words, **dict(zip(COLUMNS, row, strict=True)))

    def _facts(self, **values: Any) -> None:
        """reason, determined, compiling, rate and scale of the job under way."""
        at = dict(reason=slice(0, 1), determined=slice(1, 5), compiling=slice(5, 6), tuned=slice(6, 8))
        facts = self.state.facts.copy()
        for name, value in values.items():
            facts[self.state.job, at[name]] = value
        self._set(facts=facts)

    # --- ours ----------------------------------------------------------------------------------------------

    def _ours(self, job: Job) -> None:
        resumed = not np.isnan(np.sum(self.state.now.Q)) and job.targets == "outputs"
        begin = self.state  # what a stop in the first phase goes back to
        last = self.state.curves[self.state.job, self.state.points[self.state.job] - 1] if resumed else np.zeros(4)
        clock, lowest = Clock(), float(np.nanmin(self.state.curves[self.state.job, :, 3])) if resumed else np.inf

        def callback(progress: Progress) -> None:
            nonlocal lowest
            row = (last[0] + progress.seconds, last[1] + clock.cpu, progress.train, progress.heldout)
            self._note(row, phase=progress.phase)
            weights = as_layer(progress.weights, self.state.now)
            if progress.heldout < lowest and self.state.job == self.main:
                self._set(best=weights)
            lowest = min(lowest, progress.heldout)
            if progress.phase == "gauss_newton" and job.targets == "outputs":
                self._set(now=weights)
                self.record.save(self.state.step, self.state)
            else:
                self.record.save(begin.step, begin)

        fitted = self._fit(job, LayerWeights(*self.state.now) if resumed else None, last[0], callback)
        self._facts(reason=REASONS.index(fitted.reason), determined=fitted.determined)

    def _fit(self, job: Job, start: LayerWeights | None, spent: float, callback: Any) -> Any:
        config = self.config
        left = max(config.fit.seconds - spent, 1e-3)
        options: dict[str, Any] = dict(rank=config.rank, tol=config.fit.tol, seconds=left, callback=callback)
        options["heldout"] = self._targets(job.targets, "heldout", None)
        given = self._targets(job.targets, "train", job.documents)
        if job.targets == "maps":
            return fit_attention(*given, **options)
        options |= dict(heads=self.heads, value_rank=None if self.whole else config.rank)
        return fit_layer(*given, key=jax.random.key(job.seed), start=start, **options)

    # --- the peer ------------------------------------------------------------------------------------------

    def _cell(self, targets: str, part: str) -> Any:
        given = self._targets(targets, part, self.config.data.documents if part == "train" else None)
        if targets == "maps":
            return maps_cell(part, *given, rank=self.config.rank)
        return outputs_cell(part, *given, heads=self.heads, rank=self.config.rank, whole=self.whole)

    def _peer(self) -> tuple[Any, Any, Any]:
        """The peer bound to its cell, its data, and its held-out loss; the same for all of its runs."""
        if self._bound is None:
            targets = next(job.targets for job in self.jobs if job.method == ADAM)
            cell, unseen = (self._cell(targets, part) for part in ("train", "heldout"))
            method = minibatch_adam(documents=self.config.peer.documents, chunk=CHUNK).bind(cell)
            judged = jax.jit(lambda x, data: unseen.loss(x, data[0]) / data[1])
            self._bound = method, arguments(cell), lambda x: float(judged(x, arguments(unseen)))
        return self._bound

    def _setting(self, job: Job) -> tuple[Any, Any]:
        """Start and data of a run."""
        _, (plain, unit), _ = self._peer()
        start, batches = jax.random.split(jax.random.key(job.seed))
        number = unit.dtype.type
        data = (plain | {"setting": Setting(number(job.rate), number(job.steps), batches)}, unit)
        if job.targets == "maps":
            return map_start(start, plain, rank=self.config.rank, scale=job.scale), data
        sizes: dict[str, Any] = dict(heads=self.heads, rank=self.config.rank, whole=self.whole)
        return layer_start(start, plain, scale=job.scale, **sizes), data

    def _blank_adam(self) -> Any:
        """A run of the peer before its first step."""
        job = next(job for job in self.jobs if job.method == ADAM)
        return self._peer()[0].begin(*self._setting(job._replace(scale=1.0)))

    def _tuned(self) -> tuple[float, float]:
        """Rate and scale of the tuning run that ended lowest on the held-out texts."""
        runs = [self.finished(i) for i, job in enumerate(self.jobs) if job.part == "tuning"]
        ends = [run.curve[-1, 3] if np.isfinite(run.curve[-1, 3]) else np.inf for run in runs]
        best = runs[int(np.argmin(ends))].job
        return best.rate, best.scale

    def _adam(self, job: Job) -> None:
        method, _, judge = self._peer()
        if job.part == "round":
            rate, scale = self._tuned()
            job = job._replace(rate=rate, scale=scale)
        x0, data = self._setting(job)
        self._facts(tuned=(job.rate, job.scale))
        carry, i = method.begin(x0, data), self.state.job
        if not self._warm:
            self._facts(compiling=self._compile(method, carry, data, judge))
        if int(self.state.adam.steps):
            carry = self.state.adam
        while int(carry.steps) < job.steps:
            before, clock = float(carry.total), Clock()
            carry = jax.block_until_ready(method.advance(carry, data))
            last = self.state.curves[i, self.state.points[i] - 1] if self.state.points[i] else np.zeros(4)
            train = (float(carry.total) - before) / CHUNK
            row = (last[0] + clock.wall, last[1] + clock.cpu, train, judge(method.x(carry)))
            self._note(row, rate=job.rate, scale=job.scale)
            self._set(adam=carry)
            self.record.save(self.state.step, self.state)
            if not np.isfinite(row[3]):
                return

    def _compile(self, method: Any, carry: Any, data: Any, judge: Any) -> float:
        """Seconds that the first call of the peer's program takes more than the second."""
        first = Clock()
        judge(method.x(jax.block_until_ready(method.advance(carry, data))))
        took, second = first.wall, Clock()
        judge(method.x(jax.block_until_ready(method.advance(carry, data))))
        self._warm = True
        return max(took - second.wall, 0.0)


def as_layer(weights: Any, like: LayerWeights) -> LayerWeights:
    """Weights as those of one head or a layer, on the host; for maps, whose values are unknown, V is NaN."""
    if isinstance(weights, Factors):
        weights = LayerWeights(weights.Q[None], weights.K[None], jnp.full(like.V.shape, jnp.nan, weights.Q.dtype))
    return jax.tree.map(np.asarray, weights)
