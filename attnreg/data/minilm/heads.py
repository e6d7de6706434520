"""One attention head as the regression problem of the literature: no biases, and the X and Y that are true.

A head computes ``softmax((H W_Q + 1 b_Qᵀ)(H W_K + 1 b_Kᵀ)ᵀ / √32)``. Its input H comes out of a layer norm,
whose standardised rows sum to zero: ``Σ_i (H_i − β_i)/γ_i = 0``. Hence ``H u = 1`` for ``u_i = 1/(γ_i c)``
with ``c = Σ β_i/γ_i``, and every bias folds into its matrix: ``H W + 1 bᵀ = H (W + u bᵀ)``. So the head is
exactly ``softmax(H X Hᵀ)``.
"""

from typing import NamedTuple

from jax import Array

from attnreg.data.minilm.encoder import CONFIG, HEAD_WIDTH, HEADS, LAYERS, Dense, Encoder
from attnreg.data.models import factors
from attnreg.data.models.factors import ones_direction
from attnreg.data.models.parameters import Model
from attnreg.problems.layer import LayerWeights

__all__ = ["Head", "head_of", "layer_weights", "ones_direction", "true_factors", "true_y"]


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
    before = factors.norm_in_front(Model(CONFIG, encoder), layer)
    return Head(
        w_q=weights.query.w[:, part],
        b_q=_bias(weights.query)[part],
        w_k=weights.key.w[:, part],
        b_k=_bias(weights.key)[part],
        w_v=weights.value.w[:, part],
        b_v=_bias(weights.value)[part],
        w_o=weights.output.w[part, :],
        u=ones_direction(before),
    )


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
    return factors.layer_weights(Model(CONFIG, encoder), layer)


def _bias(dense: Dense) -> Array:
    assert dense.b is not None  # every map of this model has one
    return dense.b


def _fold(w: Array, b: Array, u: Array) -> Array:
    """``W + u bᵀ``: the bias as part of the matrix."""
    return w + u[:, None] * b[None, :]
