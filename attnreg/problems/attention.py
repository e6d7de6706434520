"""The data of each problem, as pytrees that check shapes, dtypes and finiteness when they are built.

Leading axes are *documents* that share the one unknown: A1 (…, n, d1) becomes (k, n, d1). Checks run on construction
only, never inside jit, so a problem can be passed through `jit`, `vmap` and `shard_map` like any pytree.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems import arrays as checked
from attnreg.problems.checks import ProblemError, pytree_dataclass, replaced
from attnreg.problems.registry import Loss, find_loss


@pytree_dataclass()
class Teacher:
    """Low-rank targets `B = softmax(Q Kᵀ)`, rebuilt block by block so that no (n, m) array is ever stored.

    This is the form a real attention head has.

    Args:
        Q: (…, n, r) float32 or float64, any scale folded in. Leading axes are documents.
        K: (…, m, r), of the dtype of Q.

    Precision: the softmax of a block is that of `attnreg.rows.softmax`.
    Cost: an exp per entry of B and 2·n·m·r flops, each time B is read; memory (n + m)·r numbers.

    Raises:
        ProblemError: shape, dtype, finiteness; names the argument, what it has and what it must have.

    Example:
        >>> import numpy as np
        >>> Teacher(np.zeros((4, 2), np.float32), np.zeros((5, 2), np.float32)).shape
        (1, 4, 5)
    """

    Q: jax.Array
    K: jax.Array

    if TYPE_CHECKING:

        def __init__(self, Q: ArrayLike, K: ArrayLike) -> None: ...

    def __post_init__(self):
        found, lead = checked.checked_arrays(Q=(self.Q, "n r"), K=(self.K, "m r"))
        for name, array in found.items():
            # Kept with its documents as given: only the problem knows whether they match those of A1.
            object.__setattr__(self, name, array.reshape((*lead, *array.shape[1:])) if len(lead) > 1 else array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Documents, rows, keys: (…, n, m), at least one document axis."""
        return (*self.Q.shape[:-1], self.K.shape[-2])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the targets."""
        return self.Q.dtype


@pytree_dataclass("loss", "causal")
class AttentionRegression:
    """The data of: find X with `A1 X A2ᵀ` the logits of the attention map B.

    The objective is the loss of the logits `S = A1 X A2ᵀ`, plus `½‖weight∘S‖²` and `½ ridge ‖X‖²`. With `f` the softmax
    of each row, `D` the row sums of `exp(S)` and `β` those of B, the shipped losses are

        normalized      ‖f − B‖²
        rescaled        ‖exp(S) − D B‖²; cosh_rescaled and sinh_rescaled have cosh and sinh in place of exp
        linear          ‖S − B‖²
        kl              Σ β KL(B/β ‖ f) over rows, B at least 0

    Args:
        A1: (…, n, d1) queries, float32 or float64. Leading axes are documents.
        A2: (…, m, d2) keys. All arrays have the dtype and the leading axes of A1.
        B: (…, n, m) targets, or a `Teacher`.
        loss: one of `attnreg.problems.loss_names()`, to which `register_loss` adds.
        mask: boolean, broadcastable to (…, n, m), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i (needs n = m); costs no stored mask.
        weight: W of the papers' regularizer, a scalar or broadcastable to (…, n, m).
        ridge: coefficient of `½‖X‖_F²`, a scalar of at least 0.

    Precision: that of the arrays. A float64 NumPy array is refused while x64 is off, as JAX would round it silently.
    Cost: the arrays are not copied, except those that come from NumPy.

    Raises:
        ProblemError: shape, dtype, finiteness, an option of a wrong type; names the argument, what it has and what it
            must have.

    Source: arXiv 2304.13276, 2304.10411, 2305.00660, 2307.02419; docs/theory/README.md.

    Example:
        >>> import numpy as np
        >>> A = np.eye(3, dtype=np.float32)
        >>> AttentionRegression(A, A, np.full((3, 3), 1 / 3, np.float32), loss="kl", causal=True).shape
        (3, 3)
    """

    A1: jax.Array
    A2: jax.Array
    B: jax.Array | Teacher
    loss: str = "normalized"
    mask: jax.Array | None = None
    causal: bool = False
    weight: jax.Array | None = None
    ridge: jax.Array = 0.0  # type: ignore[assignment]

    if TYPE_CHECKING:

        def __init__(
            self,
            A1: ArrayLike,
            A2: ArrayLike,
            B: ArrayLike | Teacher,
            loss: str = "normalized",
            mask: ArrayLike | None = None,
            causal: bool = False,
            weight: ArrayLike | None = None,
            ridge: ArrayLike = 0.0,
        ) -> None: ...

    def __post_init__(self):
        loss, B = find_loss(self.loss), self.B
        wanted: dict[str, tuple[Any, str]] = dict(A1=(self.A1, "n d1"), A2=(self.A2, "m d2"))
        wanted |= {"B.Q": (B.Q, "n r"), "B.K": (B.K, "m r")} if isinstance(B, Teacher) else {"B": (B, "n m")}
        found, lead = checked.checked_arrays(**wanted)
        A1, A2 = found["A1"], found["A2"]
        n, m = A1.shape[1], A2.shape[1]
        if isinstance(B, Teacher):
            B = replaced(B, Q=found["B.Q"], K=found["B.K"])
        else:
            B = found["B"]
            check_targets("B", B, loss)
        checked.check_causal(self.causal, n, m)
        values = dict(A1=A1, A2=A2, B=B, mask=checked.checked_mask(self.mask, lead, n, m))
        values["weight"] = checked.checked_weight(self.weight, lead, n, m, A1.dtype)
        values["ridge"] = checked.checked_ridge("ridge", self.ridge, A1.dtype)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the unknown X: (d1, d2)."""
        return (self.A1.shape[2], self.A2.shape[2])

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """(k documents, n queries, m keys, d1, d2)."""
        k, n, d1 = self.A1.shape
        return (k, n, self.A2.shape[1], d1, self.A2.shape[2])

    @property
    def dtype(self) -> np.dtype:
        """The one dtype of all arrays."""
        return self.A1.dtype


def check_targets(name: str, B: jax.Array, loss: Loss) -> None:
    """Refuse targets that the loss is not defined for."""
    if loss.targets == "nonnegative":
        checked.check_nonnegative(name, B, f"loss {loss.name!r} needs targets of at least 0, e.g. rows that sum to 1")


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
