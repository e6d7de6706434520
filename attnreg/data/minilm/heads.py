"""One attention head as the regression problem of the literature: no biases, and the X and Y that are true.

A head computes ``softmax((H W_Q + 1 b_Qᵀ)(H W_K + 1 b_Kᵀ)ᵀ / √32)``. Its input H comes out of a layer norm,
whose standardised rows sum to zero: ``Σ_i (H_i − β_i)/γ_i = 0``. Hence ``H u = 1`` for ``u_i = 1/(γ_i c)``
with ``c = Σ β_i/γ_i``, and every bias folds into its matrix: ``H W + 1 bᵀ = H (W + u bᵀ)``. So the head is
exactly ``softmax(H X Hᵀ)``.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from attnreg.data.minilm.encoder import HEAD_WIDTH, HEADS, LAYERS, Encoder, Norm
from attnreg.problems.layer import LayerWeights


class Head(NamedTuple):
    """One head: w_q, w_k, w_v (384, 32); b_q, b_k, b_v (32,); w_o (32, 384); u (384,) with H u = 1."""

    w_q: Array
    b_q: Array
    w_k: Array
    b_k: Array
    w_v: Array
    b_v: Array
    w_o: Array
    u: Array


def head_of(encoder: Encoder, layer: int, head: int) -> Head:
    """The weights of head ``head`` (0..11) of layer ``layer`` (0..5).

    Raises:
        ValueError: there is no such layer or head.
    """
    if not 0 <= layer < LAYERS or not 0 <= head < HEADS:
        raise ValueError(f"layer {layer}, head {head}: the model has layers 0..{LAYERS - 1} and heads 0..{HEADS - 1}.")
    part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
    weights = encoder.layers[layer]
    before = encoder.layers[layer - 1].output_norm if layer else encoder.norm
    return Head(
        w_q=weights.query.w[:, part],
        b_q=weights.query.b[part],
        w_k=weights.key.w[:, part],
        b_k=weights.key.b[part],
        w_v=weights.value.w[:, part],
        b_v=weights.value.b[part],
        w_o=weights.output.w[part, :],
        u=ones_direction(before),
    )


def ones_direction(norm: Norm) -> Array:
    """The vector u (384,) with ``H u = 1`` for every output H of this layer norm.

    Formula: ``u_i = 1/(γ_i c)`` with ``c = Σ β_i/γ_i``.

    Precision: |H u − 1| is eps · |u|·|H| large: 1e-14 in float64, 1e-6 in float32
        (tests/data/test_heads.py).

    Source: derived in docs/guides/real_heads.md.

    Example:
        >>> norm = Norm(gamma=jnp.array([1.0, 2.0, 4.0]), beta=jnp.array([1.0, 0.0, 4.0]))
        >>> standardised = jnp.array([1.0, -2.0, 1.0])
        >>> float((norm.gamma * standardised + norm.beta) @ ones_direction(norm))
        1.0
    """
    return 1.0 / (norm.gamma * jnp.sum(norm.beta / norm.gamma))


def true_factors(head: Head) -> tuple[Array, Array]:
    """Factors (Q, K), each (384, 32), of the true unknown: ``X = Q Kᵀ``.

    Formula: ``Q = (W_Q + u b_Qᵀ)/√32``, ``K = W_K + u b_Kᵀ``.

    Precision: in float64 ``softmax(H Q Kᵀ Hᵀ)`` is the head's map to 1e-14 relative
        (tests/data/test_heads.py).
    """
    return _fold(head.w_q, head.b_q, head.u) / HEAD_WIDTH**0.5, _fold(head.w_k, head.b_k, head.u)


def true_y(head: Head) -> Array:
    """The true Y (384, 32) of the one-layer problem: the head's output is ``softmax(H X Hᵀ) H Y``."""
    return _fold(head.w_v, head.b_v, head.u)


def layer_weights(encoder: Encoder, layer: int) -> LayerWeights:
    """All heads of a layer as NumPy float64: Q, K, V (12, 384, 32) with scale and biases folded in, O (12, 32, 384).

    The bias of the output is left out: the heads add up to what the layer writes before it.
    """
    heads = [head_of(encoder, layer, head) for head in range(HEADS)]
    parts = [(*true_factors(head), true_y(head), head.w_o) for head in heads]
    columns = zip(*parts, strict=True)
    return LayerWeights._make(np.stack([np.asarray(W, np.float64) for W in column]) for column in columns)


def _fold(w: Array, b: Array, u: Array) -> Array:
    """``W + u bᵀ``: the bias as part of the matrix."""
    return w + u[:, None] * b[None, :]
