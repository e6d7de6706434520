"""The full unknown of a rotary head: one pair of real matrices for each frequency, in which the logits are linear."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift.kronecker import Kronecker
from attnreg.lift.rotation import Angles, angles_of, components, stacked_lift, stacked_logits
from attnreg.lift.streaming import Block, BlockRows, map_over_blocks, rows_of, sum_over_blocks
from attnreg.objectives.base import (
    CACHE_BYTES,
    Cache,
    Costs,
    Linearization,
    SecondOrderObjective,
    by_products,
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
    row_terms,
)
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError, check_flag, pytree_dataclass
from attnreg.problems.rotary import Rotation
from attnreg.rows.curvature import RowTerms


@pytree_dataclass("rest", "block_rows", "axis_name")
class StackedObjective(SecondOrderObjective):
    """The objective of a rotary `AttentionRegression` in its stacked unknown Z (c, d1, d2), linear in the logits.

    It has no rank and no local minimum where the loss is convex in the logits (`kl`, `linear`), and w times the
    unknowns of a full X: for small widths. `attnreg.lift.rotation` says what Z is.

    Args:
        problem: the data, with `rotary`; its ridge is `½ ridge ‖Z‖²`.
        rest: whether the head has columns that do not turn: then c = w + 1, else c = w.
        block_rows, axis_name: as in `AttentionObjective`.

    Precision: agrees with autodiff of complex-number logits to a small multiple of eps × natural scale
    (tests/objectives/test_rotary.py).
    Cost: value and gradient about `8·n·m·d2·w/2 + 4·n·d1·d2·w` flops; a dense Hessian a product per unknown.
    Raises: ProblemError for a problem without rotary positions, or unknowns of another shape.
    Source: derived in docs/theory/rotary.md.

    Example:
        >>> import jax.numpy as jnp
        >>> from attnreg.problems import Rotary
        >>> A = jnp.eye(3)
        >>> problem = AttentionRegression(A, A, jnp.full((3, 3), 1 / 3), rotary=Rotary(2))
        >>> StackedObjective(problem).zeros().shape
        (2, 3, 3)
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none", "entries")

    problem: AttentionRegression
    rest: bool = False
    block_rows: BlockRows = None
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_flag("rest", self.rest)
        check_streaming(self)
        if self.problem.rotary is None:
            raise ProblemError("problem.rotary is None; StackedObjective is for rotary heads, take AttentionObjective")

    def _turns(self) -> Rotation:
        assert self.problem.rotary is not None  # as `__post_init__` has seen
        return self.problem.rotary

    def zeros(self) -> jax.Array:
        """Z = 0."""
        return jnp.zeros((components(self._turns(), self.rest), *self.problem.shape), self.problem.dtype)

    def costs(self) -> Costs:
        """From the formulas of the class docstring."""
        k, n, m, d1, d2 = self.problem.sizes
        c = self.zeros().shape[0]
        gradient = float(k * all_devices(self.axis_name)) * c * n * d2 * (4 * m + 4 * d1)
        p = c * d1 * d2
        return Costs(gradient, 2 * p * gradient, p)

    def _sum(self, emit: Any) -> Any:
        total = sum_over_blocks(self.problem, emit, block_rows=self.block_rows)
        return over_devices(total, self.axis_name)

    def _angles(self, block: Block) -> Angles:
        return angles_of(self._turns(), block.document, block.start, block.fresh.shape[0])

    def _logits(self, Z: jax.Array, block: Block) -> jax.Array:
        return stacked_logits(self._angles(block), block.query, Z, block.keys)

    def _rows(self, Z: jax.Array, block: Block) -> RowTerms:
        return row_terms(self.problem, block, self._logits(Z, block))

    def _lift(self, block: Block, gamma: jax.Array) -> jax.Array:
        return stacked_lift(self._angles(block), block.lift, gamma, block.keys, rest=self.rest)

    @compiled()
    def value(self, Z: jax.Array) -> jax.Array:
        """The loss at Z, a scalar."""
        return (
            self._sum(lambda block: fresh_value(block, self._rows(Z, block))) + self.problem.ridge * jnp.sum(Z * Z) / 2
        )

    @compiled()
    def value_and_grad(self, Z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss and its gradient, shaped like Z."""

        def emit(block):
            terms = self._rows(Z, block)
            return fresh_value(block, terms), self._lift(block, terms.gradient)

        value, gradient = self._sum(emit)
        return value + self.problem.ridge * jnp.sum(Z * Z) / 2, gradient + self.problem.ridge * Z

    @compiled("gauss_newton", "cache")
    def linearize(self, Z: jax.Array, *, gauss_newton: bool = False, cache: Cache = "auto") -> "StackedLinearization":
        """Value, gradient and products at Z; cache "entries" keeps the row curvatures, 3·n·m numbers, or "none"."""
        if cache == "auto":
            k, n, m = self.problem.sizes[:3]
            fits = 3 * k * n * m * jnp.finfo(self.problem.dtype).bits // 8 <= CACHE_BYTES
            cache = "entries" if fits else "none"
        value, gradient = self.value_and_grad(Z)
        kept = None
        if cache == "entries":

            def entries(block):
                return curvature_of(self._rows(Z, block), gauss_newton)

            kept = map_over_blocks(self.problem, entries, block_rows=self.block_rows)
        return StackedLinearization(value, gradient, Z, kept, self, gauss_newton)

    @compiled("gauss_newton")
    def value_grad_hessian(self, Z: jax.Array, *, gauss_newton: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Value, gradient and the dense Hessian (p, p) by one product per unknown: for small sizes."""
        line = self.linearize(Z, gauss_newton=gauss_newton)
        return line.value, line.gradient, by_products(line, Z)

    @compiled()
    def preconditioner(self, Z: jax.Array) -> "Repeated":
        """One Kronecker product for all components: that of a head without turns, halved for the mean of cos²."""
        sums = self._sum(lambda block: kronecker_sums(block.lift, self._rows(Z, block), block.keys))
        S, M = normalised_kronecker(*sums)
        return Repeated(Kronecker.of(S / 2, M, shift=self.problem.ridge))


@pytree_dataclass("gauss_newton")
class StackedLinearization(Linearization):
    """A `StackedObjective` at one Z."""

    value: jax.Array
    gradient: jax.Array
    Z: jax.Array
    kept: Any
    objective: StackedObjective
    gauss_newton: bool = False

    @compiled()
    def hvp(self, V: jax.Array) -> jax.Array:
        """The Hessian times V, shaped like Z."""
        objective = self.objective

        def emit(block):
            if self.kept is None:
                curvature = curvature_of(objective._rows(self.Z, block), self.gauss_newton)
            else:
                curvature = jax.tree.map(lambda x: rows_of(block, x), self.kept)
            return objective._lift(block, curvature.apply(objective._logits(V, block)))

        return objective._sum(emit) + objective.problem.ridge * V


@pytree_dataclass()
class Repeated:
    """A block-diagonal preconditioner with the same block for each component of a stacked unknown (c, d1, d2)."""

    block: Kronecker

    def scale(self) -> jax.Array:
        """Mean eigenvalue, a scalar."""
        return self.block.scale()

    def largest(self) -> jax.Array:
        """Largest eigenvalue, a scalar."""
        return self.block.largest()

    def apply(self, V: jax.Array, *, relative: jax.Array | float = 0.0) -> jax.Array:
        """`(P + relative·scale) V`, shaped like V."""
        return jax.vmap(lambda part: self.block.apply(part, relative=relative))(V)

    def solve(self, V: jax.Array, *, relative: jax.Array | float = 0.0) -> jax.Array:
        """`(P + relative·scale)⁻¹ V`, shaped like V."""
        return jax.vmap(lambda part: self.block.solve(part, relative=relative))(V)
