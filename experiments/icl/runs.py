"""A trained arm of one config, with everything that tables, figures and analyses read."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnreg.icl import metrics
from attnreg.icl.training import State
from experiments.icl import measures, references
from experiments.icl.arms import Arm, label
from experiments.icl.references import Comparison, Tuned
from experiments.runner.record import Record
from experiments.runner.statistics import bootstrap_band


@dataclasses.dataclass(frozen=True)
class Run:
    """The seeds of one arm after training.

    Attributes:
        arm: what was trained.
        weights: pytree of arrays with one entry a seed.
        stopped: (seeds,) the step at which a seed met a non-finite loss, −1 while sound.
        steps: of the curves.
        curves: name → (seeds, points).
        curve_losses: of the references, on the curves' documents.
        comparison: the documents of the final numbers, with the references' answers.
        losses: of the references there.
        final: name → (seeds,), every measure there.
        groups: seeds that may be averaged together, by name.
    """

    arm: Arm
    weights: Any
    stopped: np.ndarray
    steps: list[int]
    curves: dict[str, np.ndarray]
    curve_losses: dict[str, float]
    comparison: Comparison
    losses: dict[str, float]
    final: dict[str, np.ndarray]
    groups: dict[str, list[int]]

    @classmethod
    def of(
        cls, arm: Arm, chunk: int, state: State, curves: Any, curve: Comparison, final: Comparison, measured: Any
    ) -> "Run":
        """A training state whose weights were marked on the documents of `final`: `measured`."""
        found = {name: np.asarray(value, dtype=float) for name, value in measured.items()}
        losses, stopped = references.losses(arm, final), np.asarray(state.stopped)
        return cls(
            arm=arm,
            weights=state.weights,
            stopped=stopped,
            steps=list(range(0, arm.train.steps + 1, chunk)),
            curves={name: np.asarray(curve) for name, curve in curves.items()},
            curve_losses=references.losses(arm, curve),
            comparison=final,
            losses=losses,
            final=found,
            groups=measures.groups(arm, found, losses, stopped),
        )

    @property
    def tuned(self) -> Tuned:
        """Step sizes of the references."""
        return self.comparison.tuned

    @functools.cached_property
    def band(self) -> dict[str, dict[str, list[float]]]:
        """group → measure → mean over the group's seeds and the ends of its 90% bootstrap band."""
        return {
            group: {
                name: [float(edge[0]) for edge in bootstrap_band(value[seeds][:, None])]
                for name, value in self.final.items()
            }
            for group, seeds in self.groups.items()
        }

    def _headline(self) -> dict[str, float]:
        """Medians over the seeds past the plateau, over all where none is: loss over descent's, and the cosine."""
        stuck = set(self.groups.get("stuck", ()))
        seeds = [seed for seed in range(len(self.stopped)) if seed not in stuck] or slice(None)
        loss, cosine = (float(np.median(self.final[name][seeds])) for name in ("loss", "gd/cosine"))
        return {"over_descent": loss / self.losses["gd"], "cosine": cosine}

    def summary(self) -> dict[str, Any]:
        """What `result.json` keeps of the run."""
        zero, gd = self.curve_losses["zero"], self.curve_losses["gd"]
        found = {
            "series": self.arm.series,
            "x": self.arm.x,
            "references": self.losses,
            "curve_references": self.curve_losses,
            "groups": self.groups,
            "eta": self.tuned.eta,
            "ridge": self.tuned.ridge,
            "final": self.final,
            "stopped": self.stopped,
            "plateau_end": [metrics.plateau_end(self.steps, curve, zero, gd) for curve in self.curves["loss"]],
            **self._headline(),
            "past_plateau": 1 - len(self.groups.get("stuck", ())) / len(self.stopped),
            "steps": self.steps,
            "curves": self.curves,
            "mean": self.band,
        }
        if self.tuned.plus is not None:
            found |= {"plus_eta": self.tuned.plus.eta, "plus_gamma": self.tuned.plus.gamma}
        return found


def table(runs: Sequence[Run], record: Record) -> None:
    """One line a group of an arm's seeds: their means, with the 90% bootstrap band of the loss."""
    columns = (
        "arm",
        "seeds",
        "zero",
        "gd",
        "gd_plus",
        "newton",
        "best",
        "trained",
        "low",
        "high",
        "cosine",
        "cosine_plus",
    )
    columns += ("prediction_difference", "interpolated")
    lines = []
    for run in runs:
        for group, band in run.band.items():
            references = (run.losses.get(name) for name in ("zero", "gd", "gd_plus", "newton", "best"))
            measured = ("gd/cosine", "gd_plus/cosine", "gd/prediction_difference", "interpolated_loss")
            means = (band[name][0] if name in band else None for name in measured)
            lines.append((label(run.arm.name, group), len(run.groups[group]), *references, *band["loss"], *means))
    record.table("final", columns, lines)


def say_stopped(runs: Sequence[Run], record: Record) -> None:
    """Name every seed that met a non-finite loss."""
    for run in runs:
        for seed in np.flatnonzero(run.stopped >= 0):
            step = run.stopped[seed]
            record.say(f"{run.arm.name}: seed {seed} met a non-finite loss at step {step} and was stopped there")
