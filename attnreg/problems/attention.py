"""The data of each problem, as pytrees that check shapes, dtypes and finiteness when they are built.

Leading axes are *documents* that share the one unknown: A1 (…, n, d1) becomes (k, n, d1). Checks run on construction
only, never inside jit, so a problem can be passed through `jit`, `vmap` and `shard_map` like any pytree.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems import arrays as checked
from attnreg.problems.checks import pytree_dataclass, replaced
from attnreg.problems.registry import Loss, find_loss
from attnreg.problems.rotary import Rotary, Rotation, checked_rotary


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

    def __post_init__(self) -> None:
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

    With `rotary` the logits are `⟨R_i Qᵀa_i, R_j Kᵀa_j⟩`, R the turn of a position, which only X = Q Kᵀ in factors has:
    take `FactoredObjective`. With `scale` and `soft_cap` a loss sees `cap·tanh(scale·S / cap)` in the place of S.

    Args:
        A1: (…, n, d1) queries, float32 or float64. Leading axes are documents.
        A2: (…, m, d2) keys. All arrays have the dtype and the leading axes of A1.
        B: (…, n, m) targets, or a `Teacher`.
        loss: one of `attnreg.problems.loss_names()`, to which `register_loss` adds.
        mask: boolean, broadcastable to (…, n, m), True where a query may attend a key; None allows all.
        causal: query i may attend keys ≤ i (needs n = m); costs no stored mask.
        weight: W of the papers' regularizer, a scalar or broadcastable to (…, n, m).
        ridge: coefficient of `½‖X‖_F²`, a scalar of at least 0.
        rotary: a `Rotary`, how projected queries and keys turn with their positions; kept as the `Rotation` of these
            documents. None: they do not.
        scale: of the logits, a positive scalar; None is 1.
        soft_cap: the largest size of a logit, a positive scalar; None caps nothing.

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
    rotary: Rotation | None = None
    scale: jax.Array | None = None
    soft_cap: jax.Array | None = None

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
            rotary: Rotary | Rotation | None = None,
            scale: ArrayLike | None = None,
            soft_cap: ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
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
        values: dict[str, Any] = dict(A1=A1, A2=A2, B=B, mask=checked.checked_mask(self.mask, lead, n, m))
        values["weight"] = checked.checked_weight(self.weight, lead, n, m, A1.dtype)
        values["ridge"] = checked.checked_ridge("ridge", self.ridge, A1.dtype)
        values["rotary"] = checked_rotary(self.rotary, lead, n, m, A1.dtype)
        values |= {name: checked.checked_factor(name, getattr(self, name), A1.dtype) for name in ("scale", "soft_cap")}
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
