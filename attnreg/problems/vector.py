"""Regressions of one vector: the matrix problem with a single row."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems import arrays as checked
from attnreg.problems.attention import AttentionRegression, check_targets
from attnreg.problems.checks import ProblemError
from attnreg.problems.registry import find_loss


def _single_row(A: Any, b: Any, weight: Any, **options: Any) -> AttentionRegression:
    """A vector problem is the matrix problem with one row: A1 = (1), A2 = A, X = xᵀ."""
    found, lead = checked.checked_arrays(A=(A, "n d"), b=(b, "n"))
    A, b = found["A"], found["b"]
    (k, n), dtype = b.shape, b.dtype
    check_targets("b", b, find_loss(options["loss"]))
    if np.ndim(weight) > 0:
        try:
            # As one row of weights a document: what does not broadcast to (…, n) is said in those words.
            weight = checked.checked_weight(np.expand_dims(weight, -2), lead, 1, n, dtype)
        except ProblemError as error:
            if "broadcast" not in str(error):
                raise
            raise ProblemError(f"weight has shape {np.shape(weight)}; it must broadcast to {(*lead, n)}") from None
    return AttentionRegression(jnp.ones((k, 1, 1), dtype), A, b[:, None, :], weight=weight, **options)


def SoftmaxRegression(
    A: ArrayLike, b: ArrayLike, *, loss: str = "normalized", weight: ArrayLike | None = None, ridge: ArrayLike = 0.0
) -> AttentionRegression:
    """The data of a single softmax regression: find x with `softmax(A x) ≈ b`.

    Args:
        A: (…, n, d) float32 or float64; leading axes are documents that share x.
        b: (…, n) targets, of the dtype of A.
        loss: as in `AttentionRegression`.
        weight: w of the papers' regularizer `½‖w∘(Ax)‖²`, a scalar or broadcastable to (…, n).
        ridge: coefficient of `½‖x‖²`, a scalar of at least 0.

    Returns:
        The one-row `AttentionRegression`, whose unknown X is (1, d): `x = X[0]`.

    Precision: that of the arrays, as in `AttentionRegression`.
    Cost: A is not copied, except when it comes from NumPy.

    Raises:
        ProblemError: as `AttentionRegression`.

    Source: arXiv 2304.13276, 2304.10411, 2305.00660.

    Example:
        >>> import jax.numpy as jnp
        >>> SoftmaxRegression(jnp.eye(3), jnp.ones(3) / 3).shape
        (1, 3)
    """
    return _single_row(A, b, weight, loss=loss, ridge=ridge)


def LinearRegression(A: ArrayLike, b: ArrayLike, *, ridge: ArrayLike = 0.0) -> AttentionRegression:
    """The data of a linear regression: find x with `A x ≈ b`, the loss being `‖A x − b‖² + ½ ridge ‖x‖²`.

    Args:
        A: (…, n, d) float32 or float64; leading axes are documents that share x.
        b: (…, n) targets, of the dtype of A.
        ridge: coefficient of `½‖x‖²`, a scalar of at least 0.

    Returns:
        The one-row `AttentionRegression` with loss "linear", whose unknown X is (1, d): `x = X[0]`.

    Precision: that of the arrays, as in `AttentionRegression`.
    Cost: A is not copied, except when it comes from NumPy.

    Raises:
        ProblemError: as `AttentionRegression`.

    Source: docs/theory/README.md.

    Example:
        >>> import jax.numpy as jnp
        >>> LinearRegression(jnp.eye(3), jnp.ones(3)).loss
        'linear'
    """
    return _single_row(A, b, None, loss="linear", ridge=ridge)
