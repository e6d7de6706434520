"""The one-layer problem: the output of an attention layer, as a function of its two weight matrices."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems import arrays as checked
from attnreg.problems.checks import ProblemError, pytree_dataclass
from attnreg.problems.reprs import compact_repr


@compact_repr
class Unknowns(NamedTuple):
    """The unknowns of a one-layer problem. `ravel_pytree` puts vec(X) before vec(Y), both row-major.

    Args:
        X: (d1, d2), inside the softmax, in the dtype of the data.
        Y: (d3, c), behind it.
    """

    X: jax.Array
    Y: jax.Array


class Shapes(NamedTuple):
    """Shapes of X and Y: (d1, d2) and (d3, c)."""

    X: tuple[int, int]
    Y: tuple[int, int]


@pytree_dataclass("causal")
class OneLayerRegression:
    """The data of: find X, Y with `softmax(A1 X A2ᵀ) A3 Y ≈ B`, a whole attention layer without residual.

    The loss is `‖D(X)⁻¹ exp(A1 X A2ᵀ) A3 Y − B‖_F²` plus `½‖weight∘(A1 X A2ᵀ)‖² + ½‖diag(value_weight) A3 Y‖² +
    ½ ridge ‖X‖² + ½ ridge_y ‖Y‖²`. A self-attention layer has A1 = A2 = A3; pass the same array three times, nothing is
    copied. The regularizer of arXiv 2309.07418 is `weight` of shape (n, 1), one a query, and `value_weight`.

    Args:
        A1: (…, n, d1) queries, float32 or float64. Leading axes are documents, which share X and Y.
        A2: (…, m, d2) keys. All arrays have the dtype and the leading axes of A1.
        A3: (…, m, d3) values.
        B: (…, n, c) outputs, any width c.
        mask: boolean, broadcastable to (…, n, m), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i (needs n = m).
        weight: W of the papers' regularizer, a scalar or broadcastable to (…, n, m).
        ridge: coefficient of `½‖X‖²`, a scalar of at least 0.
        ridge_y: coefficient of `½‖Y‖²`, a scalar of at least 0.
        value_weight: one weight a key for the values, a scalar or broadcastable to (…, m); masked keys count too.

    Precision: that of the arrays. A float64 NumPy array is refused while x64 is off, as JAX would round it silently.
    Cost: the arrays are not copied, except those that come from NumPy.

    Raises:
        ProblemError: shape, dtype, finiteness, an option of a wrong type; names the argument, what it has and what it
            must have.

    Source: arXiv 2309.07418; docs/theory/one_layer.md.

    Example:
        >>> import numpy as np
        >>> A = np.eye(3, dtype=np.float32)
        >>> OneLayerRegression(A, A, A, np.ones((3, 2), np.float32)).shapes
        Shapes(X=(3, 3), Y=(3, 2))
    """

    A1: jax.Array
    A2: jax.Array
    A3: jax.Array
    B: jax.Array
    mask: jax.Array | None = None
    causal: bool = False
    weight: jax.Array | None = None
    ridge: jax.Array = 0.0  # type: ignore[assignment]
    ridge_y: jax.Array = 0.0  # type: ignore[assignment]
    value_weight: jax.Array | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            A1: ArrayLike,
            A2: ArrayLike,
            A3: ArrayLike,
            B: ArrayLike,
            mask: ArrayLike | None = None,
            causal: bool = False,
            weight: ArrayLike | None = None,
            ridge: ArrayLike = 0.0,
            ridge_y: ArrayLike = 0.0,
            value_weight: ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        found, lead = checked.checked_arrays(
            A1=(self.A1, "n d1"), A2=(self.A2, "m d2"), A3=(self.A3, "m d3"), B=(self.B, "n c")
        )
        n, m, dtype = found["A1"].shape[1], found["A2"].shape[1], found["A1"].dtype
        checked.check_causal(self.causal, n, m)
        values: dict[str, jax.Array | None] = dict(found, mask=checked.checked_mask(self.mask, lead, n, m))
        values["weight"] = checked.checked_weight(self.weight, lead, n, m, dtype)
        values["value_weight"] = _checked_value_weight(self.value_weight, lead, m, dtype)
        values["ridge"] = checked.checked_ridge("ridge", self.ridge, dtype)
        values["ridge_y"] = checked.checked_ridge("ridge_y", self.ridge_y, dtype)
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


def _checked_value_weight(value: Any, lead: tuple[int, ...], m: int, dtype: Any) -> jax.Array | None:
    """`value_weight` as (k|1, m|1, 1), from a number or an array that broadcasts to (*lead, m)."""
    if value is None:
        return None
    weight = checked.number_or_array("value_weight", value, (*lead, m), dtype)
    checked.check_not_empty("value_weight", weight)
    try:
        return checked.per_document("value_weight", weight[..., None] if weight.ndim else weight, lead, m, 1)
    except ProblemError:
        wanted = f"(documents, m) = {(*lead, m)}"
        raise ProblemError(f"value_weight has shape {weight.shape}; it must broadcast to {wanted}") from None
