"""The factors of X, and Hessian-vector products in them at one point."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import Block, Parts, rows_of
from attnreg.objectives.base import Cache, Linearization, compiled
from attnreg.objectives.row_terms import curvature_of
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.reprs import compact_repr


@compact_repr
class Factors(NamedTuple):
    """The unknown X = Q Kᵀ of rank r.

    Args:
        Q: (d1, r) floats, of the queries. K: (d2, r) floats, of the keys.
    """

    Q: jax.Array
    K: jax.Array

    @classmethod
    def nearest(cls, X: jax.Array, rank: int) -> "Factors":
        """Factors of the best part of X (d1, d2) of rank at most `rank`, split evenly between Q and K.

        Cost: a singular value decomposition, O(d1 d2 min(d1, d2)).
        """
        return cls(*_nearest(X, rank))

    def product(self) -> jax.Array:
        """X, (d1, d2)."""
        return tt.matmul(self.Q, self.K.T)


@jax.jit(static_argnums=1)
def _nearest(X: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    left, sizes, right = jnp.linalg.svd(X, full_matrices=False)
    root = jnp.sqrt(sizes[:rank])[None, :]
    return left[:, :rank] * root, right[:rank].T * root


@pytree_dataclass("cache", "gauss_newton")
class FactoredLinearization(Linearization):
    """A `FactoredObjective` at one point."""

    value: jax.Array
    gradient: Factors
    x: Factors
    projected: AttentionRegression
    kept: Any
    objective: Any
    cache: Cache = "none"
    gauss_newton: bool = False

    @compiled()
    def hvp(self, v: Factors) -> Factors:
        """`Jᵀ H J v` plus, when exact, the coupling of Q and K through the gradient in X."""
        problem, objective = self.objective.problem, self.objective
        moved = objective._turned(Factors(tt.matmul(problem.A1, v.Q), tt.matmul(problem.A2, v.K)))

        def emit(block):
            curvature, gamma = self._entries(block)
            query_moved, keys_moved = rows_of(block, moved.Q), moved.K[block.document]
            t = curvature.apply(tt.matmul(query_moved, block.keys.T) + tt.matmul(block.query, keys_moved.T))
            rows, keys = tt.matmul(t, block.keys), tt.matmul(t.T, block.lift)
            if not self.gauss_newton:
                rows = rows + tt.matmul(gamma, keys_moved)
                fresh = jnp.where(block.fresh[:, None], query_moved, jnp.zeros((), v.Q.dtype))
                keys = keys + tt.matmul(gamma.T, fresh)
            return Parts(rows=rows, documents=keys)

        parts = objective._stream(self.projected, emit)
        moved_back = objective._back(Factors(parts.rows, parts.documents))
        return self._with_ridge(objective._reduced(moved_back), v)

    def _entries(self, block: Block):
        if self.cache == "entries":
            return jax.tree.map(lambda a: rows_of(block, a), self.kept)
        terms = self.objective._each_row(self.projected, block)
        return curvature_of(terms, self.gauss_newton), terms.gradient

    def _with_ridge(self, out: Factors, v: Factors) -> Factors:
        """Adds the Hessian of `½ ridge ‖QKᵀ‖²`, or its Gauss–Newton part."""
        (Q, K), ridge = self.x, self.objective.problem.ridge
        mm = tt.matmul
        hq = mm(v.Q, mm(K.T, K)) + mm(Q, mm(v.K.T, K))
        hk = mm(v.K, mm(Q.T, Q)) + mm(K, mm(v.Q.T, Q))
        if not self.gauss_newton:
            hq = hq + mm(Q, mm(K.T, v.K))
            hk = hk + mm(K, mm(Q.T, v.Q))
        return Factors(out.Q + ridge * hq, out.K + ridge * hk)
