"""The arms of an in-context-learning experiment: from a config to tasks, models, runs and documents."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.icl import training
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import Documents, Scales, TaskConfig, sample, stream
from attnreg.icl.tokens import TokenConfig
from attnreg.icl.training import TrainConfig
from attnreg.problems.checks import ProblemError, check_choice, check_integer, check_number
from experiments.icl import tables
from experiments.runner.config import UsageError

# Axes of `config.shifts`: the fields of a task that may change after training.
SHIFTS = ("input_scale", "weight_scale", "noise", "inputs", "distractors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Numbers of documents; hashable, static.

    Attributes:
        tune: to choose step sizes on.
        curve: at every evaluation during training.
        final: for the final numbers.
        fit: for the analysis "anatomy", which fits kernels.
        shift: at every point of the analysis "shifts".
        block: evaluated at a time, so that memory stays bounded.
    """

    tune: int = 4096
    curve: int = 1024
    final: int = 8192
    fit: int = 2048
    shift: int = 4096
    block: int = 256

    def __post_init__(self) -> None:
        """Refuse what is not a number of documents."""
        for field in dataclasses.fields(self):
            check_integer(field.name, getattr(self, field.name), at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One learner on one task distribution; hashable, static.

    Attributes:
        name: key in the results.
        series: label in figures.
        x: its place on the axis of a summary figure.
        task: documents.
        model: learner.
        train: training.
        evaluation: how many documents it is marked on.
    """

    name: str
    series: str
    x: float
    task: TaskConfig
    model: ModelConfig
    train: TrainConfig
    evaluation: EvaluationConfig

    @property
    def steps_like_descent(self) -> bool:
        """Whether the model can be the construction: a gradient step per layer of attention alone, on bare tokens."""
        model, bare = self.model, self.task.dimension + 1
        simple = not model.mlp and not model.layer_norm and model.tokens.width(self.task.dimension) == bare
        return simple and "mix" not in model.attention and (model.depth == 1 or self._deep_linear)

    @property
    def _deep_linear(self) -> bool:
        return self.task.kind == "linear" and set(self.model.attention) == {"linear"}

    @property
    def plus(self) -> bool:
        """Whether GD++ is a reference: linear regression, more than one linear layer."""
        return self._deep_linear and self.model.depth > 1


def build(config: Any) -> tuple[Arm, ...]:
    """The arms of a config: its sections, overridden by each arm's own; UsageError for a field that is wrong."""
    arms = tuple(_arm(config, name, own) for name, own in config.arms.items())
    try:
        _check(config, arms)
    except ProblemError as error:
        raise UsageError(str(error)) from error
    return arms


def _arm(config: Any, name: str, own: Any) -> Arm:
    def section(cls: Any, part: str, **known: Any) -> Any:
        given = config[part].to_dict() | dict(own.get(part, {}))
        return section_of(cls, f"config.arms.{name}, section {part}", given, **known)

    task = section(TaskConfig, "task", dtype=config.precision)
    tokens = section(TokenConfig, "tokens", targets="plain" if task.kind == "linear" else "simplex")
    return Arm(
        name=name,
        series=own.series,
        x=float(own.x),
        task=task,
        model=section(ModelConfig, "model", tokens=tokens),
        train=section(TrainConfig, "train"),
        evaluation=section(EvaluationConfig, "evaluation"),
    )


def section_of(cls: Any, where: str, given: Mapping[str, Any], **known: Any) -> Any:
    """`cls` with the given fields and those the experiment knows; UsageError names what is wrong."""
    names = [field.name for field in dataclasses.fields(cls) if field.name not in known]
    if unknown := sorted(set(given) - set(names)):
        raise UsageError(f"{where} has no field {unknown[0]!r}; it has {', '.join(names)}")
    try:
        return cls(**given, **known)
    except ProblemError as error:
        raise UsageError(f"{where}: {error}") from error


def _check(config: Any, arms: tuple[Arm, ...]) -> None:
    check_integer("config.seed", config.seed, at_least=0)
    check_integer("config.seeds", config.seeds, at_least=1)
    check_number("config.learning_rate", config.learning_rate, above=0)
    check_integer("config.chunk", config.chunk, at_least=1)
    check_choice("config.table", config.table, ("", *tables.NAMES))
    for axis, values in config.shifts.items():
        check_choice("an axis of config.shifts", axis, SHIFTS)
        for arm, value in itertools.product(arms, values):
            shifted_task(arm.task, axis, value)
    for arm in arms:
        if arm.train.steps % config.chunk:
            raise UsageError(f"arm {arm.name!r}: steps={arm.train.steps} is no multiple of chunk={config.chunk}")
        if (arm.task.inputs == "real") != bool(config.table):
            raise UsageError(
                f"arm {arm.name!r}: inputs={arm.task.inputs!r} and config.table={config.table!r}; "
                f"'real' inputs need a table ({', '.join(tables.NAMES)}), other inputs none"
            )


def runs_of(config: Any, arm: Arm) -> training.Runs:
    """The seeds of one config as runs of one program; seed i of config seed s is 1000 s + i."""
    seeds = [1000 * config.seed + i for i in range(config.seeds)]
    return training.make_runs(arm.task, seeds=seeds, learning_rates=(config.learning_rate,))


def documents(arm: Arm, name: str, count: int, features: jax.Array | None, *, part: int = 0) -> Documents:
    """`count` documents of a stream; `part` separates the curve's evaluation documents from the final ones."""
    key = jax.random.fold_in(stream(jax.random.key(0), name), part)
    return jax.jit(sample, static_argnums=(1, 2))(key, arm.task, count, features=features)


def shifted_task(task: TaskConfig, axis: str, value: Any) -> tuple[TaskConfig, Scales]:
    """A task changed along one axis of `SHIFTS`, and its traced scales: the scale axes share one compilation."""
    scales = task.scales
    if axis in ("input_scale", "weight_scale"):
        check_number(axis, value, above=0)
        factor = jnp.asarray(value, task.dtype)  # a factor on the training scale
        name = axis.removesuffix("_scale")
        return task, scales._replace(**{name: getattr(scales, name) * factor})
    if axis == "noise":
        check_number(axis, value, at_least=0)
        return dataclasses.replace(task, noise=1.0), scales._replace(noise=jnp.asarray(value, task.dtype))
    return dataclasses.replace(task, **{axis: value}), scales


def label(name: str, group: str) -> str:
    """A learner's name with its group of seeds."""
    return f"{name}, {group}" if group else name
