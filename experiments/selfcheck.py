"""A small resumable experiment for trying the machinery: stochastic linear regression by Adam."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.runner.about import About, Metric
from experiments.runner.batch import Records, entry
from experiments.runner.config import UsageError
from experiments.runner.figures import canvas
from experiments.runner.record import Record

ABOUT = About(
    "Self-check",
    "Adam on a linear regression whose answer is known: tries the machinery of runs.",
    (Metric("error", "‖x − truth‖"), Metric("steps", "steps of Adam", better="")),
)

BATCHED = ("seed", "learning_rate")


def run_batch(configs: Sequence[Any], records: Records) -> list[dict[str, Any]]:
    """Minimise |A x - A x*|^2 / n over fresh batches, all configs as one vmapped program; the key is in the state."""
    first = configs[0]
    if first.chunk < 1 or first.steps % first.chunk:
        raise UsageError(f"config.steps is {first.steps}; it must be a multiple of config.chunk ({first.chunk})")
    keys = jnp.stack([jax.random.key(config.seed) for config in configs])
    rates = jnp.asarray([config.learning_rate for config in configs])
    chunk = jax.jit(jax.vmap(_chunk(first)))
    records.expect(first.steps)
    step, state = records.restore(jax.vmap(lambda key: _start(first, key))(keys))
    while step < first.steps:
        state, loss = chunk(rates, state)
        step += first.chunk
        records.log(step, loss=loss)
        records.save(step, state)
        time.sleep(first.pause)  # only to make the run long enough to be interrupted in tests
    return [_finish(step, entry(state, i), record) for i, record in enumerate(records)]


def _finish(step: int, state: Any, record: Record) -> dict[str, Any]:
    result = {"steps": step, "error": jnp.linalg.norm(state["x"] - state["truth"]), "x": state["x"]}
    figure, axes = canvas()
    axes[0, 0].plot(state["x"], "s-", label="found")
    axes[0, 0].plot(state["truth"], "k.", label="truth")
    axes[0, 0].set(xlabel="coordinate", ylabel="value", title=f"error {float(result['error']):.3g}")
    axes[0, 0].legend()
    record.figure("solution", figure, caption="The solution that Adam found and the true one, one seed.")
    record.arrays("solution", x=state["x"], truth=state["truth"])
    record.table("selfcheck", ("steps", "error"), [(step, result["error"])], caption="The run at its end.")
    return result


def _start(config: Any, key: jax.Array) -> dict[str, Any]:
    key, truth_key = jax.random.split(key)
    x = jnp.zeros((config.d,))
    return {"key": key, "truth": jax.random.normal(truth_key, x.shape), "x": x, "opt": _ADAM.init(x)}


def _chunk(config: Any) -> Callable[[jax.Array, Any], tuple[Any, jax.Array]]:
    """`config.chunk` steps as a function of (learning rate, state)."""

    def step(rate: Any, state: Any) -> tuple[Any, jax.Array]:
        key, batch_key = jax.random.split(state["key"])
        a = jax.random.normal(batch_key, (config.n, config.d))
        loss, slope = jax.value_and_grad(lambda x: jnp.mean((a @ (x - state["truth"])) ** 2))(state["x"])
        direction, opt = _ADAM.update(slope, state["opt"])
        return state | {"key": key, "x": state["x"] - rate * direction, "opt": opt}, loss

    def chunk(rate: jax.Array, state: Any) -> tuple[Any, jax.Array]:
        state, losses = jax.lax.scan(lambda s, _: step(rate, s), state, length=config.chunk)
        return state, losses[-1]

    return chunk


_ADAM: Any = optax.scale_by_adam()
