"""CPU per training step of the in-context laboratory against the usual notebook loop, interleaved, at equal losses."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnreg.icl import draws, models, training
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from attnreg.icl.training import TrainConfig
from attnreg.problems.checks import ProblemError, check_integer, check_number
from experiments.benchmarks.timing import Clock, interleave, timed
from experiments.icl import loop_peer as peer
from experiments.icl.arms import section_of
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError
from experiments.runner.record import Record

ABOUT = About(
    "Cost of a training step in context",
    "CPU time of a step of attnreg.icl and of the usual notebook loop, in turn, at equal losses.",
    (
        Metric("ratio", "the usual loop's CPU time a step over ours, median", "higher", "ratio.median"),
        Metric("agreement", "largest relative difference of the two losses on the same documents", path="agreement"),
    ),
)


def run(config: Any, record: Record) -> dict[str, Any]:
    """Measure steps, start-ups and parts; check that both loops compute and reach the same losses."""
    _check(config)
    ours, theirs = _ours(config), _theirs(config)
    agreement = _agreement(config)
    start_up = {"ours, all seeds": _seconds(ours["start"]), "peer, one seed": _seconds(theirs["start"])}
    start_up["peer, the next seed"] = _seconds(_theirs(config)["start"])
    times = _interleave({"ours": ours["steps"], "peer": theirs["steps"]}, config)
    parts = _interleave(_parts(config), config)
    rows = [(name, *_spread(t)) for name, t in (times | parts).items()]
    record.table("speed", ("what", "median CPU ms a step", "quarter", "three quarters"), rows)
    record.table("start-up", ("what", "CPU seconds"), list(start_up.items()))
    ratios = np.array(times["peer"]) / np.array(times["ours"])
    result = {
        "cpu_ms": {name: _spread(t) for name, t in (times | parts).items()},
        "ratio": {"median": np.median(ratios), "min": ratios.min(), "max": ratios.max()},
        "start_up_cpu_seconds": start_up,
        "agreement": agreement,
        "final": _train_both(config, record) if config.train_steps else None,
    }
    record.say(
        f"the peer takes {np.median(ratios):.1f} times our CPU a step ({ratios.min():.1f} to {ratios.max():.1f})"
    )
    return result


def _check(config: Any) -> None:
    """Refuse wrong fields in one line; those of the dataclasses are refused by `_static`."""
    try:
        for name in ("seeds", "steps", "rounds", "own.seeds"):
            check_integer(f"config.{name}", operator.attrgetter(name)(config), at_least=1)
        check_integer("config.train_steps", config.train_steps, at_least=0)
        for name in ("learning_rate", "own.learning_rate", "own.init_scale"):
            check_number(f"config.{name}", operator.attrgetter(name)(config), above=0)
    except ProblemError as error:
        raise UsageError(str(error)) from error


def _static(config: Any) -> dict[str, Any]:
    n, d = config.length, config.dimension
    task = dict(kind="linear", dimension=d, length=n, queries=1, inputs="uniform", input_scale=config.half_width)
    model = dict(attention=("linear",), parametrisation="factored", start="random", init_scale=config.init_scale)
    train = dict(steps=10**6, batch=config.batch, clip=config.clip, decay=1.0)
    return {
        "task": section_of(TaskConfig, "config", task),
        "model": section_of(ModelConfig, "config", model),
        "train": section_of(TrainConfig, "config", train),
    }


def _ours(config: Any) -> dict[str, Callable[..., Any]]:
    static = _static(config)
    runs = training.make_runs(static["task"], seeds=range(config.seeds), learning_rates=(config.learning_rate,))
    one = jax.tree.map(lambda leaf: leaf[:1], runs)
    single = training.start(one, **static)

    def begin() -> Any:
        state = training.start(runs, **static)
        return jax.block_until_ready(training.train_chunk(state, runs, length=config.steps, **static))

    def steps(count: int) -> Any:
        return jax.block_until_ready(training.train_chunk(single, one, length=count, **static))

    return {"start": begin, "steps": steps}


def _theirs(config: Any) -> dict[str, Callable[..., Any]]:
    optimizer = _adam(config)
    weights = _weights(config)
    loop = peer.loop(optimizer, config.batch, config.length, config.dimension, config.half_width)
    carry = (jax.random.key(0), weights, optimizer.init(weights))
    return {"start": lambda: loop(carry, 1), "steps": lambda count: loop(carry, count)}


def _adam(config: Any) -> Any:
    train = _static(config)["train"]
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(config.learning_rate, b1=train.b1, b2=train.b2, weight_decay=0.0),
    )


def _weights(config: Any, seed: int = 0) -> dict[str, Any]:
    """One set of factored weights (D, D), for both."""
    static = _static(config)
    made = models.init(jax.random.key(seed), static["model"], config.dimension, "float32")
    return {name: leaf[0, 0] for name, leaf in made.items()}


def _agreement(config: Any) -> float:
    """Largest relative difference of the two losses on the same documents and weights (they divide by n or do not)."""
    static, worst = _static(config), 0.0
    for seed in range(3):
        documents = sample(jax.random.key(seed), static["task"], config.batch)
        weights = jax.tree.map(lambda leaf: 20 * leaf, _weights(config, seed))
        shaped = {name: leaf[None, None] for name, leaf in weights.items()}
        shaped["P"] = shaped["P"] * config.length
        ours = training.batch_loss(shaped, documents, task=static["task"], model=static["model"])
        context = jnp.concatenate([documents.context, documents.targets[..., None]], axis=2)
        tokens = jnp.concatenate([context, jnp.pad(documents.queries, ((0, 0), (0, 0), (0, 1)))], axis=1)
        theirs = peer.loss(weights, tokens, documents.answers[:, 0])
        worst = max(worst, float(abs(ours - theirs) / theirs))
    return worst


def _parts(config: Any) -> dict[str, Callable[[int], Any]]:
    """Where the time goes: documents alone, with our draws, with jax.random's, and the peer's."""
    task, batch = _static(config)["task"], config.batch
    shape = (batch, task.length + 1, task.dimension)

    def scan(body: Callable[[Any], Any]) -> Callable[[int], Any]:
        @functools.partial(jax.jit, static_argnums=0)
        def compiled(count: int, key: Any) -> Any:
            def step(total: Any, i: Any) -> Any:
                return total + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(body(jax.random.fold_in(key, i)))), None

            return jax.lax.scan(step, jnp.float32(0), jnp.arange(count))[0]

        return lambda count: jax.block_until_ready(compiled(count, jax.random.key(1)))

    def peer_documents(count: int) -> Any:
        key, made = jax.random.key(0), None
        for _ in range(count):
            key, of_batch = jax.random.split(key)
            made = peer.batch_of(of_batch, batch, task.length, task.dimension, config.half_width)
        return jax.block_until_ready(made)

    return {
        "ours, documents alone": scan(lambda key: sample(key, task, batch)),
        "peer, documents alone": peer_documents,
        "uniforms, attnreg.icl.draws": scan(lambda key: draws.uniform(key, shape, "float32")),
        "uniforms, jax.random": scan(lambda key: jax.random.uniform(key, shape)),
    }


def _interleave(loops: dict[str, Callable[[int], Any]], config: Any) -> dict[str, list[float]]:
    """CPU milliseconds a step (all threads of this process), rounds interleaved so that load hits all alike."""
    runs = {name: functools.partial(steps, config.steps) for name, steps in loops.items()}
    samples = interleave(runs, rounds=config.rounds)
    return {name: list(found.cpu / config.steps * 1e3) for name, found in samples.items()}


def _seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of one call, compilation included."""
    return timed(call)[1]


def _spread(times: list[float]) -> tuple[float, ...]:
    return tuple(float(q) for q in np.quantile(times, (0.5, 0.25, 0.75)))


def _train_both(config: Any, record: Record) -> dict[str, Any]:
    """Train both for as long as published; losses on the same fresh documents, and CPU seconds spent."""
    static, steps, own = _static(config), config.train_steps, config.own
    static["model"] = dataclasses.replace(static["model"], init_scale=own.init_scale)
    runs = training.make_runs(static["task"], seeds=range(own.seeds), learning_rates=(own.learning_rate,))
    clock = Clock()
    state, _ = training.train_chunk(training.start(runs, **static), runs, length=steps, **static)
    jax.block_until_ready(state.step)
    each = clock.cpu / own.seeds
    spent = {f"ours, seed {i}": each for i in range(own.seeds)}
    clock = Clock()
    optimizer, weights = _adam(config), _weights(config)
    loop = peer.loop(optimizer, config.batch, config.length, config.dimension, config.half_width)
    (_, theirs, _), _ = loop((jax.random.key(1), weights, optimizer.init(weights)), steps)
    spent["peer"] = clock.cpu
    theirs = {name: leaf[None, None] for name, leaf in theirs.items()}
    documents = sample(jax.random.key(99), static["task"], 65536)
    score = functools.partial(training.batch_loss, documents=documents, task=static["task"], model=static["model"])
    losses = {
        f"ours, seed {i}": float(score(jax.tree.map(lambda leaf, i=i: leaf[i], state.weights)))
        for i in range(own.seeds)
    }
    losses["peer"] = float(score(theirs | {"P": theirs["P"] * config.length}))
    record.table("training", ("loop", "loss", "CPU seconds"), [(k, losses[k], spent[k]) for k in losses])
    return {"loss": losses, "cpu_seconds": spent, "steps": steps}
