"""What an attention layer of known weights writes: the targets of a recovery, and its maps, in float64."""

import numpy as np
from jax.typing import ArrayLike

from attnreg.data.minilm.instance import attention_map
from attnreg.problems.layer import LayerWeights


def layer_maps(weights: LayerWeights, A: ArrayLike, head: int = 0) -> np.ndarray:
    """The maps `softmax(A Q Kᵀ Aᵀ)` of one head, (…, n, n), for inputs A (…, n, d).

    Example:
        >>> layer_maps(LayerWeights(*np.zeros((3, 1, 2, 1))), np.ones((2, 2))).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    A = np.asarray(A, np.float64)
    Q, K = (np.asarray(W[head], np.float64) for W in (weights.Q, weights.K))
    return attention_map(A @ Q, A @ K)


def layer_outputs(weights: LayerWeights, A: ArrayLike) -> np.ndarray:
    """The outputs `Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h`, (k, n, c), for inputs A (k, n, d).

    Cost: one forward pass in float64 on the host; the memory of one map at a time.

    Example:
        >>> layer_outputs(LayerWeights(np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), np.ones((1, 2, 1))), np.eye(2)[None])
        array([[[1.],
                [1.]]])
    """
    A = np.asarray(A, np.float64)
    Q, K, V = (np.asarray(W, np.float64) for W in weights[:3])
    O = None if weights.O is None else np.asarray(weights.O, np.float64)
    out = np.zeros((*A.shape[:2], V.shape[2] if O is None else O.shape[2]))
    for document, total in zip(A, out, strict=True):
        for h in range(len(Q)):
            z = attention_map(document @ Q[h], document @ K[h]) @ (document @ V[h])
            total += z if O is None else z @ O[h]
    return out
