"""The training loop: one compilation, runs independent of their neighbours, chunks and non-finite runs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import training
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from attnreg.icl.tokens import TokenConfig
from attnreg.icl.training import TrainConfig, make_runs, start, train_chunk

TASK = TaskConfig(kind="linear", dimension=3, length=6, queries=2)
MODEL = ModelConfig(attention=("linear",), init_scale=0.3)
TRAIN = TrainConfig(steps=40, batch=32)
STATIC = {"task": TASK, "model": MODEL, "train": TRAIN}


@functools.partial(jax.jit, static_argnames=("task", "model", "train"))
def begin(runs, **static):
    return start(runs, **static)


def plain(state):
    return state._replace(key=jax.random.key_data(state.key))


def test_chunks_compose_bit_for_bit():
    runs = make_runs(TASK, seeds=(0, 1))
    state = begin(runs, **STATIC)
    whole, losses = train_chunk(state, runs, length=8, **STATIC)
    half, first = train_chunk(state, runs, length=4, **STATIC)
    half, second = train_chunk(half, runs, length=4, **STATIC)
    chex.assert_trees_all_equal(plain(whole), plain(half))
    np.testing.assert_array_equal(losses, np.concatenate([first, second], axis=1))
    assert whole.step.tolist() == [8, 8]


def test_a_run_does_not_depend_on_its_neighbours_and_training_learns():
    together = make_runs(TASK, seeds=(0, 1), learning_rates=(3e-3, 1e-1))
    assert together.seed.tolist() == [0, 1, 0, 1]
    state, losses = train_chunk(begin(together, **STATIC), together, length=40, **STATIC)
    alone = make_runs(TASK, seeds=(1,), learning_rates=(1e-1,))
    _, single = train_chunk(begin(alone, **STATIC), alone, length=40, **STATIC)
    np.testing.assert_allclose(losses[3], single[0], rtol=1e-4)
    batch = sample(jax.random.key(9), TASK, 2048)
    before, after = (
        training.batch_loss(jax.tree.map(lambda leaf: leaf[3], s.weights), batch, task=TASK, model=MODEL)
        for s in (begin(together, **STATIC), state)
    )
    assert after < 0.9 * before
    assert (state.stopped == -1).all()


def test_all_runs_of_one_shape_compile_once():
    inner = train_chunk.__wrapped__
    traced = jax.jit(chex.assert_max_traces(inner, n=1), static_argnames=("task", "model", "train", "length"))
    for rates in ((1e-3, 2e-3), (5e-3, 1e-2)):
        runs = make_runs(TASK, seeds=(3,), learning_rates=rates)
        traced(begin(runs, **STATIC), runs, length=2, **STATIC)


def test_a_changed_config_is_not_stale():
    """The defect of a global read at trace time: same shapes, another number of layers, old results."""
    runs = make_runs(TASK, seeds=(0,))
    losses = []
    for depth in (1, 3):
        static = STATIC | {"model": ModelConfig(attention=("linear",) * depth, shared=True, init_scale=0.3)}
        losses.append(train_chunk(begin(runs, **static), runs, length=1, **static)[1])
    assert losses[0] != losses[1]


def test_a_diverging_run_stops_alone_and_says_when():
    static = STATIC | {"train": TrainConfig(steps=40, batch=8, clip=0.0)}
    runs = make_runs(TASK, seeds=(0,), learning_rates=(1e-3, 1e30))
    state, losses = train_chunk(begin(runs, **static), runs, length=20, **static)
    assert state.stopped[0] == -1
    assert np.isfinite(losses[0]).all()
    assert 0 < state.stopped[1] < 20
    assert not np.isfinite(losses[1, state.stopped[1]])
    assert all(np.isfinite(leaf[1]).all() for leaf in jax.tree.leaves(state.weights))


def test_the_start_settles_the_branch_of_every_seed():
    """docs/theory/icl.md, section 7: the sharpness of a softmax head takes the sign that the value path begins with."""
    task = TaskConfig(kind="softmax", dimension=4, length=10, queries=10, weight_scale=0.5)
    for branch, sign in (("away", -1), ("to", 1)):
        tokens = TokenConfig(targets="simplex")
        model = ModelConfig(attention=("softmax",), parametrisation="factored", start=branch, tokens=tokens)
        static = {"task": task, "model": model, "train": TrainConfig(steps=60, batch=32)}
        runs = make_runs(task, seeds=range(6), learning_rates=(1e-2,))
        state, _ = train_chunk(begin(runs, **static), runs, length=60, **static)
        M = np.einsum("slhki,slhkj->slhij", state.weights["Q"], state.weights["K"])[:, 0, 0, :4, :4]
        assert (sign * np.trace(M, axis1=1, axis2=2) > 0.1).all()


def test_float64_is_kept():
    task = TaskConfig(kind="softmax", dimension=3, length=6, queries=4, dtype="float64")
    static = STATIC | {"task": task, "train": TrainConfig(steps=4, batch=4, decay=0.1)}
    runs = make_runs(task, seeds=(0,))
    state, losses = train_chunk(begin(runs, **static), runs, length=2, **static)
    assert losses.dtype == jnp.float64
    assert state.weights["KQ"].dtype == jnp.float64


def test_schedule_warms_up_and_decays():
    for warmup, first in ((0, 1.0), (10, 0.1)):
        train = TrainConfig(steps=100, batch=1, warmup=warmup, decay=0.1)
        rates = [float(training._rate(train, jnp.int32(step), "float32")) for step in (0, 50, 100)]
        np.testing.assert_allclose(rates, [first, 0.55, 0.1], atol=1e-6)


def test_adam_has_the_decays_asked_for():
    train, slopes = TrainConfig(steps=2, batch=1, clip=0.0, b1=0.8, b2=0.5), (3.0, -1.0)
    transform = training._transform(train)
    moments = transform.init(jnp.zeros(()))
    with jax.numpy_dtype_promotion("standard"):
        for slope in slopes:
            direction, moments = transform.update(jnp.asarray(slope), moments)
    mean = (0.2 * (0.8 * slopes[0] + slopes[1])) / (1 - 0.8**2)
    square = (0.5 * (0.5 * slopes[0] ** 2 + slopes[1] ** 2)) / (1 - 0.5**2)
    np.testing.assert_allclose(direction, mean / square**0.5, rtol=1e-6)


def test_a_pool_of_documents_is_learned_by_heart():
    """One document for ever: its loss goes below what fresh documents allow, and theirs does not follow."""
    static = STATIC | {"train": TrainConfig(steps=40, batch=4, decay=1.0, pool=1)}
    runs = make_runs(TASK, seeds=(0,), learning_rates=(3e-2,))
    state, losses = train_chunk(begin(runs, **static), runs, length=40, **static)
    assert losses[0, -1] < 0.1 * losses[0, 0]
    fresh = sample(jax.random.key(9), TASK, 512)
    marked = training.batch_loss(jax.tree.map(lambda leaf: leaf[0], state.weights), fresh, task=TASK, model=MODEL)
    assert marked > 5 * losses[0, -1]


def test_every_option_trains_together():
    tokens = TokenConfig(layout="alternating", code=4, scratch=3)
    model = ModelConfig(attention=("mix", "softmax"), mlp=5, layer_norm=True, init_scale=0.2, tokens=tokens)
    train = TrainConfig(steps=20, batch=8, pool=2, warmup=5, b1=0.8, b2=0.9)
    static = {"task": TASK, "model": model, "train": train}
    runs = make_runs(TASK, seeds=(0, 1), learning_rates=(2e-2,))
    state, losses = train_chunk(begin(runs, **static), runs, length=20, **static)
    assert (state.stopped == -1).all()
    assert (losses[:, -5:].mean(axis=1) < losses[:, :5].mean(axis=1)).all()
    assert (state.weights["gate"][:, 0] != 0).all()  # the mixed layer's gate learns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch": 2.0}, "batch is 2.0, a float"),
        ({"clip": -1.0}, "clip is -1.0; it must be at least 0"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"warmup": 41}, "warmup is 41; it must be at least 0 and at most 40"),
        ({"b1": -0.1}, "b1 is -0.1"),
        ({"b2": 1.0}, "b2 is 1.0"),
        ({"pool": -1}, "pool is -1; it must be at least 0"),
    ],
)
def test_bad_training_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"steps": 40, "batch": 8} | change)
