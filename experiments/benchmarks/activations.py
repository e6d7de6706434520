"""Cells of attention layers seen from outside: plain losses in the factors of the heads, which peers differentiate."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.data.models.rotary import rotate
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.layer import LayerRegression, LayerWeights
from attnreg.problems.rotary import Rotary
from experiments.benchmarks.cells import Cell
from experiments.benchmarks.layers import deviation

SCALES = (1.0, 0.3, 0.1)  # of the starts that `Cell.draw` gives, one after the other


def outputs_cell(
    name: str,
    A: ArrayLike,
    B: ArrayLike,
    *,
    heads: int,
    rank: int,
    whole: bool,
    key_heads: int | None = None,
    **logits: Any,
) -> Cell:
    """Outputs B (k, n, c) of `heads` heads that read A (k, n, d); `whole`: V (h, d, c) and no O.

    `logits`: `causal` and `rotary`, as in `plain_maps`.
    """
    sizes: dict[str, Any] = dict(heads=heads, rank=rank, whole=whole, key_heads=key_heads)

    def draw(key: jax.Array, data: Any, run: int) -> LayerWeights:
        return layer_start(key, data, scale=SCALES[min(run, len(SCALES) - 1)], **sizes)

    data = {"A": jnp.asarray(A), "B": jnp.asarray(B)}
    start = draw(jax.random.key(0), data, 0)
    problem = LayerRegression(data["A"], data["B"], **logits)
    loss = partial(layer_loss, **logits)
    return Cell(name, problem, data, start, loss, None, lambda data: deviation(data["B"]), draw)


def maps_cell(name: str, A: ArrayLike, B: ArrayLike, *, rank: int, **logits: Any) -> Cell:
    """Maps B (k, n, n) of one head that reads A (k, n, d); `logits`: `causal` and `rotary`, as in `plain_maps`."""

    def draw(key: jax.Array, data: Any, run: int) -> Factors:
        return map_start(key, data, rank=rank, scale=SCALES[min(run, len(SCALES) - 1)])

    data = {"A": jnp.asarray(A), "B": jnp.asarray(B)}
    start = draw(jax.random.key(0), data, 0)
    problem = AttentionRegression(data["A"], data["A"], data["B"], **logits)
    return Cell(
        name, problem, data, start, partial(map_loss, **logits), None, lambda data: jnp.sum(data["B"] ** 2), draw
    )


def layer_start(
    key: jax.Array, data: Any, *, heads: int, rank: int, whole: bool, scale: float, key_heads: int | None = None
) -> LayerWeights:
    """Normal weights, for inputs of unit size; `scale` multiplies Q and K."""
    A, c, groups = data["A"], data["B"].shape[2], key_heads or heads
    d, size = A.shape[2], jnp.std(A)
    keys = jax.random.split(key, 4)
    Q, K = (scale * _normal(k, (h, d, rank), d, A.dtype) / size for k, h in zip(keys, (heads, groups), strict=False))
    if whole:
        return LayerWeights(Q, K, 0.1 * _normal(keys[2], (heads, d, c), d, A.dtype) / size)
    V = _normal(keys[2], (groups, d, rank), d, A.dtype) / size
    return LayerWeights(Q, K, V, 0.1 * _normal(keys[3], (heads, rank, c), rank, A.dtype))


def map_start(key: jax.Array, data: Any, *, rank: int, scale: float) -> Factors:
    """Normal factors for inputs of unit size, times `scale`."""
    A = data["A"]
    d, size = A.shape[2], jnp.std(A)
    return Factors(*(scale * _normal(k, (d, rank), d, A.dtype) / size for k in jax.random.split(key)))


def _normal(key: jax.Array, shape: tuple[int, ...], fan: int, dtype: Any) -> jax.Array:
    return jax.random.normal(key, shape, dtype) / jnp.sqrt(jnp.asarray(fan, dtype))


def layer_loss(x: LayerWeights, data: Any, **logits: Any) -> jax.Array:
    """`‖Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h − B‖²`, as one writes it."""
    A, B = data["A"], data["B"]
    heads = len(x.Q)
    q, k, v = (jnp.einsum("knd,hdr->khnr", A, jnp.repeat(W, heads // len(W), axis=0)) for W in x[:3])
    z = plain_maps(q, k, **logits) @ v
    out = jnp.sum(z, axis=1) if x.O is None else jnp.einsum("khns,hsc->knc", z, x.O)
    return jnp.sum((out - B) ** 2)


def map_loss(x: Factors, data: Any, **logits: Any) -> jax.Array:
    """`‖softmax(A Q Kᵀ Aᵀ) − B‖²`, as one writes it."""
    A, B = data["A"], data["B"]
    return jnp.sum((plain_maps(A @ x.Q, A @ x.K, **logits) - B) ** 2)


def plain_maps(q: jax.Array, k: jax.Array, *, causal: bool = False, rotary: Rotary | None = None) -> jax.Array:
    """Maps (…, n, n) of projected queries and keys (…, n, r), turned at positions 0, 1, … where there is a `rotary`."""
    if rotary is not None:
        q, k = (rotate(x, tuple(rotary.turns().tolist()), rotary.layout) for x in (q, k))
    scores = q @ jnp.swapaxes(k, -1, -2)
    if causal:
        scores = jnp.where(np.tri(scores.shape[-1], dtype=bool), scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)
