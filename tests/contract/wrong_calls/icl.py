"""In-context learning: tasks, models, training and the streams of their documents."""

import functools

import jax
import jax.numpy as jnp

from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample, stream
from attnreg.icl.tokens import TokenConfig
from attnreg.icl.training import TrainConfig
from tests.contract.wrong_calls.row import Wrong

TASK = dict(kind="softmax", dimension=3, length=5, queries=4)
MODEL = dict(attention=("linear", "linear"))
TRAIN = dict(steps=10, batch=4)
REAL = TaskConfig(**(TASK | dict(inputs="real")))

TASKS = [
    ("kind", "cosh", r"kind is 'cosh'; it must be one of 'linear', 'softmax'"),
    ("kind", None, r"kind is None; it must be one of 'linear', 'softmax'"),
    ("dimension", 0, r"dimension is 0; it must be at least 1"),
    ("dimension", 3.0, r"dimension is 3.0, a float; it must be a whole number"),
    ("length", 1, r"length is 1; it must be at least 2"),
    ("length", "5", r"length is '5', a str; it must be a whole number"),
    ("queries", 1, r"queries is 1; it must be at least 2"),
    ("queries", True, r"queries is True, a bool; it must be a whole number"),
    ("inputs", "normal", r"inputs is 'normal'; it must be one of 'gaussian', 'uniform'"),
    ("input_scale", 0.0, r"input_scale is 0.0; it must be above 0"),
    ("weight_scale", -1.0, r"weight_scale is -1.0; it must be above 0"),
    ("weight_scale", "1", r"weight_scale is '1', a str; it must be a number"),
    ("noise", -0.1, r"noise is -0.1; it must be at least 0"),
    ("noise", float("nan"), r"noise is nan; it must be a finite number"),
    ("distractors", 6, r"distractors is 6; it must be at least 0 and at most 5"),
    ("distractors", -1, r"distractors is -1; it must be at least 0"),
    ("dtype", "float16", r"dtype is 'float16'; it must be one of 'float32', 'float64'"),
    ("dtype", jnp.float32, r"dtype is .*; it must be one of 'float32', 'float64'"),
]
MODELS = [
    ("attention", "linear", r"attention is 'linear'; it must be a tuple of one kind per layer"),
    ("attention", (), r"attention is \(\); it must be a tuple of one kind per layer"),
    ("attention", ("relu",), r"attention of a layer is 'relu'; it must be one of 'linear', 'softmax'"),
    ("heads", 0, r"heads is 0; it must be at least 1"),
    ("heads", 1.5, r"heads is 1.5, a float; it must be a whole number"),
    ("shared", "yes", r"shared is 'yes', a str; it must be True or False"),
    ("parametrisation", "lowrank", r"parametrisation is 'lowrank'; it must be one of 'merged', 'factored'"),
    ("init_scale", 0.0, r"init_scale is 0.0; it must be above 0"),
    ("mlp", -1, r"mlp is -1; it must be at least 0"),
    ("layer_norm", 1, r"layer_norm is 1, a int; it must be True or False"),
]
TOKENS = [
    ("targets", "centred", r"targets is 'centred'; it must be one of 'plain', 'simplex'"),
    ("layout", "mixed", r"layout is 'mixed'; it must be one of 'concatenated', 'alternating'"),
    ("code", 3, r"code is 3; it must be 0 for concatenated tokens"),
]
TRAININGS = [
    ("steps", 0, r"steps is 0; it must be at least 1"),
    ("steps", "10", r"steps is '10', a str; it must be a whole number"),
    ("batch", 0, r"batch is 0; it must be at least 1"),
    ("clip", -1.0, r"clip is -1.0; it must be at least 0"),
    ("decay", 1.5, r"decay is 1.5; it must be at least 0 and at most 1"),
    ("warmup", 11, r"warmup is 11; it must be at least 0 and at most 10"),
    ("b1", 1.0, r"b1 is 1.0; it must be at least 0 and below 1"),
    ("pool", -1, r"pool is -1; it must be at least 0"),
    ("decay", None, r"decay is None, a NoneType; it must be a number"),
]

CALLS = [
    Wrong(f"{config.__name__}({name}={value!r})", functools.partial(config, **(base | {name: value})), words)
    for config, base, rows in (
        (TaskConfig, TASK, TASKS),
        (TokenConfig, {}, TOKENS),
        (ModelConfig, MODEL, MODELS),
        (TrainConfig, TRAIN, TRAININGS),
    )
    for name, value, words in rows
]
CALLS += [
    Wrong(
        "model shared between kinds",
        functools.partial(ModelConfig, attention=("linear", "softmax"), shared=True),
        r"attention is .*; shared weights need one kind in all layers",
    ),
    Wrong(
        "task of an unknown field",
        functools.partial(TaskConfig, **TASK, problem="linear"),
        "unexpected keyword argument 'problem'",
        TypeError,
    ),
    Wrong(
        "model of an unknown field",
        functools.partial(ModelConfig, **MODEL, key_size=4),
        "unexpected keyword argument 'key_size'",
        TypeError,
    ),
    Wrong(
        "training of an unknown field",
        functools.partial(TrainConfig, **TRAIN, prng="rbg"),
        "unexpected keyword argument 'prng'",
        TypeError,
    ),
    Wrong(
        "stream unknown",
        lambda: stream(jax.random.key(0), "test"),
        r"stream is 'test'; it must be one of 'train', 'tune', 'evaluate'",
    ),
    Wrong(
        "real documents without features",
        lambda: sample(jax.random.key(0), REAL, 2),
        r"features are None; inputs='real' needs vectors of shape \(N ≥ 9, 3\)",
    ),
    Wrong(
        "real documents from narrow features",
        lambda: sample(jax.random.key(0), REAL, 2, features=jnp.ones((20, 2))),
        r"features have shape .*; inputs='real' needs vectors of shape \(N ≥ 9, 3\)",
    ),
    Wrong(
        "real documents from few features",
        lambda: sample(jax.random.key(0), REAL, 2, features=jnp.ones((8, 3))),
        r"features have shape .*; inputs='real' needs vectors of shape \(N ≥ 9, 3\)",
    ),
]
