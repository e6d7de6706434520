"""Instances and moves of the target-shift experiment: self-attention on a document, a step of its weights or tokens."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds import Point
from attnreg.bounds import target_shift as ts
from attnreg.data.minilm.embedded import load_embedded_head
from attnreg.data.minilm.encoder import load_minilm
from attnreg.data.minilm.instance import attention_map, layer_inputs, principal_components
from attnreg.data.minilm.texts import windows
from experiments.runner.config import UsageError

SOURCES = ("synthetic", "embedded", "minilm")


def documents(source: str, config: Any, key: jax.Array) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(tokens, the next layer's tokens or None) of every document, float arrays (n, d) of spectral norm `radius`."""
    if source not in SOURCES:
        raise UsageError(f"config.sources has {source!r}; there are {', '.join(SOURCES)}")
    if source == "synthetic":
        for k in jax.random.split(key, config.documents):
            yield scaled(np.asarray(jax.random.normal(k, (config.n, config.d))), config.radius), None
    elif source == "embedded":
        for tokens in load_embedded_head(dtype=np.float64).A[: config.documents, : config.real_tokens]:
            yield scaled(tokens, config.radius), None
    else:
        encoder = load_minilm()
        ids = windows("docs", config.real_tokens, config.documents)
        for layer in (1, 4):
            before, after = (layer_inputs(encoder, ids, layer + z).astype(np.float64) for z in (0, 1))
            reduced, moved = principal_components(before, after, config.d)
            for tokens, following in zip(reduced, moved, strict=True):
                size = np.linalg.norm(tokens, 2) / config.radius
                yield tokens / size, following / size


def scaled(tokens: np.ndarray, radius: float) -> np.ndarray:
    """`tokens` with spectral norm `radius`."""
    return tokens * (radius / np.linalg.norm(tokens, 2))


def instance(tokens: np.ndarray, loss: str, key: jax.Array, config: Any) -> Point:
    """Self-attention on one document: A1 = A2 = A3 = tokens, weights and targets drawn."""
    n, d = tokens.shape
    keys = jax.random.split(key, 4)
    A, dtype = jnp.asarray(tokens), jnp.asarray(tokens).dtype
    X = jax.random.normal(keys[0], (d, d), dtype) / d
    if loss == "one_layer":
        Y = jax.random.normal(keys[1], (d, config.columns), dtype) / d**0.5
        return Point(A, A, X, jax.random.normal(keys[2], (n, config.columns), dtype), A, Y)
    factors = jax.random.normal(keys[3], (2, n, d), dtype)
    return Point(A, A, X, jnp.asarray(attention_map(np.asarray(factors[0]), np.asarray(factors[1]))))


def weight_move(p: Point, loss: str, step: float) -> Point:
    """One gradient step of length `step` times the unit of 1/‖∇‖: the weights move by `step` in all."""
    unit = _unit_step(p, loss)
    return ts.gradient_step(p, loss, step * unit)


_gradient_step = jax.jit(ts.gradient_step, static_argnums=1)


def _unit_step(p: Point, loss: str) -> float:
    moved = _gradient_step(p, loss, jnp.ones((), p.X.dtype))
    parts = [moved.X - p.X] + ([moved.Y - p.Y] if p.Y is not None and moved.Y is not None else [])
    return 1.0 / float(np.sqrt(sum(np.sum(np.asarray(z) ** 2) for z in parts)))


def data_move(p: Point, kind: str, scale: float) -> Point:
    """One self-attention layer on the tokens: scores by X itself, values by the identity."""
    d = p.A1.shape[1]
    return with_tokens(p, ts.attention_layer(p.A1, p.X, jnp.eye(d, dtype=p.X.dtype), scale=scale, kind=kind))


def with_tokens(p: Point, tokens: Any) -> Point:
    """`p` with new tokens in every place where tokens stand."""
    A = jnp.asarray(tokens, p.A1.dtype)
    return p._replace(A1=A, A2=A, A3=None if p.A3 is None else A)
