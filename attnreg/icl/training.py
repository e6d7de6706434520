"""Training many runs in one compiled program: seeds and learning rates along one vmapped axis.

A run is a seed with its learning rate. All runs of a program share shapes; a chunk of steps is one `lax.scan` with the
documents drawn inside it. The state is a plain pytree, so a checkpoint of it resumes bit for bit.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from attnreg.icl import models
from attnreg.icl.metrics import document_loss
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import Documents, TaskConfig, sample, sample_pool, stream
from attnreg.problems.checks import ProblemError, check_integer, check_number

SEEDS, BATCH = "seeds", "batch"  # axes of a mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train with Adam; hashable, static.

    Attributes:
        steps: total number of steps (the cosine decay ends there).
        batch: documents a step.
        pool: number of distinct training documents (see `tasks.sample_pool`), 0 for fresh ones at every step.
        b1: Adam's first decay.
        b2: Adam's second decay; both as in the published protocol (arXiv 2212.07677).
        clip: global-norm clip of the gradient, 0 for none.
        warmup: steps over which the learning rate first rises linearly, 0 for none.
        decay: fraction of the learning rate left at the end (1 keeps it constant).

    Raises: ProblemError for a field of another type or out of range.
    """

    steps: int
    batch: int
    pool: int = 0
    b1: float = 0.9
    b2: float = 0.98
    clip: float = 10.0
    warmup: int = 0
    decay: float = 0.02

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        check_integer("steps", self.steps, at_least=1)
        check_integer("batch", self.batch, at_least=1)
        check_integer("pool", self.pool, at_least=0)
        check_number("b1", self.b1, at_least=0, below=1)
        check_number("b2", self.b2, at_least=0, below=1)
        check_number("clip", self.clip, at_least=0)
        check_integer("warmup", self.warmup, at_least=0, at_most=self.steps)
        check_number("decay", self.decay, at_least=0, at_most=1)


class Runs(NamedTuple):
    """What tells R runs apart: seed (R,) and learning_rate (R,); both are traced, so a sweep over them is free."""

    seed: jax.Array
    learning_rate: jax.Array


class State(NamedTuple):
    """One run (or R of them along the leading axis).

    weights, moments: parameters and Adam state. key: of the training stream. step: scalar, finished steps.
    stopped: scalar, the step at which the loss or gradient was not finite (the weights are those before), −1 if sound.
    """

    weights: Any
    moments: Any
    key: jax.Array
    step: jax.Array
    stopped: jax.Array


def make_runs(task: TaskConfig, *, seeds: Sequence[int], learning_rates: Sequence[float] = (1e-3,)) -> Runs:
    """The grid seeds × learning_rates as `Runs` with leaves (R,), seeds varying fastest."""
    grid = [(seed, rate) for rate in learning_rates for seed in seeds]
    seed, rate = zip(*grid, strict=True)
    return Runs(jnp.asarray(seed, jnp.uint32), jnp.asarray(rate, task.dtype))


def _transform(train: TrainConfig) -> optax.GradientTransformation:
    clip = [optax.clip_by_global_norm(train.clip)] if train.clip else []
    return optax.chain(*clip, optax.scale_by_adam(b1=train.b1, b2=train.b2))


def _rate(train: TrainConfig, step: jax.Array, dtype: str) -> jax.Array:
    """Learning rate factor at `step`: cosine decay from 1 to `decay`, after a linear warm-up."""
    step = step.astype(dtype)
    half = (1 + jnp.cos(jnp.pi * step / train.steps)) / 2
    rate = train.decay + (1 - train.decay) * half
    return jnp.minimum(1, (step + 1) / train.warmup) * rate if train.warmup else rate


def start(runs: Runs, *, task: TaskConfig, model: ModelConfig, train: TrainConfig) -> State:
    """`State` of R fresh runs. The keys of weights, and of the three document streams, come from each run's seed."""

    def one(run):
        of_weights, of_tasks = jax.random.split(jax.random.key(run.seed))
        weights = models.init(of_weights, model, task.dimension, task.dtype)
        moments = _transform(train).init(weights)
        return State(weights, moments, stream(of_tasks, "train"), jnp.int32(0), jnp.int32(-1))

    return jax.vmap(one)(runs)


def batch_loss(weights: Any, documents: Documents, *, task: TaskConfig, model: ModelConfig) -> jax.Array:
    """Mean loss (scalar) of a model on a batch of documents."""

    def one(document):
        return document_loss(task, models.logits(weights, model, document), document.answers)

    return jnp.mean(jax.vmap(one)(documents))


def _step(
    state: State,
    run: Runs,
    features: jax.Array | None,
    *,
    task: TaskConfig,
    model: ModelConfig,
    train: TrainConfig,
    mesh: Mesh | None,
) -> tuple[State, jax.Array]:
    draw = functools.partial(sample_pool, pool=train.pool) if train.pool else sample
    documents = draw(jax.random.fold_in(state.key, state.step), task, train.batch, features=features)
    if mesh is not None:
        documents = jax.lax.with_sharding_constraint(documents, NamedSharding(mesh, PartitionSpec(BATCH)))
    loss, slope = jax.value_and_grad(batch_loss)(state.weights, documents, task=task, model=model)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to an int32 count
        direction, moments = _transform(train).update(slope, state.moments, state.weights)
    rate = run.learning_rate * _rate(train, state.step, task.dtype)
    weights = jax.tree.map(lambda w, u: w - rate * u, state.weights, direction)
    sound = (state.stopped < 0) & jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(slope))
    weights, moments = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old), (weights, moments), (state.weights, state.moments)
    )
    stopped = jnp.where(sound | (state.stopped >= 0), state.stopped, state.step)
    return State(weights, moments, state.key, state.step + 1, stopped), loss


@functools.partial(jax.jit, static_argnames=("task", "model", "train", "length", "mesh"))
def train_chunk(
    state: State,
    runs: Runs,
    *,
    task: TaskConfig,
    model: ModelConfig,
    train: TrainConfig,
    length: int,
    features: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> tuple[State, jax.Array]:
    """`length` training steps of all runs, in one compiled loop: the new `State` and the losses (R, length).

    Each step: documents from `fold_in(key, step)`, gradient, clip, Adam, update; a run whose loss or gradient is
    not finite keeps its last weights and notes the step.

    Args:
        state: `State` with leading axis R.
        runs: `Runs` of R.
        task: static `TaskConfig`.
        model: static `ModelConfig`.
        train: static `TrainConfig`.
        length: static number of steps.
        features: (N, d) real feature vectors for `inputs="real"`.
        mesh: static, from `training_mesh`; the leaves of `state` and `runs` then lie along its axis "seeds".

    Returns: (`State`, losses (R, length)).
    Precision: a run is the same whichever runs share the program, and however many devices, up to the rounding of
        differently tiled reductions (`test_training`); chunk boundaries change nothing, bit for bit.
    Cost: one compilation for all runs of equal shape (`test_training` counts them); CPU a step in docs/guides/icl.md.
    """

    def one(state, run):
        def body(state, _):
            return _step(state, run, features, task=task, model=model, train=train, mesh=mesh)

        return jax.lax.scan(body, state, length=length)

    return jax.vmap(one, spmd_axis_name=None if mesh is None else SEEDS)(state, runs)


def training_mesh(runs: int, batch: int) -> Mesh | None:
    """A mesh of all devices for R runs of `batch` documents a step, None for one device.

    Runs go along the axis "seeds" as far as they divide, the documents of a step along "batch".

    Raises: ProblemError where the documents do not divide by the devices that the runs leave over.

    >>> training_mesh(8, 64) is None or training_mesh(8, 64).axis_names == ("seeds", "batch")
    True
    """
    check_integer("runs", runs, at_least=1)
    check_integer("batch", batch, at_least=1)
    devices = jax.device_count()
    seeds = math.gcd(runs, devices)
    if batch % (devices // seeds):
        raise ProblemError(
            f"{runs} runs and {batch} documents a step do not divide by {devices} devices: runs take {seeds}, and "
            f"documents cannot be shared by {devices // seeds}; make the seeds a multiple of {devices}"
        )
    if devices == 1:
        return None
    return jax.make_mesh((seeds, devices // seeds), (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2)
