"""The one-layer loss and residual in NumPy, straight from the formula."""

import numpy as np


def residual(X, Y, A1, A2, A3, B, mask=None):
    """`softmax(A1 X A2ᵀ) A3 Y − B` for one document."""
    S = A1 @ X @ A2.T
    allowed = np.ones(S.shape, bool) if mask is None else np.broadcast_to(mask, S.shape)
    S = np.where(allowed, S, -np.inf)
    top = np.where(allowed.any(1, keepdims=True), np.max(np.where(allowed, S, -1e300), axis=1, keepdims=True), 0)
    E = np.where(allowed, np.exp(S - top), 0)
    total = E.sum(1, keepdims=True)
    return (E / np.where(total == 0, 1, total)) @ A3 @ Y - B


def loss(X, Y, A1, A2, A3, B, mask=None, weight=0.0, ridge=0.0, ridge_y=0.0, value_weight=0.0):
    """The regularized loss, summed over the leading document axis; `value_weight` broadcasts to (documents, m, 1)."""
    total = 0.5 * np.sum((value_weight * (A3 @ Y)) ** 2)
    total += 0.5 * ridge * np.sum(X**2) + 0.5 * ridge_y * np.sum(Y**2)
    for j in range(A1.shape[0]):
        m = None if mask is None else np.broadcast_to(mask, (A1.shape[0], A1.shape[1], A2.shape[1]))[j]
        S = A1[j] @ X @ A2[j].T
        scaled = (np.broadcast_to(weight, (*A1.shape[:2], A2.shape[1]))[j] * S) ** 2
        penalty = scaled if m is None else np.where(m, scaled, 0)
        total += np.sum(residual(X, Y, A1[j], A2[j], A3[j], B[j], m) ** 2) + 0.5 * np.sum(penalty)
    return total


def best_y(Z, B, ridge_y):
    """argmin ‖ZY − B‖² + ½ ridge_y ‖Y‖² by the augmented least-squares problem."""
    d3 = Z.shape[1]
    top = np.concatenate([Z, np.sqrt(ridge_y / 2) * np.eye(d3)])
    return np.linalg.lstsq(top, np.concatenate([B, np.zeros((d3, B.shape[1]))]), rcond=None)[0]
