"""The common part of the in-context-learning configs. No config itself.

The defaults of the sections are those of the dataclasses in `attnreg.icl` and `experiments.icl.arms`; a config states
what differs.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig
from attnreg.icl.tokens import TokenConfig
from attnreg.icl.training import TrainConfig
from experiments.icl.arms import EvaluationConfig

# Section: its dataclass, and the fields that the experiment fills in from the rest of the config.
_SECTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "task": (TaskConfig, ("dtype",)),
    "tokens": (TokenConfig, ("targets",)),
    "model": (ModelConfig, ("tokens",)),
    "train": (TrainConfig, ()),
    "evaluation": (EvaluationConfig, ()),
}
# What every smoke variant has. One number of documents for all: equal shapes compile once, and a smoke run is mostly
# compilation.
SMOKE: dict[str, Any] = {
    "seeds": 2,
    "chunk": 10,
    "train.steps": 10,
    "train.batch": 16,
    **{f"evaluation.{field.name}": 32 for field in dataclasses.fields(EvaluationConfig)},
}


def base(
    *,
    task: dict[str, Any],
    train: dict[str, Any],
    arms: dict[str, dict[str, Any]],
    seeds: int,
    learning_rate: float,
    chunk: int,
    model: dict[str, Any],
    tokens: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    shifts: dict[str, tuple[Any, ...]] | None = None,
    analyses: tuple[str, ...] = (),
    chart: str = "",
    table: str = "",
) -> ConfigDict:
    """A complete config of `experiments/icl/train.py`.

    Args:
        task: section of `attnreg.icl.tasks.TaskConfig`.
        train: section of `attnreg.icl.training.TrainConfig`.
        arms: name → {"series": label, "x": number, and overrides of "task", "tokens", "model", "train"}.
        seeds: runs of every arm.
        learning_rate: of Adam.
        chunk: steps between evaluations.
        model: section of `attnreg.icl.models.ModelConfig`.
        tokens: section of `attnreg.icl.tokens.TokenConfig`.
        evaluation: section of `experiments.icl.arms.EvaluationConfig`.
        shifts: axis → values for the analysis "shifts".
        analyses: of `experiments/icl/analyses.py`.
        chart: label of the arms' x, or "" for no summary figure.
        table: real data for inputs="real": "", "diabetes" or "activations".

    Raises: KeyError for a field that a section does not have, or lacks.
    """
    given = {"task": task, "tokens": tokens or {}, "model": model, "train": train, "evaluation": evaluation or {}}
    sections = {name: _section(name, fields) for name, fields in given.items()}
    knobs = dict(seeds=seeds, learning_rate=learning_rate, chunk=chunk, table=table)
    asked = dict(arms=arms, shifts=shifts or {}, chart=chart, analyses=analyses)
    return ConfigDict(dict(experiment="icl.train", seed=0, precision="float32", **knobs, **sections, **asked))


def _section(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The section's fields in their order, the dataclass's defaults where nothing is given."""
    cls, derived = _SECTIONS[name]
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in derived}
    if unknown := set(given) - set(fields):
        raise KeyError(f"section {name!r} has no field {unknown.pop()!r}; it has {', '.join(sorted(fields))}")
    needed = {field for field in fields if fields[field].default is dataclasses.MISSING}
    if missing := needed - set(given):
        raise KeyError(f"section {name!r} needs the field {missing.pop()!r}")
    return {field: given.get(field, fields[field].default) for field in fields}
