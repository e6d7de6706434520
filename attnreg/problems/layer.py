"""A whole self-attention layer from what it reads and writes: the data, and the weights that explain them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems import arrays as checked
from attnreg.problems.checks import pytree_dataclass, replaced
from attnreg.problems.reprs import compact_repr
from attnreg.problems.rotary import Rotary, Rotation, checked_rotary


@compact_repr
class LayerWeights(NamedTuple):
    """The weights of h heads, any scale of the logits folded into Q and K unless the problem has one.

    Args:
        Q: (h, d, r) floats. K: (g, d, r); g = h, or a divisor of h: then h/g queries in a row share a key head.
        O: (h, s, c), or None: then s = c, and V is each head's whole map from inputs to outputs.
        V: (g, d, s) with O, where the values are shared as the keys are; (h, d, c) without.
    """

    Q: jax.Array
    K: jax.Array
    V: jax.Array
    O: jax.Array | None = None


@pytree_dataclass("causal")
class LayerRegression:
    """Find Q, K, V, O with `Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h ≈ B` on every document.

    The loss is `‖Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h − B‖²`. A query whose mask allows no key counts for nothing,
    whatever its row of B: padded documents need nothing more than a mask. With `rotary` the projected queries and keys
    turn with their positions; the softmax sees `cap·tanh(scale·S / cap)` in the place of the logits S. A bias of
    queries, keys or values is the row of a weight that belongs to a column of ones in A.

    Args:
        A: (…, n, d) what the layer reads, float32 or float64. Leading axes are documents, which share the weights.
        B: (…, n, c) what it writes, any width c.
        mask: boolean, broadcastable to (…, n, n), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i.
        rotary: a `Rotary`, kept as the `Rotation` of these documents; None: nothing turns.
        scale: of the logits, a positive scalar; None is 1.
        soft_cap: the largest size of a logit, a positive scalar; None caps nothing.

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
    rotary: Rotation | None = None
    scale: jax.Array | None = None
    soft_cap: jax.Array | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            A: ArrayLike,
            B: ArrayLike,
            mask: ArrayLike | None = None,
            causal: bool = False,
            rotary: Rotary | Rotation | None = None,
            scale: ArrayLike | None = None,
            soft_cap: ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        found, lead = checked.checked_arrays(A=(self.A, "n d"), B=(self.B, "n c"))
        n = found["A"].shape[1]
        checked.check_causal(self.causal, n, n)
        values: dict[str, Any] = dict(found, mask=checked.checked_mask(self.mask, lead, n, n))
        dtype = found["A"].dtype
        values["rotary"] = checked_rotary(self.rotary, lead, n, n, dtype)
        values |= {name: checked.checked_factor(name, getattr(self, name), dtype) for name in ("scale", "soft_cap")}
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

    def documents(self, cut: Callable[[jax.Array], jax.Array]) -> "LayerRegression":
        """Some of the documents: `cut` of every array that has one entry a document."""
        mask = self.mask if self.mask is None or self.mask.shape[0] == 1 else cut(self.mask)
        rotary = None if self.rotary is None else self.rotary.documents(cut)
        return replaced(self, A=cut(self.A), B=cut(self.B), mask=mask, rotary=rotary)
