"""The data of each problem, as pytrees that check shapes, dtypes and finiteness when they are built.

Leading axes are *documents* that share the one unknown: A1 (…, n, d1) becomes (k, n, d1). Checks run on construction
only, never inside jit, so a problem can be passed through `jit`, `vmap` and `shard_map` like any pytree.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems.checks import (
    ProblemError,
    as_array,
    check_axes,
    check_finite,
    check_same_dtype,
    pytree_dataclass,
    with_documents,
)


@pytree_dataclass()
class Teacher:
    """Low-rank targets `B = softmax(Q Kᵀ)`, rebuilt block by block so that no n×m array is ever stored.

    Q (…, n, r) and K (…, m, r), any scale folded in: the form a real attention head has.
    """

    Q: jax.Array
    K: jax.Array

    if TYPE_CHECKING:

        def __init__(self, Q: ArrayLike, K: ArrayLike) -> None: ...

    def __post_init__(self):
        Q = with_documents("Q", as_array("Q", self.Q, "(…, n, r)"), 2, "(…, n, r)")
        K = with_documents("K", as_array("K", self.K, "(…, m, r)"), 2, "(…, m, r)")
        check_axes("K", K, r=(2, Q.shape[2], "Q"), k=(0, Q.shape[0], "Q"))
        check_same_dtype(Q=Q, K=K)
        check_finite(Q=Q, K=K)
        object.__setattr__(self, "Q", Q)
        object.__setattr__(self, "K", K)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Documents, rows, keys: (k, n, m)."""
        return (self.Q.shape[0], self.Q.shape[1], self.K.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the targets."""
        return self.Q.dtype


@pytree_dataclass("loss", "causal")
class AttentionRegression:
    """Find X with `A1 X A2ᵀ` the logits of the attention map B.

    `loss` is one of "normalized" `‖D⁻¹exp(S) − B‖²`, "rescaled" `‖exp(S) − DB‖²`, "cosh_rescaled", "sinh_rescaled",
    "linear" `‖S − B‖²`, with `S = A1 X A2ᵀ`, plus `½‖weight∘S‖²` and `½ ridge ‖X‖²`.

    Args:
        A1: (…, n, d1) queries. Leading axes are documents.
        A2: (…, m, d2) keys.
        B: (…, n, m) targets, or a `Teacher`.
        loss: name of the row function.
        mask: boolean, broadcastable to (…, n, m), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i (needs n = m); costs no stored mask.
        weight: W of the papers' regularizer, a scalar or broadcastable to (…, n, m).
        ridge: coefficient of `½‖X‖_F²`, at least 0.

    Raises:
        ProblemError: shape, dtype, finiteness; names the argument, what it has and what it must have.
    """

    LOSSES: ClassVar = ("normalized", "rescaled", "cosh_rescaled", "sinh_rescaled", "linear")

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
        if self.loss not in self.LOSSES:
            raise ProblemError(f"loss is {self.loss!r}; it must be one of {', '.join(self.LOSSES)}")
        A1 = with_documents("A1", as_array("A1", self.A1, "(…, n, d1)"), 2, "(…, n, d1)")
        A2 = with_documents("A2", as_array("A2", self.A2, "(…, m, d2)"), 2, "(…, m, d2)")
        B = self.B
        if not isinstance(B, Teacher):
            B = with_documents("B", as_array("B", B, "(…, n, m)"), 2, "(…, n, m)")
        k, n, m = A1.shape[0], A1.shape[1], A2.shape[1]
        check_axes("A2", A2, documents=(0, k, "A1"))
        for axis, (letter, size, whose) in enumerate((("documents", k, "A1"), ("n", n, "A1"), ("m", m, "A2"))):
            if B.shape[axis] != size:
                raise ProblemError(
                    f"B has shape {B.shape} (documents first): its {letter} is {B.shape[axis]}, "
                    f"but {whose} gives {letter} = {size}; B must be (…, n, m) = (…, {n}, {m})"
                )
        if self.causal and n != m:
            raise ProblemError(f"causal=True needs as many keys as queries, but A1 has n = {n} and A2 has m = {m}")
        check_same_dtype(A1=A1, A2=A2, B=B.Q if isinstance(B, Teacher) else B)
        if not isinstance(B, Teacher):
            check_finite(B=B)
        check_finite(A1=A1, A2=A2)
        values = dict(A1=A1, A2=A2, B=B, mask=self._checked_mask(k, n, m), weight=self._checked_weight(A1, k, n, m))
        values["ridge"] = _checked_ridge(self.ridge, A1.dtype)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _checked_mask(self, k: int, n: int, m: int) -> jax.Array | None:
        if self.mask is None:
            return None
        mask = jnp.asarray(self.mask)
        if mask.dtype != jnp.bool_:
            raise ProblemError(f"mask has dtype {mask.dtype}; it must be boolean, True where a key may be attended")
        return _broadcastable("mask", mask, k, n, m)

    def _checked_weight(self, A1: jax.Array, k: int, n: int, m: int) -> jax.Array | None:
        if self.weight is None:
            return None
        weight = jnp.asarray(self.weight, A1.dtype)
        check_finite(weight=weight)
        return _broadcastable("weight", weight, k, n, m)

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


def _broadcastable(name: str, array: jax.Array, k: int, n: int, m: int) -> jax.Array:
    """`array` as (k|1, n|1, m|1)."""
    full = array.reshape((1,) * max(0, 3 - array.ndim) + array.shape)
    full = full.reshape((-1, *full.shape[-2:]))
    if any(have not in (1, want) for have, want in zip(full.shape, (k, n, m), strict=True)):
        raise ProblemError(f"{name} has shape {array.shape}; it must broadcast to (documents, n, m) = ({k}, {n}, {m})")
    return full


def _checked_ridge(ridge: Any, dtype) -> jax.Array:
    value = jnp.asarray(ridge, dtype)
    if value.ndim != 0:
        raise ProblemError(f"ridge has shape {value.shape}; it must be a scalar")
    if not isinstance(value, jax.core.Tracer) and not (bool(jnp.isfinite(value)) and float(value) >= 0):
        raise ProblemError(f"ridge is {float(value)}; it must be finite and at least 0")
    return value


def _single_row(A: Any, b: Any, **options) -> AttentionRegression:
    """A vector problem is the matrix problem with one row: A1 = (1), A2 = A, X = xᵀ."""
    A = with_documents("A", as_array("A", A, "(…, n, d)"), 2, "(…, n, d)")
    b = with_documents("b", as_array("b", b, "(…, n)"), 1, "(…, n)")
    check_axes("b", b, documents=(0, A.shape[0], "A"), n=(1, A.shape[1], "A"))
    return AttentionRegression(jnp.ones((A.shape[0], 1, 1), A.dtype), A, b[:, None, :], **options)


def SoftmaxRegression(A, b, *, loss: str = "normalized", weight=None, ridge=0.0) -> AttentionRegression:
    """Single softmax regression, x with `softmax(A x) ≈ b`: "normalized", "rescaled" or a hyperbolic relative.

    Args:
        A: (…, n, d); leading axes are documents that share x. b: (…, n). weight: w of `½‖w∘(Ax)‖²`, (…, n) or scalar.
        ridge: coefficient of `½‖x‖²`.

    Returns:
        The one-row `AttentionRegression`, whose unknown X is (1, d): `x = X[0]`.

    Example:
        >>> import jax.numpy as jnp
        >>> SoftmaxRegression(jnp.eye(3), jnp.ones(3) / 3).shape
        (1, 3)
    """
    weight = None if weight is None else jnp.expand_dims(jnp.asarray(weight), -2) if jnp.ndim(weight) else weight
    return _single_row(A, b, loss=loss, weight=weight, ridge=ridge)


def LinearRegression(A, b, *, ridge=0.0) -> AttentionRegression:
    """Linear regression `‖A x − b‖²` for A (…, n, d), b (…, n), as a one-row problem with unknown X (1, d)."""
    return _single_row(A, b, loss="linear", ridge=ridge)
