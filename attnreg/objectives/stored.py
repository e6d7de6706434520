"""A single softmax regression whose A is sparse: value, gradient and `AᵀD̃A` from its stored entries."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import sparse

from attnreg.lift.stored import StoredRows
from attnreg.objectives.base import Objective, compiled
from attnreg.objectives.row_terms import regularized
from attnreg.problems.checks import ProblemError, pytree_dataclass
from attnreg.problems.registry import find_loss
from attnreg.rows.curvature import RowTerms


@pytree_dataclass("loss")
class StoredObjective(Objective):
    """The objective of `SoftmaxRegression(A, b)` in x (d,) for an A that is never dense.

    Args:
        A: a `jax.experimental.sparse.BCOO` (n, d), read once on the host, or the `StoredRows` of one.
        b: (n,) targets, of the dtype of A.
        loss: as in `AttentionRegression`.
        weight: w of the regularizer `½‖w∘(Ax)‖²`, a scalar or (n,); None for none.
        ridge: coefficient of `½‖x‖²`, a scalar.

    Precision: as with a dense A (tests/objectives/test_stored.py).
    Cost: value and gradient 4 flops for each stored entry and what n rows of logits cost; `diagonal_hessian` two flops
    for each pair of entries of a row (tests/objectives/test_stored.py counts them).
    Raises: ProblemError for an A, b or weight of another type or shape.
    Source: arXiv 2304.10411, whose steps cost nnz(A) + d^ω.
    """

    A: Any
    b: Any
    loss: str = "normalized"
    weight: Any = None
    ridge: Any = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.A, sparse.BCOO):
            object.__setattr__(self, "A", StoredRows.of(self.A))
        if not isinstance(self.A, StoredRows):
            raise ProblemError(f"A is a {type(self.A).__name__}; it must be a BCOO matrix or the StoredRows of one")
        n, dtype = self.A.shape[0], self.A.dtype
        object.__setattr__(self, "b", jnp.asarray(self.b))
        if self.b.shape != (n,) or self.b.dtype != dtype:
            raise ProblemError(f"b is {self.b.dtype} of shape {self.b.shape}; it must be {dtype} of shape ({n},)")
        if self.weight is not None:
            weight = jnp.asarray(self.weight, dtype)
            if weight.shape not in ((), (n,)):
                raise ProblemError(f"weight has shape {weight.shape}; it must be a scalar or have shape ({n},)")
            object.__setattr__(self, "weight", weight)
        find_loss(self.loss)

    def zeros(self) -> jax.Array:
        """x = 0, (d,)."""
        return jnp.zeros(self.A.shape[1], self.A.dtype)

    def _terms(self, x: jax.Array) -> RowTerms:
        """The row function at the logits A x, the one row being a batch of one."""
        s = self.A.times(x)[None]
        weight = None if self.weight is None else jnp.broadcast_to(self.weight, s.shape)
        return regularized(find_loss(self.loss).row(s, self.b[None], None), s, weight, None)

    @compiled()
    def value(self, x: jax.Array, /) -> jax.Array:
        """The loss, a scalar."""
        return self._terms(x).value[0] + self.ridge * jnp.dot(x, x) / 2

    @compiled()
    def value_and_grad(self, x: jax.Array, /) -> tuple[jax.Array, jax.Array]:
        """The loss and its gradient (d,)."""
        terms = self._terms(x)
        gradient = self.A.transposed_times(terms.gradient[0]) + self.ridge * x
        return terms.value[0] + self.ridge * jnp.dot(x, x) / 2, gradient

    @compiled()
    def diagonal_hessian(self, x: jax.Array, /) -> jax.Array:
        """`Aᵀ(D̃ + diag w²)A + ridge I` (d, d): the part of rank two, `AᵀfwᵀA` and its like, is left out."""
        return self.A.gram(self._terms(x).hessian.diag[0]) + self.ridge * jnp.eye(x.size, dtype=x.dtype)
