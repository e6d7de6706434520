"""The unknown as low-rank factors, X = Q Kᵀ: what an attention head truly is.

Where the problem has `rotary` positions, the projected rows are turned, and what comes back from row and key space is
turned back: orthogonal maps, so nothing else changes.

The closed forms follow from those in X by the chain rule, but X is never formed: with `L = A1 Q` and `R = A2 K` the
logits are `L Rᵀ`, and every product has the rank in place of d. The gauge `(QG, KG⁻ᵀ)` leaves X alone; it makes
the Hessian singular along r² directions, which conjugate gradients and the damping leave untouched.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Blocks
from attnreg.lift.streaming import Block, BlockRows, Parts, map_over_blocks, stream
from attnreg.objectives.base import Cache, Costs, SecondOrderObjective, by_products, compiled
from attnreg.objectives.factored_preconditioner import block_sums, blocks_of
from attnreg.objectives.factors import FactoredLinearization, Factors
from attnreg.objectives.row_terms import (
    all_devices,
    check_streaming,
    curvature_of,
    fresh_value,
    over_devices,
    rounding_of_rows,
    row_terms,
)
from attnreg.objectives.spectral import first_direction, shortened
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import check_integer, check_number, pytree_dataclass, replaced
from attnreg.problems.rotary import check_rotary_width
from attnreg.rows.curvature import RowTerms


@pytree_dataclass("rank", "block_rows", "axis_name")
class FactoredObjective(SecondOrderObjective):
    """The objective of an `AttentionRegression` in the factors of X = Q Kᵀ.

    Args:
        problem: the data; its ridge stays `½ ridge ‖Q Kᵀ‖²`.
        rank: r, from 1 to min(d1, d2); at least the width of `problem.rotary`, which takes any r.
        block_rows, axis_name: as in `AttentionObjective`.

    Precision: agrees with autodiff through `Q Kᵀ` to a small multiple of eps × natural scale
    (tests/objectives/test_factored.py).
    Cost: value and gradient `2·n·m·3r + 4·(n + m)·d·r` flops, against `2·n·m·2d` for the full X; memory
    O((n + m)(d + r)).
    Raises: ProblemError for a rank outside its range or unknowns of another shape.
    Source: derived in docs/theory/closed_forms.md.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> A = jnp.eye(3)
        >>> objective = FactoredObjective(AttentionRegression(A, A, jnp.full((3, 3), 1 / 3)), rank=1)
        >>> objective.value_and_grad(objective.zeros())[1].Q.shape
        (3, 1)
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none", "entries")

    problem: AttentionRegression
    rank: int
    block_rows: BlockRows = None
    axis_name: str | None = None

    def __post_init__(self) -> None:
        most = min(self.problem.shape) if self.problem.rotary is None else None
        check_integer("rank", self.rank, at_least=1, at_most=most)
        check_rotary_width(self.problem.rotary, self.rank)
        check_streaming(self)

    def zeros(self) -> Factors:
        """Q = 0 and K = 0: a saddle, not a start."""
        d1, d2 = self.problem.shape
        dtype = self.problem.dtype
        return Factors(jnp.zeros((d1, self.rank), dtype), jnp.zeros((d2, self.rank), dtype))

    def start(self) -> Factors:
        """`spectral_start()`: zero factors are a saddle."""
        return self.spectral_start()

    def costs(self) -> Costs:
        """A dense Hessian takes one product per unknown."""
        k, n, m, d1, d2 = self.problem.sizes
        gradient = 2.0 * k * n * m * 3 * self.rank + 4.0 * k * (n * d1 + m * d2) * self.rank
        gradient *= all_devices(self.axis_name)
        p = (d1 + d2) * self.rank
        return Costs(gradient, 2 * p * gradient, p)

    def spectral_start(self, damping: float = 1e-2) -> Factors:
        """A start outside the saddle at zero: the best rank-r factors of one preconditioned step from X = 0.

        At X = 0 the Gauss–Newton matrix without masks is exactly `S ⊗ M`, so this step is a Gauss–Newton step; its
        truncated singular value decomposition is split evenly between Q and K. With rotary positions the step is that
        of `StackedObjective`, and each frequency gets its best complex matrix of rank one.

        Args:
            damping: of the step, relative to the mean curvature; a large one keeps weak directions of the data out.

        Cost: one gradient, two eigendecompositions, one SVD and ten values.
        """
        check_number("damping", damping, at_least=0)
        return self._spectral_start(jnp.asarray(damping, self.problem.dtype))

    def _each_row(self, projected: AttentionRegression, block: Block) -> RowTerms:
        return row_terms(projected, block, tt.matmul(block.query, block.keys.T))

    def _stream(self, projected: AttentionRegression, emit: Callable[[Block], Parts]) -> Parts:
        return stream(projected, emit, block_rows=self.block_rows)

    def _on_factors(self, projected: AttentionRegression, gamma_of: Callable[[Block], Any], back: Any = None):
        """The one pass: `(total, Factors)` from a function of a block that returns a number (summed), the row matrix Γ
        (r, m) and the pair (queries, keys) that Γ is lifted with; `back` moves sums in row and key space first."""

        def emit(block):
            number, gamma, (query, keys) = gamma_of(block)
            # To row space, Γ R, and to key space, Γᵀ L.
            return Parts(number, tt.matmul(gamma, keys), tt.matmul(gamma.T, query))

        of_blocks = self._stream(projected, emit)
        parts = Factors(of_blocks.rows, of_blocks.documents)
        return self._reduced((of_blocks.total, self._back(parts if back is None else back(parts))))

    @jax.jit
    def _spectral_start(self, damping: jax.Array) -> Factors:
        direction = first_direction(self.problem, self.rank, damping, (self.block_rows, self.axis_name))
        return shortened(self.value, direction)

    def _projected(self, x: Factors) -> AttentionRegression:
        """The problem seen in the rank-r space: queries A1 Q, keys A2 K, both turned, unknown the identity."""
        rows = self._turned(Factors(tt.matmul(self.problem.A1, x.Q), tt.matmul(self.problem.A2, x.K)))
        return replaced(self.problem, A1=rows.Q, A2=rows.K)

    def _turned(self, rows: Factors, *, back: bool = False) -> Factors:
        """Projected queries (k, n, r) and keys (k, m, r), turned (back) where the problem has rotary positions."""
        turns = self.problem.rotary
        return rows if turns is None else Factors(turns.queries(rows.Q, back=back), turns.keys(rows.K, back=back))

    def _reduced(self, total: Any) -> Any:
        return over_devices(total, self.axis_name)

    @compiled()
    def value(self, x: Factors) -> jax.Array:
        """The loss at X = Q Kᵀ, a scalar."""
        projected = self._projected(x)

        def emit(block):
            return Parts(fresh_value(block, self._each_row(projected, block)))

        return self._reduced(self._stream(projected, emit).total) + self._ridge_value(x)

    def _ridge_value(self, x: Factors) -> jax.Array:
        return self.problem.ridge * jnp.sum(tt.matmul(x.Q.T, x.Q) * tt.matmul(x.K.T, x.K)) / 2

    @compiled()
    def value_and_grad(self, x: Factors) -> tuple[jax.Array, Factors]:
        """The loss, a scalar, and its gradient in Q and K."""
        projected = self._projected(x)

        def gamma_of(block):
            terms = self._each_row(projected, block)
            return fresh_value(block, terms), terms.gradient, (block.lift, block.keys)

        value, gradient = self._on_factors(projected, gamma_of)
        ridge = self.problem.ridge
        gradient = Factors(
            gradient.Q + ridge * tt.matmul(x.Q, tt.matmul(x.K.T, x.K)),
            gradient.K + ridge * tt.matmul(x.K, tt.matmul(x.Q.T, x.Q)),
        )
        return value + self._ridge_value(x), gradient

    @compiled()
    def rounding(self, x: Factors) -> jax.Array:
        """The size of the rounding error in the gradient's norm at x; see `AttentionObjective.rounding`."""
        projected = self._projected(x)

        def gamma_of(block):
            s = tt.matmul(block.query, block.keys.T)
            wrong = rounding_of_rows(row_terms(projected, block, s), s)
            return jnp.zeros((), s.dtype), wrong, (jnp.abs(block.lift), jnp.abs(block.keys))

        problem, turns = self.problem, self.problem.rotary
        positive = replaced(problem, A1=jnp.abs(problem.A1), A2=jnp.abs(problem.A2), rotary=None)

        def spread(parts):
            return parts if turns is None else jax.tree.map(turns.largest, parts)

        _, wrong = replaced(self, problem=positive)._on_factors(projected, gamma_of, spread)
        return jnp.sqrt(jnp.sum(wrong.Q**2) + jnp.sum(wrong.K**2))

    def _back(self, parts: Factors) -> Factors:
        """From row space (k, n, r) and key space (k, m, r) to the factors."""
        parts = self._turned(parts, back=True)
        return Factors(
            tt.einsum("knd,knr->dr", self.problem.A1, parts.Q), tt.einsum("kmd,kmr->dr", self.problem.A2, parts.K)
        )

    @compiled("gauss_newton", "cache")
    def linearize(self, x: Factors, *, gauss_newton: bool = False, cache: Cache = "auto") -> "FactoredLinearization":
        """Value, gradient and HVPs at x; cache "entries" (row curvatures and gradients, 4·n·m numbers) or "none"."""
        k, n, m = self.problem.sizes[:3]
        if cache == "auto":
            fits = 4 * k * n * m * jnp.finfo(self.problem.dtype).bits // 8 <= 2**29
            cache = "entries" if fits else "none"
        value, gradient = self.value_and_grad(x)
        projected = self._projected(x)
        kept = None
        if cache == "entries":

            def entries(block):
                terms = self._each_row(projected, block)
                return curvature_of(terms, gauss_newton), terms.gradient

            kept = map_over_blocks(projected, entries, block_rows=self.block_rows)
        return FactoredLinearization(value, gradient, x, projected, kept, self, cache, gauss_newton)

    @compiled("gauss_newton")
    def value_grad_hessian(self, x: Factors, *, gauss_newton: bool = False) -> tuple[jax.Array, Factors, jax.Array]:
        """Value, gradient and the dense Hessian (p, p) by one product per unknown: for small sizes."""
        line = self.linearize(x, gauss_newton=gauss_newton)
        return line.value, line.gradient, by_products(line, x)

    @compiled()
    def preconditioner(self, x: Factors) -> Blocks:
        """Block diagonal, a Kronecker product for each factor; see `attnreg.objectives.factored_preconditioner`."""
        projected = self._projected(x)

        def emit(block):
            return Parts(block_sums(self.problem, block, self._each_row(projected, block)))

        return blocks_of(self.problem, self._reduced(self._stream(projected, emit).total), x)
