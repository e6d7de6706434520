"""Cells of attention layers seen from outside: plain losses in the factors of the heads, which peers differentiate."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.layer import LayerRegression, LayerWeights
from experiments.benchmarks.cells import Cell
from experiments.benchmarks.layers import deviation

SCALES = (1.0, 0.3, 0.1)  # of the starts that `Cell.draw` gives, one after the other


def outputs_cell(name: str, A: ArrayLike, B: ArrayLike, *, heads: int, rank: int, whole: bool) -> Cell:
    """Outputs B (k, n, c) of `heads` heads that read A (k, n, d); `whole`: V (h, d, c) and no O."""

    def draw(key: jax.Array, data: Any, run: int) -> LayerWeights:
        scale = SCALES[min(run, len(SCALES) - 1)]
        return layer_start(key, data, heads=heads, rank=rank, whole=whole, scale=scale)

    data = {"A": jnp.asarray(A), "B": jnp.asarray(B)}
    start = draw(jax.random.key(0), data, 0)
    problem = LayerRegression(data["A"], data["B"])
    return Cell(name, problem, data, start, layer_loss, None, lambda data: deviation(data["B"]), draw)


def maps_cell(name: str, A: ArrayLike, B: ArrayLike, *, rank: int) -> Cell:
    """Maps B (k, n, n) of one head that reads A (k, n, d)."""

    def draw(key: jax.Array, data: Any, run: int) -> Factors:
        return map_start(key, data, rank=rank, scale=SCALES[min(run, len(SCALES) - 1)])

    data = {"A": jnp.asarray(A), "B": jnp.asarray(B)}
    start = draw(jax.random.key(0), data, 0)
    problem = AttentionRegression(data["A"], data["A"], data["B"])
    return Cell(name, problem, data, start, map_loss, None, lambda data: jnp.sum(data["B"] ** 2), draw)


def layer_start(key: jax.Array, data: Any, *, heads: int, rank: int, whole: bool, scale: float) -> LayerWeights:
    """Normal weights, for inputs of unit size; `scale` multiplies Q and K."""
    A, c = data["A"], data["B"].shape[2]
    d, size = A.shape[2], jnp.std(A)
    keys = jax.random.split(key, 4)
    Q, K = (scale * _normal(k, (heads, d, rank), d, A.dtype) / size for k in keys[:2])
    if whole:
        return LayerWeights(Q, K, 0.1 * _normal(keys[2], (heads, d, c), d, A.dtype) / size)
    V = _normal(keys[2], (heads, d, rank), d, A.dtype) / size
    return LayerWeights(Q, K, V, 0.1 * _normal(keys[3], (heads, rank, c), rank, A.dtype))


def map_start(key: jax.Array, data: Any, *, rank: int, scale: float) -> Factors:
    """Normal factors for inputs of unit size, times `scale`."""
    A = data["A"]
    d, size = A.shape[2], jnp.std(A)
    return Factors(*(scale * _normal(k, (d, rank), d, A.dtype) / size for k in jax.random.split(key)))


def _normal(key: jax.Array, shape: tuple[int, ...], fan: int, dtype: Any) -> jax.Array:
    return jax.random.normal(key, shape, dtype) / jnp.sqrt(jnp.asarray(fan, dtype))


def layer_loss(x: LayerWeights, data: Any) -> jax.Array:
    """`‖Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h − B‖²`, as one writes it."""
    A, B = data["A"], data["B"]
    q, k, v = (jnp.einsum("knd,hdr->khnr", A, W) for W in x[:3])
    z = jax.nn.softmax(jnp.einsum("khnr,khmr->khnm", q, k), axis=-1) @ v
    out = jnp.sum(z, axis=1) if x.O is None else jnp.einsum("khns,hsc->knc", z, x.O)
    return jnp.sum((out - B) ** 2)


def map_loss(x: Factors, data: Any) -> jax.Array:
    """`‖softmax(A Q Kᵀ Aᵀ) − B‖²`, as one writes it."""
    A, B = data["A"], data["B"]
    logits = jnp.einsum("knr,kmr->knm", A @ x.Q, A @ x.K)
    return jnp.sum((jax.nn.softmax(logits, axis=-1) - B) ** 2)
