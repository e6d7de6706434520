"""A small resumable experiment for trying the machinery: stochastic gradient descent on linear regression."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from experiments.record import Record


def run(config: Any, record: Record) -> dict[str, Any]:
    """Minimise |A x - A x*|^2 / n over fresh batches with Adam; the key is a part of the state."""
    optimizer = optax.adam(config.learning_rate)
    key, truth_key = jax.random.split(jax.random.key(config.seed))
    truth = jax.random.normal(truth_key, (config.d,))
    x = jnp.zeros((config.d,))
    start = {"key": key, "x": x, "opt": optimizer.init(x)}

    @jax.jit
    def chunk(state: Any) -> tuple[Any, jax.Array]:
        def step(state: Any, _: None) -> tuple[Any, jax.Array]:
            key, batch_key = jax.random.split(state["key"])
            a = jax.random.normal(batch_key, (config.n, config.d))
            loss, slope = jax.value_and_grad(lambda x: jnp.mean((a @ x - a @ truth) ** 2))(state["x"])
            update, opt = optimizer.update(slope, state["opt"])
            return {"key": key, "x": optax.apply_updates(state["x"], update), "opt": opt}, loss

        return jax.lax.scan(step, state, length=config.chunk)

    record.expect(config.steps)
    step, state = record.restore(start)
    loss = jnp.nan
    while step < config.steps:
        state, losses = chunk(state)
        step, loss = step + config.chunk, losses[-1]
        record.log(step, loss=loss)
        record.save(step, state)
        time.sleep(config.pause)  # only to make the run long enough to be interrupted in tests
    error = jnp.linalg.norm(state["x"] - truth)
    figure, axes = plt.subplots()
    axes.plot(state["x"])
    record.figure("solution", figure)
    record.table("selfcheck", ("steps", "error"), [(step, error)])
    return {"steps": step, "loss": loss, "error": error, "x": state["x"]}
