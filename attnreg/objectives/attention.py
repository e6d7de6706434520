"""The objective of an attention map in its full unknown X, in closed form.

Where a problem, its row function and the tensor trick meet. Rows are streamed in blocks (`attnreg.lift.streaming`), so
no n×m array exists unless a cache is asked for. No autodiff here: that is what the tests compare with.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Kronecker
from attnreg.lift.streaming import Block, BlockRows, map_over_blocks, rows_of, sum_over_blocks
from attnreg.objectives import fused
from attnreg.objectives.base import (
    CACHE_BYTES,
    Cache,
    Costs,
    Linearization,
    SecondOrderObjective,
    compiled,
)
from attnreg.objectives.row_terms import (
    all_devices,
    check_streaming,
    curvature_of,
    fresh_value,
    kronecker_sums,
    normalised_kronecker,
    over_devices,
    rounding_of_rows,
    row_terms,
)
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError, pytree_dataclass, replaced
from attnreg.rows.curvature import RowTerms


@pytree_dataclass("block_rows", "axis_name", "kernel")
class AttentionObjective(SecondOrderObjective):
    """The objective of an `AttentionRegression` in its full unknown X (d1, d2).

    Args:
        problem: the data.
        block_rows: rows per streamed block, or an `attnreg.lift.streaming.BlockRule`; None: the rule of the platform.
        axis_name: inside `shard_map`, the mesh axis over which documents (or rows) are split; sums are then `psum`s.
        kernel: "streamed", or "fused": hand-written kernels for value, gradient and products, on problems that have
            them (`attnreg.objectives.fused.uncovered`); the others are streamed. Not yet run on a device.

    Precision: value, gradient, Hessian and HVP agree with autodiff of `attnreg.problems.losses` to a small multiple of
    eps × natural scale (tests/objectives/test_attention.py, tests/contract/test_losses_contract.py).
    Cost: value and gradient about 2·n·m·(d1 + d2) + 12·n·m flops and one exp per entry, memory O((n + m)·d) plus one
    block; Hessian n·m·d2² + n·(d1·d2)²/2 flops (tests/objectives/test_costs.py).
    Raises: ProblemError for unknowns of another shape or dtype, or a block size that is not a whole number.
    Source: derived in docs/theory/closed_forms.md.

    Example:
        >>> import jax.numpy as jnp
        >>> from attnreg.problems.attention import AttentionRegression
        >>> A = jnp.eye(3)
        >>> objective = AttentionObjective(AttentionRegression(A, A, jnp.full((3, 3), 1 / 3)))
        >>> value, gradient = objective.value_and_grad(objective.zeros())
        >>> bool(jnp.allclose(value, 0, atol=1e-12)), gradient.shape
        (True, (3, 3))
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none", "entries", "blocks")

    problem: AttentionRegression
    block_rows: BlockRows = None
    axis_name: str | None = None
    kernel: fused.Kernel = "streamed"

    def __post_init__(self) -> None:
        check_streaming(self)
        fused.check_kernel(self)
        if self.problem.rotary is not None:
            raise ProblemError(
                "problem.rotary is set, and the logits of a rotary head are not A1 X A2ᵀ for any X; take its factors: "
                "FactoredObjective(problem, rank), or, for small widths, StackedObjective(problem)"
            )

    def zeros(self) -> jax.Array:
        """X = 0."""
        return jnp.zeros(self.problem.shape, self.problem.dtype)

    def costs(self) -> Costs:
        """From the formulas of the class docstring, for the rows of all devices (tests/objectives/test_costs.py)."""
        k, n, m, d1, d2 = self.problem.sizes
        rows, p = float(k * n * all_devices(self.axis_name)), d1 * d2
        gradient = rows * (4 * m * d2 + 12 * m + 4 * d1 * d2)
        return Costs(gradient, gradient + rows * (m * d2 * (d2 + 1) + d1 * (d1 + 1) * d2 * (d2 + 1) / 2), p)

    def _sum(self, emit) -> Any:
        """Sum over blocks, then over devices."""
        return self._reduced(sum_over_blocks(self.problem, emit, block_rows=self.block_rows))

    def _reduced(self, total: Any) -> Any:
        return over_devices(total, self.axis_name)

    def differentiable(self) -> "AttentionObjective":
        """Streamed: JAX has no derivatives of kernels."""
        return replaced(self, kernel="streamed")

    def _rows(self, X, block: Block) -> RowTerms:
        return row_terms(self.problem, block, tt.logits(block.query, X, block.keys))

    @compiled()
    def value(self, X: jax.Array) -> jax.Array:
        """The loss at X, a scalar."""

        def emit(block):
            return jnp.sum(jnp.where(block.fresh, self._rows(X, block).value, 0))

        tiles = fused.tiles_for(self)
        total = self._sum(emit) if tiles is None else self._reduced(fused.value(self.problem, X, tiles))
        return total + self.problem.ridge * jnp.sum(X * X) / 2

    @compiled()
    def value_and_grad(self, X: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss and `A1ᵀ Γ A2`, shaped like X."""

        def emit(block):
            terms = self._rows(X, block)
            return fresh_value(block, terms), tt.lift_gradient(block.lift, terms.gradient, block.keys)

        tiles = fused.tiles_for(self)
        if tiles is not None:
            return self._of_sums(X, fused.row_sums(self.problem, X, tiles))
        value, gradient = self._sum(emit)
        return self._with_ridge(X, value, gradient)

    def _of_sums(self, X: jax.Array, sums: fused.RowSums) -> tuple[jax.Array, jax.Array]:
        return self._with_ridge(X, *self._reduced(fused.value_and_grad(self.problem, sums)))

    def _with_ridge(self, X: jax.Array, value: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return value + self.problem.ridge * jnp.sum(X * X) / 2, gradient + self.problem.ridge * X

    @compiled("gauss_newton")
    def value_grad_hessian(self, X: jax.Array, *, gauss_newton: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Value, gradient and the dense `Σ_j (a_j a_jᵀ) ⊗ M_j` from one pass over the rows."""
        d1, d2 = self.problem.shape

        def emit(block):
            terms = self._rows(X, block)
            blocks = tt.curvature_blocks(curvature_of(terms, gauss_newton), block.keys)
            return (
                fresh_value(block, terms),
                tt.lift_gradient(block.lift, terms.gradient, block.keys),
                tt.lift_blocks(tt.khatri_rao_square(block.lift), blocks),
            )

        value, gradient, packed = self._sum(emit)
        ridge = self.problem.ridge
        hessian = tt.unpack_hessian(packed, d1, d2) + ridge * jnp.eye(d1 * d2, dtype=X.dtype)
        return value + ridge * jnp.sum(X * X) / 2, gradient + ridge * X, hessian

    def chosen_hessian(self, X: jax.Array, gauss_newton: jax.Array) -> jax.Array:
        """The Gauss–Newton matrix where the boolean scalar says so, else the exact Hessian: one pass, one program."""

        def emit(block):
            blocks = tt.curvature_blocks(curvature_of(self._rows(X, block), gauss_newton), block.keys)
            return tt.lift_blocks(tt.khatri_rao_square(block.lift), blocks)

        d1, d2 = self.problem.shape
        return tt.unpack_hessian(self._sum(emit), d1, d2) + self.problem.ridge * jnp.eye(d1 * d2, dtype=X.dtype)

    @compiled("gauss_newton")
    def hessian_diagonal(self, X: jax.Array, *, gauss_newton: bool = False) -> jax.Array:
        """The diagonal of the Hessian, shaped like X. Cost: about that of a gradient."""

        def emit(block):
            return tt.lift_diagonal(block.lift, curvature_of(self._rows(X, block), gauss_newton), block.keys)

        return self._sum(emit) + self.problem.ridge

    @compiled("gauss_newton", "cache")
    def linearize(self, X: jax.Array, *, gauss_newton: bool = False, cache: Cache = "auto") -> "AttentionLinearization":
        """Value, gradient and HVPs at X.

        cache: "none" recomputes the rows in every product, O(n m d) and no memory; "entries" keeps the row curvatures,
        3·n·m numbers; "blocks" keeps `M_j = A2ᵀ H_j A2`, n·d2² numbers, and a product then costs O(n d2 (d1 + d2)).
        "auto" takes the cheapest that fits `CACHE_BYTES`. With kernels "none" keeps sums of each row, 4·n·d2 numbers,
        and a product is one sweep over the keys; "auto" then prefers it to "entries".
        """
        cache, tiles = self._choose_cache(cache), fused.tiles_for(self)
        if cache == "none" and tiles is not None:
            sums = fused.row_sums(self.problem, X, tiles, "curvature")
            return AttentionLinearization(*self._of_sums(X, sums), X, sums, self, cache, gauss_newton)
        value, gradient = self.value_and_grad(X)
        kept = None
        if cache == "entries":

            def entries(block):
                return curvature_of(self._rows(X, block), gauss_newton)

            kept = map_over_blocks(self.problem, entries, block_rows=self.block_rows)
        elif cache == "blocks":
            d2 = self.problem.shape[1]

            def blocks(block):
                packed = tt.curvature_blocks(curvature_of(self._rows(X, block), gauss_newton), block.keys)
                return tt.unpack_blocks(packed, d2)

            kept = map_over_blocks(self.problem, blocks, block_rows=self.block_rows)
        return AttentionLinearization(value, gradient, X, kept, self, cache, gauss_newton)

    def _choose_cache(self, cache: Cache) -> Cache:
        if cache != "auto":
            return cache
        k, n, m, _, d2 = self.problem.sizes
        size = jnp.finfo(self.problem.dtype).bits // 8
        if d2 * d2 <= 2 * m and k * n * d2 * d2 * size <= CACHE_BYTES:
            return "blocks"
        if fused.tiles_for(self) is not None:
            return "none"
        return "entries" if 3 * k * n * m * size <= CACHE_BYTES else "none"

    @compiled()
    def rounding(self, X: jax.Array) -> jax.Array:
        """The size of the rounding error in the gradient's norm at X, a scalar.

        A logit is wrong by eps·(1 + |s|), a sum by eps of its terms. Cost: a gradient.
        """

        def emit(block):
            s = tt.logits(block.query, X, block.keys)
            wrong = rounding_of_rows(row_terms(self.problem, block, s), s)
            return tt.lift_gradient(jnp.abs(block.lift), wrong, jnp.abs(block.keys))

        return jnp.linalg.norm(self._sum(emit) + jnp.finfo(X.dtype).eps * self.problem.ridge * jnp.abs(X))

    @compiled()
    def kronecker_factors(self, X: jax.Array) -> tuple[jax.Array, jax.Array]:
        """S (d1, d1) and M (d2, d2) with `S ⊗ M` near the Gauss–Newton matrix `Σ_j (a_j a_jᵀ) ⊗ M_j`.

        S = Σ_j tr(M_j) a_j a_jᵀ, M = Σ_j ‖a_j‖² M_j / Σ_j tr(M_j) ‖a_j‖²: the trace is kept, and the two are exact when
        all M_j are multiples of one matrix. Cost: about a gradient, plus O(n d1² + m d2²); no M_j is formed.
        """

        return normalised_kronecker(
            *self._sum(lambda block: kronecker_sums(block.lift, self._rows(X, block), block.keys))
        )

    @compiled()
    def preconditioner(self, X: jax.Array) -> Kronecker:
        """`S ⊗ M + ridge·I` from `kronecker_factors`, ready to be inverted. Cost: those, plus O(d1³ + d2³)."""
        return Kronecker.of(*self.kronecker_factors(X), shift=self.problem.ridge)


@pytree_dataclass("cache", "gauss_newton")
class AttentionLinearization(Linearization):
    """An `AttentionObjective` at one X; see `AttentionObjective.linearize`."""

    value: jax.Array
    gradient: jax.Array
    X: jax.Array
    kept: Any
    objective: AttentionObjective
    cache: Cache = "none"
    gauss_newton: bool = False

    @compiled()
    def hvp(self, V: jax.Array) -> jax.Array:
        """The Hessian times V, shaped like X."""
        objective, problem = self.objective, self.objective.problem
        if self.cache == "blocks":
            rows = tt.matmul(problem.A1, V)
            moved = tt.einsum("knbc,knc->knb", self.kept, rows)
            out = objective._reduced(tt.einsum("kna,knb->ab", problem.A1, moved))
        elif isinstance(self.kept, fused.RowSums) and (tiles := fused.tiles_for(objective)) is not None:
            out = objective._reduced(fused.hvp(problem, self.kept, V, tiles, gauss_newton=self.gauss_newton))
        else:

            def emit(block):
                if self.cache == "entries":
                    curvature = jax.tree.map(lambda x: rows_of(block, x), self.kept)
                else:
                    curvature = curvature_of(objective._rows(self.X, block), self.gauss_newton)
                return tt.lift_hvp(block.lift, curvature, block.keys, V)

            out = objective._sum(emit)
        return out + problem.ridge * V
