"""The peer of a recovery: minibatch Adam bound to the texts, with its starts, settings and held-out loss."""

from typing import Any

import jax
import numpy as np

from attnreg.problems.layer import LayerWeights
from experiments.benchmarks.activations import layer_start, map_start, maps_cell, outputs_cell
from experiments.benchmarks.cells import Cell
from experiments.benchmarks.peers import Setting, Training, minibatch_adam
from experiments.benchmarks.peers.protocol import arguments
from experiments.benchmarks.timing import Clock
from experiments.recover.jobs import Job

CHUNK = 50  # steps between two looks at the held-out texts
Texts = tuple[np.ndarray, np.ndarray]  # inputs and targets


class Adam:
    """One compiled program for all runs: rate, length of the schedule and key are data of it."""

    def __init__(
        self, config: Any, train: Texts, heldout: Texts, *, maps: bool, like: LayerWeights, logits: dict[str, Any]
    ):
        self.maps, self.logits = maps, logits
        self.sizes: dict[str, Any] = dict(rank=config.rank)
        if not maps:
            self.sizes |= dict(heads=len(like.Q), key_heads=len(like.K), whole=like.O is None)
        cell, unseen = self._cell("train", train), self._cell("heldout", heldout)
        self.method = minibatch_adam(documents=config.peer.documents, chunk=CHUNK).bind(cell)
        self.given, self._unseen = arguments(cell), arguments(unseen)
        self._judged = jax.jit(lambda x, data: unseen.loss(x, data[0]) / data[1])
        self._warm = False

    def _cell(self, name: str, texts: Texts) -> Cell:
        return (maps_cell if self.maps else outputs_cell)(name, *texts, **self.sizes, **self.logits)

    def heldout(self, carry: Training) -> float:
        """The held-out loss."""
        return float(self._judged(self.method.x(carry), self._unseen))

    def begin(self, job: Job) -> tuple[Training, Any]:
        """A run before its first step, and the data with its setting."""
        plain, unit = self.given
        start, batches = jax.random.split(jax.random.key(job.seed))
        number = unit.dtype.type
        data = (plain | {"setting": Setting(number(job.rate), number(job.steps), batches)}, unit)
        draw = map_start if self.maps else layer_start
        return self.method.begin(draw(start, plain, scale=job.scale, **self.sizes), data), data

    def compile(self, carry: Training, data: Any) -> float:
        """Seconds that the first call of the programs takes more than the second; 0 once they are compiled."""
        took = []
        for _ in range(0 if self._warm else 2):
            clock = Clock()
            self.heldout(jax.block_until_ready(self.method.advance(carry, data)))
            took.append(clock.wall)
        self._warm = True
        return max(took[0] - took[1], 0.0) if took else 0.0

    def advance(self, carry: Training, data: Any) -> tuple[Training, tuple[float, float, float, float]]:
        """`CHUNK` steps later: the run, and wall seconds, CPU seconds, mean loss of the batches, held-out loss."""
        before, clock = float(carry.total), Clock()
        carry = jax.block_until_ready(self.method.advance(carry, data))
        wall, cpu = clock.wall, clock.cpu
        return carry, (wall, cpu, (float(carry.total) - before) / CHUNK, self.heldout(carry))


def tuned(runs: list[Any]) -> tuple[float, float]:
    """Rate and scale of the tuning run that ended lowest on the held-out texts."""
    ends = [run.curve[-1, 3] if np.isfinite(run.curve[-1, 3]) else np.inf for run in runs]
    best = runs[int(np.argmin(ends))].job
    return best.rate, best.scale
