"""A whole self-attention layer from what it reads and writes: the data, and the weights that explain them."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems import arrays as checked
from attnreg.problems.checks import pytree_dataclass


class LayerWeights(NamedTuple):
    """The weights of h heads, any scale of the logits folded into Q and K.

    Args:
        Q, K: (h, d, r) floats. V: (h, d, s).
        O: (h, s, c), or None: then s = c, and V is each head's whole map from inputs to outputs.
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
        A: (…, n, d) what the layer reads, float32 or float64. Leading axes are documents, which share the weights.
        B: (…, n, c) what it writes, any width c.
        mask: boolean, broadcastable to (…, n, n), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i.

    Raises:
        ProblemError: shape, dtype, finiteness; names the argument, what it has and what it must have.

    Source: arXiv 2309.07418 for one head with one matrix in the place of Q Kᵀ; docs/theory/one_layer.md.

    Example:
        >>> import jax.numpy as jnp
        >>> LayerRegression(jnp.ones((2, 5, 3)), jnp.ones((2, 5, 4))).sizes
        (2, 5, 3, 4)
    """

    A: jax.Array
    B: jax.Array
    mask: jax.Array | None = None
    causal: bool = False

    if TYPE_CHECKING:

        def __init__(self, A: ArrayLike, B: ArrayLike, mask: ArrayLike | None = None, causal: bool = False) -> None: ...

    def __post_init__(self):
        found, lead = checked.checked_arrays(A=(self.A, "n d"), B=(self.B, "n c"))
        n = found["A"].shape[1]
        checked.check_causal(self.causal, n, n)
        values: dict[str, jax.Array | None] = dict(found, mask=checked.checked_mask(self.mask, lead, n, n))
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(k documents, n tokens, width d read, width c written)."""
        (k, n, d), c = self.A.shape, self.B.shape[2]
        return (k, n, d, c)

    @property
    def dtype(self) -> np.dtype:
        """The one dtype of all arrays."""
        return self.A.dtype
