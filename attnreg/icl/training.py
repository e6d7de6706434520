"""Training many runs in one compiled program: seeds, learning rates and weight scales along one vmapped axis.

A run is a seed with its scalars. All runs of a program share shapes; a chunk of steps is one `lax.scan` with the
documents drawn inside it. The state is a plain pytree, so a checkpoint of it resumes bit for bit.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from attnreg.icl import models
from attnreg.icl.metrics import document_loss
from attnreg.icl.tasks import Scales, sample, stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; hashable, static.

    Attributes:
        steps: total number of steps (the cosine decay ends there).
        batch: documents a step.
        b1: Adam's first decay.
        b2: Adam's second decay.
        clip: global-norm clip of the gradient, 0 for none.
        warmup: steps of linear warm-up.
        decay: fraction of the learning rate left at the end (1 keeps it constant).
        prng: "threefry2x32", or "rbg" (cheaper bits; under vmap a run's stream then depends on the other runs).
    """

    steps: int
    batch: int
    b1: float = 0.9
    b2: float = 0.98
    clip: float = 10.0
    warmup: int = 0
    decay: float = 1.0
    prng: str = "threefry2x32"

    def __post_init__(self):
        """Refuse impossible settings."""
        if min(self.steps, self.batch) < 1 or not 0 <= self.warmup <= self.steps:
            raise ValueError("steps and batch must be at least 1 and warmup lie in 0..steps")
        if self.clip < 0 or not 0 <= self.decay <= 1 or not 0 <= self.b1 < 1 or not 0 <= self.b2 < 1:
            raise ValueError("clip must not be negative, decay lie in [0, 1] and b1, b2 in [0, 1)")
        if self.prng not in ("threefry2x32", "rbg"):
            raise ValueError(f"prng is {self.prng!r}; it must be 'threefry2x32' or 'rbg'")


class Runs(NamedTuple):
    """The scalars that tell runs apart, one entry per run: everything here is traced and sweeps for free."""

    seed: jax.Array
    learning_rate: jax.Array
    init_scale: jax.Array
    scales: Scales


class State(NamedTuple):
    """One run (or R of them along the leading axis).

    weights, moments: parameters and Adam state. key: of the training stream. step: finished steps.
    stopped: step at which the loss or gradient was not finite (the weights are those before), −1 while sound.
    """

    weights: Any
    moments: Any
    key: jax.Array
    step: jax.Array
    stopped: jax.Array


def make_runs(task, model, *, seeds, learning_rates=(1e-3,), weight_scales=(), init_scales=()):
    """The grid seeds × learning_rates × weight_scales × init_scales as `Runs`, seeds varying fastest."""
    weight_scales = tuple(weight_scales) or (task.weight_scale,)
    init_scales = tuple(init_scales) or (model.init_scale,)
    grid = [(s, l, w, i) for i in init_scales for w in weight_scales for l in learning_rates for s in seeds]
    seed, rate, weight, start = zip(*grid, strict=True)
    R, dtype = len(grid), task.dtype
    scales = Scales(jnp.full(R, task.input_scale, dtype), jnp.asarray(weight, dtype), jnp.full(R, task.noise, dtype))
    return Runs(jnp.asarray(seed, jnp.uint32), jnp.asarray(rate, dtype), jnp.asarray(start, dtype), scales)


def _transform(train):
    steps = [optax.clip_by_global_norm(train.clip)] if train.clip else []
    return optax.chain(*steps, optax.scale_by_adam(b1=train.b1, b2=train.b2))


def _rate(train, step, dtype):
    """Learning rate factor at `step`: linear warm-up times cosine decay to `decay`."""
    step = step.astype(dtype)
    warm = jnp.minimum(1, (step + 1) / train.warmup) if train.warmup else 1
    half = (1 + jnp.cos(jnp.pi * step / train.steps)) / 2
    return warm * (train.decay + (1 - train.decay) * half)


def start(runs, *, task, model, train):
    """`State` of R fresh runs. The keys of weights, and of the three document streams, come from each run's seed."""

    def one(run):
        key = jax.random.key(run.seed, impl=train.prng)
        of_weights, of_tasks = jax.random.split(key)
        weights = models.init(of_weights, model, task.dimension, task.dtype, scale=run.init_scale)
        moments = _transform(train).init(weights)
        return State(weights, moments, stream(of_tasks, "train"), jnp.int32(0), jnp.int32(-1))

    return jax.vmap(one)(runs)


def batch_loss(weights, documents, *, problem, model):
    """Mean loss of a model on a batch of documents."""

    def one(document):
        return document_loss(problem, models.logits(weights, model, document), document.answers)

    return jnp.mean(jax.vmap(one)(documents))


def _step(state, run, rows, *, task, model, train):
    key = jax.random.fold_in(state.key, state.step)
    documents = sample(key, task, train.batch, scales=run.scales, rows=rows)
    value_and_slope = jax.value_and_grad(batch_loss)
    loss, slope = value_and_slope(state.weights, documents, problem=task.problem, model=model)
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


@functools.partial(jax.jit, static_argnames=("task", "model", "train", "length"))
def train_chunk(state, runs, *, task, model, train, length, rows=None):
    """`length` training steps of all runs, in one compiled loop.

    Each step: fresh documents from `fold_in(key, step)`, gradient, clip, Adam, update; a run whose loss or gradient is
    not finite keeps its last weights and notes the step.

    Args:
        state: `State` with leading axis R.
        runs: `Runs` of R.
        task: static `TaskConfig`.
        model: static `ModelConfig`.
        train: static `TrainConfig`.
        length: static number of steps.
        rows: N×d real feature rows for `inputs="rows"`.

    Returns: (`State`, R×length losses).
    Precision: with threefry keys a run is the same whichever runs share the program, up to the rounding of differently
        tiled reductions (`test_training`); chunk boundaries change nothing, bit for bit.
    Cost: one compilation for all runs of equal shape (`test_training` counts them); CPU a step in docs/guides/icl.md.
    """

    def one(state, run):
        def body(state, _):
            return _step(state, run, rows, task=task, model=model, train=train)

        return jax.lax.scan(body, state, length=length)

    return jax.vmap(one)(state, runs)
