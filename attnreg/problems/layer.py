"""A whole self-attention layer from what it reads and writes: the data, and the weights that explain them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.checks import (
    ProblemError,
    as_array,
    check_axes,
    check_finite,
    check_flag,
    check_same_dtype,
    pytree_dataclass,
    with_documents,
)
from attnreg.problems.one_layer import _fitted


class LayerWeights(NamedTuple):
    """The weights of h heads: Q, K (h, d, r), V (h, d, s) and O (h, s, c), any scale of the logits folded into Q and K.

    O may be None; then s = c, and V is each head's whole map from inputs to outputs.
    """

    Q: jax.Array
    K: jax.Array
    V: jax.Array
    O: jax.Array | None = None


@pytree_dataclass("causal")
class LayerRegression:
    """Find Q, K, V, O with `Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h ≈ B` on every document.

    The loss is `‖Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h − B‖²`. A query whose mask allows no key counts for nothing,
    whatever its row of B: padded documents need nothing more than a mask.

    Args:
        A: (…, n, d) what the layer reads. Leading axes are documents, which share the weights.
        B: (…, n, c) what it writes, any width c.
        mask: boolean, broadcastable to (…, n, n), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i.

    Raises:
        ProblemError: shape, dtype, finiteness; names the argument, what it has and what it must have.

    Example:
        >>> import jax.numpy as jnp
        >>> LayerRegression(jnp.ones((2, 5, 3)), jnp.ones((2, 5, 4))).sizes
        (2, 5, 3, 4)
    """

    A: jax.Array
    B: jax.Array
    mask: jax.Array | None = None
    causal: bool = False

    def __post_init__(self):
        A = with_documents("A", as_array("A", self.A, "(…, n, d)"), 2, "(…, n, d)")
        B = with_documents("B", as_array("B", self.B, "(…, n, c)"), 2, "(…, n, c)")
        k, n = A.shape[:2]
        check_axes("B", B, documents=(0, k, "A"), n=(1, n, "A"))
        check_same_dtype(A=A, B=B)
        check_finite(A=A, B=B)
        check_flag("causal", self.causal)
        mask = _fitted("mask", self.mask, (k, n, n), jnp.bool_)
        for name, value in dict(A=A, B=B, mask=mask).items():
            object.__setattr__(self, name, value)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(k documents, n tokens, width d read, width c written)."""
        return (*self.A.shape, self.B.shape[2])

    @property
    def dtype(self) -> np.dtype:
        """The one dtype of all arrays."""
        return self.A.dtype

    def check_weights(self, weights: LayerWeights) -> None:
        """Refuse weights that do not fit the data or each other."""
        d, c = self.A.shape[2], self.B.shape[2]
        (h, _, r), s = weights.Q.shape, weights.V.shape[2]
        wanted: dict[str, tuple[int, ...]] = dict(Q=(h, d, r), K=(h, d, r), V=(h, d, c if weights.O is None else s))
        if weights.O is not None:
            wanted["O"] = (h, s, c)
        for name, shape in wanted.items():
            array = getattr(weights, name)
            if array.shape != shape:
                raise ProblemError(f"{name} has shape {array.shape}; it must be {shape}")
            if array.dtype != self.dtype:
                raise ProblemError(f"{name} has dtype {array.dtype}, the data have {self.dtype}; cast one of them")
