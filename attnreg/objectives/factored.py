"""The unknown as low-rank factors, X = Q Kᵀ: what an attention head truly is.

The closed forms follow from those in X by the chain rule, but X is never formed: with `L = A1 Q` and `R = A2 K` the
logits are `L Rᵀ`, and every product has the rank in place of d. The gauge `(QG, KG⁻ᵀ)` leaves X alone; it makes
the Hessian singular along r² directions, which conjugate gradients and the damping leave untouched.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Kronecker
from attnreg.lift.streaming import Block, fold_blocks, map_over_blocks, put_rows, rows_of
from attnreg.objectives.attention import AttentionObjective, kronecker_sums, normalised_kronecker
from attnreg.objectives.base import Cache, Costs, Linearization, Objective, curvature_of, row_terms
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import pytree_dataclass, replaced


class Factors(NamedTuple):
    """X = Q Kᵀ with Q (d1, r) and K (d2, r)."""

    Q: jax.Array
    K: jax.Array

    def product(self) -> jax.Array:
        """X, (d1, d2)."""
        return tt.matmul(self.Q, self.K.T)


@pytree_dataclass()
class FactorPreconditioner:
    """Block-diagonal Kronecker curvature: one block for Q, one for K."""

    Q: Kronecker
    K: Kronecker

    def mean(self) -> Factors:
        """Mean eigenvalue of each block."""
        return Factors(self.Q.mean(), self.K.mean())

    def solve(self, v: Factors, damping: Factors) -> Factors:
        """Blockwise damped inverse."""
        return Factors(self.Q.solve(v.Q, damping.Q), self.K.solve(v.K, damping.K))


@pytree_dataclass("rank", "block_rows", "axis_name")
class FactoredObjective(Objective):
    """The objective of an `AttentionRegression` in the factors of X = Q Kᵀ.

    Args:
        problem: the data; its ridge stays `½ ridge ‖Q Kᵀ‖²`.
        rank: r.
        block_rows, axis_name: as in `AttentionObjective`.

    Precision: agrees with autodiff through `Q Kᵀ` to a small multiple of eps × natural scale
    (tests/objectives/test_factored.py).
    Cost: value and gradient `2·n·m·3r + 4·(n + m)·d·r` flops, against `2·n·m·2d` for the full X; memory
    O((n + m)(d + r)).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> A = jnp.eye(3)
        >>> objective = FactoredObjective(AttentionRegression(A, A, jnp.full((3, 3), 1 / 3)), rank=1)
        >>> objective.value_and_grad(objective.zeros())[1].Q.shape
        (3, 1)
    """

    problem: AttentionRegression
    rank: int
    block_rows: int | None = None
    axis_name: str | None = None

    def zeros(self) -> Factors:
        """Q = 0 and K = 0: a saddle; start from `spectral_start` instead."""
        d1, d2 = self.problem.shape
        dtype = self.problem.dtype
        return Factors(jnp.zeros((d1, self.rank), dtype), jnp.zeros((d2, self.rank), dtype))

    def costs(self) -> Costs:
        """A dense Hessian takes one product per unknown."""
        k, n, m, d1, d2 = self.problem.sizes
        gradient = 2.0 * k * n * m * 3 * self.rank + 4.0 * k * (n * d1 + m * d2) * self.rank
        p = (d1 + d2) * self.rank
        return Costs(gradient, 2 * p * gradient, p)

    def spectral_start(self, damping: float = 1e-2) -> Factors:
        """A start outside the saddle at zero: the best rank-r factors of one preconditioned step from X = 0.

        At X = 0 the Gauss–Newton matrix without masks is exactly `S ⊗ M`, so this step is a Gauss–Newton step; its
        truncated singular value decomposition is split evenly between Q and K. Cost: one gradient, two
        eigendecompositions and one SVD.
        """
        full = AttentionObjective(self.problem, self.block_rows, self.axis_name)
        origin = full.zeros()
        curvature = full.kronecker(origin)
        step = -curvature.solve(full.value_and_grad(origin)[1], damping * curvature.mean())
        left, sizes, right = jnp.linalg.svd(step, full_matrices=False)
        root = jnp.sqrt(sizes[: self.rank])
        direction = Factors(left[:, : self.rank] * root[None, :], right[: self.rank].T * root[None, :])
        scales = jnp.asarray(2.0, self.problem.dtype) ** -jnp.arange(0, 10, dtype=self.problem.dtype)
        values = jax.lax.map(lambda c: self.value(jax.tree.map(lambda a: a * jnp.sqrt(c), direction)), scales)
        best = jnp.sqrt(scales[jnp.nanargmin(values)])
        return jax.tree.map(lambda a: a * best, direction)

    def _projected(self, x: Factors) -> AttentionRegression:
        """The problem seen in the rank-r space: queries A1 Q, keys A2 K, unknown the identity."""
        self._check(x)
        return replaced(self.problem, A1=tt.matmul(self.problem.A1, x.Q), A2=tt.matmul(self.problem.A2, x.K))

    def _check(self, x: Factors) -> None:
        d1, d2 = self.problem.shape
        if x.Q.shape != (d1, self.rank) or x.K.shape != (d2, self.rank):
            raise ValueError(
                f"Q has shape {x.Q.shape} and K {x.K.shape}; they must be ({d1}, {self.rank}) and ({d2}, {self.rank})"
            )

    def _reduced(self, total: Any) -> Any:
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)

    def value(self, x: Factors) -> jax.Array:
        """The loss at X = Q Kᵀ."""
        projected = self._projected(x)

        def update(total, block):
            value = row_terms(projected, block, tt.matmul(block.query, block.keys.T)).value
            return total + jnp.sum(jnp.where(block.fresh, value, jnp.zeros((), value.dtype)))

        zero = jnp.zeros((), self.problem.dtype)
        return self._reduced(fold_blocks(projected, update, zero, block_rows=self.block_rows)) + self._ridge_value(x)

    def _ridge_value(self, x: Factors) -> jax.Array:
        return self.problem.ridge * jnp.sum(tt.matmul(x.Q.T, x.Q) * tt.matmul(x.K.T, x.K)) / 2

    def value_and_grad(self, x: Factors) -> tuple[jax.Array, Factors]:
        """The loss and its gradient in Q and K."""
        projected = self._projected(x)

        def update(carry, block):
            value, parts = carry
            terms = row_terms(projected, block, tt.matmul(block.query, block.keys.T))
            value = value + jnp.sum(jnp.where(block.fresh, terms.value, jnp.zeros((), terms.value.dtype)))
            return value, _lifted(parts, block, terms.gradient, block.lift, block.keys)

        start = (jnp.zeros((), self.problem.dtype), _empty(projected))
        value, parts = fold_blocks(projected, update, start, block_rows=self.block_rows)
        value, gradient = self._reduced((value, self._back(parts)))
        ridge = self.problem.ridge
        gradient = Factors(
            gradient.Q + ridge * tt.matmul(x.Q, tt.matmul(x.K.T, x.K)),
            gradient.K + ridge * tt.matmul(x.K, tt.matmul(x.Q.T, x.Q)),
        )
        return value + self._ridge_value(x), gradient

    def _back(self, parts: Factors) -> Factors:
        """From row space (k, n, r) and key space (k, m, r) to the factors."""
        return Factors(
            tt.einsum("knd,knr->dr", self.problem.A1, parts.Q), tt.einsum("kmd,kmr->dr", self.problem.A2, parts.K)
        )

    def linearize(self, x: Factors, *, gauss_newton: bool = False, cache: Cache = "auto") -> "FactoredLinearization":
        """Value, gradient and HVPs at x; cache "entries" (row curvatures and gradients, 4·n·m numbers) or "none"."""
        k, n, m = self.problem.sizes[:3]
        if cache == "auto":
            fits = 4 * k * n * m * jnp.finfo(self.problem.dtype).bits // 8 <= 2**29
            cache = "entries" if fits else "none"
        if cache not in ("entries", "none"):
            raise ValueError(f"cache is {cache!r}; for factors it must be 'auto', 'none' or 'entries'")
        value, gradient = self.value_and_grad(x)
        projected = self._projected(x)
        kept = None
        if cache == "entries":

            def entries(block):
                terms = row_terms(projected, block, tt.matmul(block.query, block.keys.T))
                return curvature_of(terms, gauss_newton), terms.gradient

            kept = map_over_blocks(projected, entries, block_rows=self.block_rows)
        return FactoredLinearization(value, gradient, x, projected, kept, self, cache, gauss_newton)

    def value_grad_hessian(self, x: Factors, *, gauss_newton: bool = False):
        """Value, gradient and the dense Hessian by one product per unknown: for small sizes."""
        line = self.linearize(x, gauss_newton=gauss_newton)
        flat, unravel = ravel_pytree(x)
        columns = jax.lax.map(lambda e: ravel_pytree(line.hvp(unravel(e)))[0], jnp.eye(flat.size, dtype=flat.dtype))
        return line.value, line.gradient, columns

    def kronecker(self, x: Factors) -> FactorPreconditioner:
        """Block-diagonal preconditioner: `S ⊗ (Kᵀ M K)` for Q and `M ⊗ (Qᵀ S Q)` for K, S ⊗ M that of the full X."""
        projected = self._projected(x)

        def update(total, block):
            terms = row_terms(projected, block, tt.matmul(block.query, block.keys.T))
            lift = jnp.where(block.fresh[:, None], rows_of(block, self.problem.A1), jnp.zeros((), x.Q.dtype))
            sums = kronecker_sums(lift, terms, self.problem.A2[block.document])
            return jax.tree.map(jnp.add, total, sums)

        d1, d2 = self.problem.shape
        zeros = tuple(jnp.zeros(shape, self.problem.dtype) for shape in ((d1, d1), (d2, d2), ()))
        sums = fold_blocks(projected, update, zeros, block_rows=self.block_rows)
        S, M = normalised_kronecker(*self._reduced(sums))
        shift = self.problem.ridge
        return FactorPreconditioner(
            Kronecker.of(S, tt.matmul(x.K.T, tt.matmul(M, x.K)), shift=shift),
            Kronecker.of(M, tt.matmul(x.Q.T, tt.matmul(S, x.Q)), shift=shift),
        )


def _empty(projected: AttentionRegression) -> Factors:
    return Factors(jnp.zeros_like(projected.A1), jnp.zeros_like(projected.A2))


def _lifted(parts: Factors, block: Block, gamma, lift, keys) -> Factors:
    """Row gradients Γ of a block taken to row space, Γ R, and to key space, Γᵀ L."""
    document = parts.K[block.document] + tt.matmul(gamma.T, lift)
    return Factors(put_rows(block, parts.Q, tt.matmul(gamma, keys)), parts.K.at[block.document].set(document))


@pytree_dataclass("cache", "gauss_newton")
class FactoredLinearization(Linearization):
    """A `FactoredObjective` at one point."""

    value: jax.Array
    gradient: Factors
    x: Factors
    projected: AttentionRegression
    kept: Any
    objective: FactoredObjective
    cache: Cache = "none"
    gauss_newton: bool = False

    def hvp(self, v: Factors) -> Factors:
        """`Jᵀ H J v` plus, when exact, the coupling of Q and K through the gradient in X."""
        problem, objective = self.objective.problem, self.objective
        moved = Factors(tt.matmul(problem.A1, v.Q), tt.matmul(problem.A2, v.K))

        def update(parts, block):
            curvature, gamma = self._entries(block)
            query_moved = jnp.where(block.fresh[:, None], rows_of(block, moved.Q), jnp.zeros((), v.Q.dtype))
            keys_moved = moved.K[block.document]
            t = tt.matmul(query_moved, block.keys.T) + tt.matmul(block.lift, keys_moved.T)
            t = curvature.apply(t)
            rows = tt.matmul(t, block.keys)
            keys = tt.matmul(t.T, block.lift)
            if not self.gauss_newton:
                rows = rows + tt.matmul(gamma, keys_moved)
                keys = keys + tt.matmul(gamma.T, query_moved)
            # Rows an earlier block has done keep what that block wrote.
            rows = jnp.where(block.fresh[:, None], rows, rows_of(block, parts.Q))
            document = parts.K[block.document] + keys
            return Factors(put_rows(block, parts.Q, rows), parts.K.at[block.document].set(document))

        parts = fold_blocks(self.projected, update, _empty(self.projected), block_rows=objective.block_rows)
        out = objective._reduced(objective._back(parts))
        return self._with_ridge(out, v)

    def _entries(self, block: Block):
        if self.cache == "entries":
            return jax.tree.map(lambda a: rows_of(block, a), self.kept)
        terms = row_terms(self.projected, block, tt.matmul(block.query, block.keys.T))
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
