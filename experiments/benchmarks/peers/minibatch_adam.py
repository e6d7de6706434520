"""What a user writes first for data in documents: Adam on a few of them at a time, cosine decay, gradients clipped."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.cells import Cell
from experiments.benchmarks.peers.protocol import Functions, Peer, Steps, compiled


class Setting(NamedTuple):
    """What one run is given beside its start, in `data["setting"]`: all settings share one program."""

    rate: Any
    steps: Any
    key: jax.Array


class Training(NamedTuple):
    """The state of a run; `total` is the sum of the losses of its batches."""

    x: Any
    moments: Any
    steps: jax.Array
    key: jax.Array
    total: jax.Array


def minibatch_adam(*, documents: int, chunk: int = 50) -> Peer:
    """Adam of optax on `documents` random documents a step: the first axis of the cell's data "A" and "B"."""

    def make(functions: Functions, cell: Cell) -> Steps:
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

        def start(x0: Any, data: Any) -> Training:
            zero = jnp.zeros((), data[1].dtype)
            return Training(x0, optimizer.init(x0), jnp.int32(0), data[0]["setting"].key, zero)

        def step(carry: Training, data: Any) -> Training:
            plain, unit = data
            setting, k = plain["setting"], plain["A"].shape[0]
            few = min(documents, k)
            key, sub = jax.random.split(carry.key)
            index = jax.random.choice(sub, k, (few,), replace=False)
            batch = {name: plain[name][index] for name in ("A", "B")}
            value, gradient = jax.value_and_grad(functions.loss)(carry.x, (batch, unit * (few / k)))
            direction, moments = optimizer.update(gradient, carry.moments, carry.x)
            done = carry.steps.astype(setting.steps.dtype) / setting.steps
            rate = setting.rate * (1 + jnp.cos(jnp.pi * jnp.minimum(done, 1))) / 2
            x = jax.tree.map(lambda w, u: w - rate.astype(w.dtype) * u, carry.x, direction)
            return Training(x, moments, carry.steps + 1, key, carry.total + value)

        return Steps(start, step, lambda c: c.x, lambda c: {"steps": c.steps})

    return compiled("minibatch Adam", f"batches of {documents}", make, chunk=chunk)
