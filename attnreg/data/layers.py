"""What an attention layer of known weights writes: the targets of a recovery, and its maps, in float64."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from attnreg.problems.layer import LayerWeights
from attnreg.problems.rotary import Rotary


def layer_maps(weights: LayerWeights, A: ArrayLike, head: int = 0, **logits: Any) -> np.ndarray:
    """The maps `softmax(A Q Kᵀ Aᵀ)` of one head, (…, n, n), for inputs A (…, n, d); options as in `head_map`.

    Example:
        >>> layer_maps(LayerWeights(*np.zeros((3, 1, 2, 1))), np.ones((2, 2))).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    A = np.asarray(A, np.float64)
    Q, K = np.asarray(weights.Q[head], np.float64), np.asarray(_shared(weights.K, weights, head), np.float64)
    return head_map(A @ Q, A @ K, **logits)


def layer_outputs(weights: LayerWeights, A: ArrayLike, **logits: Any) -> np.ndarray:
    """The outputs `Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h`, (k, n, c), for inputs A (k, n, d); options as in `head_map`.

    Cost: one forward pass in float64 on the host; the memory of one map at a time.

    Example:
        >>> layer_outputs(LayerWeights(np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), np.ones((1, 2, 1))), np.eye(2)[None])
        array([[[1.],
                [1.]]])
    """
    A = np.asarray(A, np.float64)
    weights = LayerWeights._make(None if W is None else np.asarray(W, np.float64) for W in weights)
    width = weights.V.shape[2] if weights.O is None else weights.O.shape[2]
    out = np.zeros((*A.shape[:2], width))
    for document, total in zip(A, out, strict=True):
        for h in range(len(weights.Q)):
            V = weights.V[h] if weights.O is None else _shared(weights.V, weights, h)
            z = layer_maps(weights, document, h, **logits) @ (document @ V)
            total += z if weights.O is None else z @ weights.O[h]
    return out


def head_map(
    q: np.ndarray,
    k: np.ndarray,
    *,
    causal: bool = False,
    rotary: Rotary | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> np.ndarray:
    """The map (…, n, m) of projected queries q (…, n, r) and keys k (…, m, r), row by row.

    Args:
        q, k: before they turn, floats.
        causal: keys ≤ query only. rotary: its positions are not looked at; row i stands at position i.
        scale, soft_cap: of the logits, as in `attnreg.problems.AttentionRegression`.
    """
    if rotary is not None:
        q, k = (rotary.turned(x, np.arange(x.shape[-2])) for x in (q, k))
    logits = q @ np.swapaxes(k, -1, -2) * (1.0 if scale is None else scale)
    if soft_cap is not None:
        logits = soft_cap * np.tanh(logits / soft_cap)
    if causal:
        logits = np.where(np.tri(*logits.shape[-2:], dtype=bool), logits, -np.inf)
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def _shared(W: Any, weights: LayerWeights, head: int) -> np.ndarray:
    """The matrix of the key head that a head of queries reads."""
    return W[head // (len(weights.Q) // len(W))]
