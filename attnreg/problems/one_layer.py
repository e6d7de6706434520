"""The one-layer problem: the output of an attention layer, as a function of its two weight matrices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import (
    ProblemError,
    as_array,
    check_axes,
    check_finite,
    check_same_dtype,
    pytree_dataclass,
    with_documents,
)


class Unknowns(NamedTuple):
    """X (d1, d2) inside the softmax, Y (d3, c) behind it. `ravel_pytree` puts vec(X) before vec(Y), both row-major."""

    X: jax.Array
    Y: jax.Array


class Shapes(NamedTuple):
    """Shapes of X and Y."""

    X: tuple[int, int]
    Y: tuple[int, int]


@pytree_dataclass("causal")
class OneLayerRegression:
    """Find X, Y with `softmax(A1 X A2ᵀ) A3 Y ≈ B`: a whole attention layer without residual.

    The loss is `‖D(X)⁻¹ exp(A1 X A2ᵀ) A3 Y − B‖_F²` plus `½‖weight∘(A1 X A2ᵀ)‖² + ½ ridge ‖X‖² + ½ ridge_y ‖Y‖²`. A
    self-attention layer has A1 = A2 = A3; pass the same array three times, nothing is copied.

    Args:
        A1: (…, n, d1) queries. Leading axes are documents, which share X and Y.
        A2: (…, m, d2) keys. A3: (…, m, d3) values.
        B: (…, n, c) outputs, any width c.
        mask: boolean, broadcastable to (…, n, m), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i (needs n = m).
        weight: W of the papers' regularizer, a scalar or broadcastable to (…, n, m).
        ridge, ridge_y: coefficients of `½‖X‖²` and `½‖Y‖²`, at least 0.

    Raises:
        ProblemError: shape, dtype, finiteness; names the argument, what it has and what it must have.
    """

    A1: jax.Array
    A2: jax.Array
    A3: jax.Array
    B: jax.Array
    mask: jax.Array | None = None
    causal: bool = False
    weight: jax.Array | float | None = None
    ridge: jax.Array | float = 0.0
    ridge_y: jax.Array | float = 0.0

    def __post_init__(self):
        A3 = with_documents("A3", as_array("A3", self.A3, "(…, m, d3)"), 2, "(…, m, d3)")
        B = with_documents("B", as_array("B", self.B, "(…, n, c)"), 2, "(…, n, c)")
        A1 = with_documents("A1", as_array("A1", self.A1, "(…, n, d1)"), 2, "(…, n, d1)")
        A2 = with_documents("A2", as_array("A2", self.A2, "(…, m, d2)"), 2, "(…, m, d2)")
        (k, n), m = A1.shape[:2], A2.shape[1]
        check_axes("A2", A2, documents=(0, k, "A1"))
        check_axes("A3", A3, documents=(0, k, "A1"), m=(1, m, "A2"))
        check_axes("B", B, documents=(0, k, "A1"), n=(1, n, "A1"))
        check_same_dtype(A1=A1, A2=A2, A3=A3, B=B)
        check_finite(A1=A1, A2=A2, A3=A3, B=B)
        # Mask, causal order, weight and ridge are those of the matrix problem: let it check them.
        logits = AttentionRegression(A1[:1, :1], A2[:1, :1], jnp.ones((1, 1, 1), A1.dtype), ridge=self.ridge)
        ridge_y = AttentionRegression(A1[:1, :1], A2[:1, :1], logits.B, ridge=self.ridge_y).ridge
        values: dict[str, jax.Array | None] = dict(A1=A1, A2=A2, A3=A3, B=B, ridge=logits.ridge, ridge_y=ridge_y)
        if self.causal and n != m:
            raise ProblemError(f"causal=True needs as many keys as queries, but A1 has n = {n} and A2 has m = {m}")
        values["mask"] = _fitted("mask", self.mask, (k, n, m), jnp.bool_)
        values["weight"] = _fitted("weight", self.weight, (k, n, m), A1.dtype)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def shapes(self) -> "Shapes":
        """Shapes of the unknowns: X (d1, d2), Y (d3, c)."""
        return Shapes((self.A1.shape[2], self.A2.shape[2]), (self.A3.shape[2], self.B.shape[2]))

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """(k documents, n queries, m keys, d1, d2), as the row streaming wants them."""
        (k, n, d1), (_, m, d2) = self.A1.shape, self.A2.shape
        return (k, n, m, d1, d2)

    @property
    def dtype(self) -> np.dtype:
        """The one dtype of all arrays."""
        return self.A1.dtype


def _fitted(name: str, value, full: tuple[int, int, int], dtype) -> jax.Array | None:
    """`value` as (k|1, n|1, m|1), or a `ProblemError`."""
    if value is None:
        return None
    array = jnp.asarray(value)
    if dtype == jnp.bool_ and array.dtype != jnp.bool_:
        raise ProblemError(f"{name} has dtype {array.dtype}; it must be boolean, True where a key may be attended")
    if dtype != jnp.bool_:
        array = array.astype(dtype)
        check_finite(**{name: array})
    padded = array.reshape((1,) * max(0, 3 - array.ndim) + array.shape)
    padded = padded.reshape((-1, *padded.shape[-2:]))
    if any(have not in (1, want) for have, want in zip(padded.shape, full, strict=True)):
        raise ProblemError(f"{name} has shape {array.shape}; it must broadcast to (documents, n, m) = {full}")
    return padded
