"""A peer for the speed of training: the usual notebook protocol of in-context linear regression, re-implemented.

Written from a description of the published JAX notebooks' protocol (arXiv 2212.07677), not from their code: a Python
loop over a jitted update; an eager key split a step; one key a task, with an empty distractor choice drawn all the
same; separate Q, K, V and output projections; every token of every layer computed although the loss reads one number;
the optimizer a static argument, so that each seed's own optimizer object compiles again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def task(key: Any, n: int, d: int, half_width: float) -> tuple[Any, Any]:
    """Tokens (n + 1, d + 1) with the query's target slot zero, and the query's target."""
    of_w, of_x, of_query, of_choice = jax.random.split(key, 4)
    w = jax.random.normal(of_w, (d,))
    x = jax.random.uniform(of_x, (n, d), minval=-half_width, maxval=half_width)
    query = jax.random.uniform(of_query, (1, d), minval=-half_width, maxval=half_width)
    y = x @ w
    y = y.at[jax.random.choice(of_choice, n, (0,), replace=False)].set(0.0)
    tokens = jnp.concatenate([x, y[:, None]], axis=1)
    return jnp.concatenate([tokens, jnp.pad(query, ((0, 0), (0, 1)))]), (query @ w)[0]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def batch_of(key: Any, batch: int, n: int, d: int, half_width: float) -> tuple[Any, Any]:
    """A batch of tasks, one key each."""
    return jax.vmap(lambda k: task(k, n, d, half_width))(jax.random.split(key, batch))


def forward(weights: dict[str, Any], tokens: Any) -> Any:
    """All tokens of one linear self-attention layer with separate projections; the query's answer."""
    keys, values = (tokens[:, :-1] @ weights[name].T for name in ("K", "V"))
    scores = jnp.einsum("bik,bjk->bij", tokens @ weights["Q"].T, keys)
    out = tokens + jnp.einsum("bij,bjk->bik", scores, values) @ weights["P"].T
    return -out[:, -1, -1]


def loss(weights: dict[str, Any], tokens: Any, target: Any) -> Any:
    """Half mean square of the query's answer."""
    return jnp.mean((forward(weights, tokens) - target) ** 2) / 2


@functools.partial(jax.jit, static_argnums=0)
def update(optimizer: Any, weights: Any, state: Any, tokens: Any, target: Any) -> tuple[Any, Any, Any]:
    """One optimizer step."""
    value, slope = jax.value_and_grad(loss)(weights, tokens, target)
    direction, state = optimizer.update(slope, state, weights)
    return optax.apply_updates(weights, direction), state, value


def loop(optimizer: Any, batch: int, n: int, d: int, half_width: float) -> Callable[..., Any]:
    """`steps(carry, count)` with carry = (key, weights, state): the Python loop; returns (carry, last loss)."""

    def steps(carry: Any, count: int) -> Any:
        key, weights, state = carry
        value = None
        for _ in range(count):
            key, of_batch = jax.random.split(key)
            tokens, target = batch_of(of_batch, batch, n, d, half_width)
            weights, state, value = update(optimizer, weights, state, tokens, target)
        return (key, weights, state), jax.block_until_ready(value)

    return steps
