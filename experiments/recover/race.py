"""The runs of one experiment, one after the other: ours and the peer in turn, all that they did kept for a resume."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg import parallel
from attnreg.fit import Progress, fit_attention, fit_layer
from attnreg.objectives.factors import Factors
from attnreg.problems.layer import LayerWeights
from experiments.benchmarks.timing import Clock
from experiments.recover.adam import Adam, Texts, tuned
from experiments.recover.data import Activations
from experiments.recover.jobs import ADAM, COLUMNS, OURS, REASONS, Job, Run
from experiments.runner.record import Record

POINTS = 2048  # of a curve; a longer one keeps its last point


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


class Race:
    """Runs the jobs from where a checkpoint left them; a run of ours goes on in its second phase, else begins anew."""

    def __init__(self, config: Any, record: Record, data: Activations, jobs: list[Job], heads: int):
        self.config, self.record, self.data, self.jobs, self.heads = config, record, data, jobs, heads
        self.main = next(i for i, job in enumerate(jobs) if job.method == OURS)
        self.whole = data.like.O is None
        self._made: dict[Any, Any] = {}
        peers = [job.targets for job in jobs if job.method == ADAM]
        self.adam = self._bind(peers[0]) if peers else None
        blank = unknown(data.like, config.rank, config.precision)
        curves = np.full((len(jobs), POINTS, len(COLUMNS)), np.nan)
        points, facts = np.zeros(len(jobs), np.int64), np.zeros((len(jobs), 8))
        begun = State(0, 0, curves, points, facts, blank, blank, self._blank_adam())
        self.state: State = record.restore(begun)[1]

    def run(self) -> tuple[list[Run], LayerWeights]:
        """Every job that is left; then all of them as they went, and the weights of the first run of ours."""
        while self.state.job < len(self.jobs):
            job = self.jobs[self.state.job]
            (self._ours if job.method == OURS else self._adam)(job)
            lowest = self.finished(self.state.job).heldout
            blank = jax.tree.map(lambda W: np.full_like(W, np.nan), self.state.now)
            self._set(job=self.state.job + 1, step=self.state.step + 1, now=blank, adam=self._blank_adam())
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
        given = self._targets(job.targets, "train", job.documents), self._targets(job.targets, "heldout", None)
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

        start = LayerWeights(*self.state.now) if resumed else None
        fitted = self._fit(job, *given, start=start, spent=last[0], callback=callback)
        self._facts(reason=REASONS.index(fitted.reason), determined=fitted.determined)

    def _fit(self, job: Job, train: Texts, heldout: Texts, *, start: LayerWeights | None, spent: float, **more: Any):
        config = self.config
        more |= dict(heldout=heldout, rank=config.rank, tol=config.fit.tol, **self.data.logits)
        more["seconds"] = max(config.fit.seconds - spent, 1e-3)
        more["mesh"] = parallel.shared_mesh()
        if job.targets == "maps":
            return fit_attention(*train, **more)
        more |= dict(heads=self.heads, key_heads=len(self.data.like.K), value_rank=None if self.whole else config.rank)
        return fit_layer(*train, key=jax.random.key(job.seed), start=start, **more)

    # --- the peer ------------------------------------------------------------------------------------------

    def _bind(self, targets: str) -> Adam:
        texts = self._targets(targets, "train", self.config.data.documents), self._targets(targets, "heldout", None)
        return Adam(self.config, *texts, maps=targets == "maps", like=self.data.like, logits=self.data.logits)

    def _blank_adam(self) -> Any:
        """The peer before its first step, or nothing where there is no peer."""
        return () if self.adam is None else self.adam.begin(self.jobs[0]._replace(scale=1.0))[0]

    def _adam(self, job: Job) -> None:
        assert self.adam is not None
        if job.part == "round":
            rate, scale = tuned([self.finished(i) for i, job in enumerate(self.jobs) if job.part == "tuning"])
            job = job._replace(rate=rate, scale=scale)
        carry, data = self.adam.begin(job)
        self._facts(tuned=(job.rate, job.scale), compiling=self.adam.compile(carry, data))
        if int(self.state.adam.steps):
            carry = self.state.adam
        i = self.state.job
        while int(carry.steps) < job.steps:
            carry, (wall, cpu, *losses) = self.adam.advance(carry, data)
            last = self.state.curves[i, self.state.points[i] - 1] if self.state.points[i] else np.zeros(4)
            self._note((last[0] + wall, last[1] + cpu, *losses), rate=job.rate, scale=job.scale)
            self._set(adam=carry)
            self.record.save(self.state.step, self.state)
            if not np.isfinite(losses[1]):
                return


def unknown(like: LayerWeights, rank: int, dtype: str) -> LayerWeights:
    """NaN in the shapes of a fit whose rank need not be the true one."""
    (h, d, _), g, c = like.Q.shape, len(like.K), like.V.shape[2] if like.O is None else like.O.shape[2]
    V, O = ((h, d, c), None) if like.O is None else ((g, d, rank), (h, rank, c))
    shapes = ((h, d, rank), (g, d, rank), V, O)
    return LayerWeights._make(None if s is None else np.full(s, np.nan, dtype) for s in shapes)


def as_layer(weights: Any, like: LayerWeights) -> LayerWeights:
    """Weights as those of one head or a layer, on the host; for maps, whose values are unknown, V is NaN."""
    if isinstance(weights, Factors):
        weights = LayerWeights(weights.Q[None], weights.K[None], jnp.full(like.V.shape, jnp.nan, weights.Q.dtype))
    return jax.tree.map(np.asarray, weights)
