"""Closed forms of a head of smaller rank: the best of its rank in some metric of logits."""

import numpy as np
from jax.typing import ArrayLike

from attnreg.objectives.factors import Factors


def root(rows: ArrayLike) -> np.ndarray:
    """R (w, w) upper triangular with `RᵀR = Σ x xᵀ` over all rows x of an array (…, w).

    Example:
        >>> abs(root(np.array([[3.0], [4.0]]))).tolist()
        [[5.0]]
    """
    rows = np.asarray(rows, np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    if rows.shape[0] < rows.shape[1]:
        rows = np.concatenate([rows, np.zeros((rows.shape[1] - rows.shape[0], rows.shape[1]))])
    return np.asarray(np.linalg.qr(rows, mode="r"))


def centred(keys: ArrayLike) -> np.ndarray:
    """Keys (…, m, w) minus their mean over a text: moves each row of logits by a constant, so the maps stay."""
    keys = np.asarray(keys, np.float64)
    return keys - keys.mean(axis=-2, keepdims=True)


def cut(queries: np.ndarray, keys: np.ndarray, rank: int) -> Factors:
    """P and S (w, r) for which `‖R_q (I − P Sᵀ) R_kᵀ‖` is least, from the roots R_q and R_k (w, w) of two metrics.

    Cost: a singular value decomposition of a (w, w) matrix. Directions that a metric does not see get zeros.

    Example:
        >>> P, S = cut(np.diag([2.0, 1.0]), np.eye(2), 1)
        >>> abs(P @ S.T).round(12).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    left, sizes, right = np.linalg.svd(queries @ keys.T)
    half = np.sqrt(sizes[:rank])
    return Factors._make([inverse(queries) @ (left[:, :rank] * half), inverse(keys) @ (right[:rank].T * half)])  # type: ignore[list-item]


def inverse(R: np.ndarray) -> np.ndarray:
    """The inverse of a root (w, w), zero in directions that its metric does not see."""
    return np.linalg.pinv(R, rcond=1e-10)


def closed_forms(Q: ArrayLike, K: ArrayLike, q: ArrayLike, k: ArrayLike, rank: int) -> dict[str, Factors]:
    """P and S (w, r) NumPy float64 in closed form, by what of the logits they keep best.

    * "weights": the matrix Q Kᵀ itself (truncated singular value decomposition).
    * "logits": q kᵀ over all pairs of tokens of all texts (KQ-SVD, arXiv 2512.05916; A³, arXiv 2505.12942).
    * "centred": the same with the mean key of each text off, which no map depends on.

    Args:
        Q, K: (d, w) weights, biases folded in.
        q, k: (…, n, w) what they make of texts.
        rank: r.

    Returns:
        P and S by the name of what they keep.

    Precision: the discarded singular values to 100 eps of the whole (tests/fit/test_compression.py).
    Cost: QR of the weights and of all rows of q and k, and three singular value decompositions of (w, w).
    Source: the best of its rank in each metric by Eckart and Young; the papers named above have the second.

    Example:
        >>> W, x = np.eye(3)[:, :2], np.random.default_rng(0).normal(size=(2, 5, 2))
        >>> {name: form.Q.shape for name, form in closed_forms(W, W, x, x, 1).items()}
        {'weights': (2, 1), 'logits': (2, 1), 'centred': (2, 1)}
    """
    metrics = {"weights": (Q, K), "logits": (q, k), "centred": (q, centred(k))}
    return {name: cut(root(a), root(b), rank) for name, (a, b) in metrics.items()}
