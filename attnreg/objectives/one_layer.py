"""The one-layer objective in (X, Y): value, gradient, joint Hessian and Hessian-vector products, streamed over rows."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Blocks, Kronecker
from attnreg.lift.streaming import Block, BlockRows, map_over_blocks, sum_over_blocks
from attnreg.lift.triangular import triangular_solve
from attnreg.objectives import fused, one_layer_fused
from attnreg.objectives import one_layer_rows as ol
from attnreg.objectives.base import CACHE_BYTES, Cache, Linearization, SecondOrderObjective, compiled
from attnreg.objectives.one_layer_hessian import Parts, kronecker_sums, packed_parts
from attnreg.objectives.one_layer_linearized import CachedLinearization, FusedLinearization, StreamedLinearization
from attnreg.objectives.row_terms import check_streaming
from attnreg.problems.checks import pytree_dataclass, replaced
from attnreg.problems.one_layer import OneLayerRegression, Unknowns

# Random sign vectors used to estimate the curvature blocks in the preconditioner.
PROBES = 4


@pytree_dataclass("block_rows", "kernel")
class OneLayerObjective(SecondOrderObjective):
    """`‖softmax(A1 X A2ᵀ) A3 Y − B‖²` plus the regularizers, in the unknowns `Unknowns(X, Y)`.

    Args:
        problem: the data.
        block_rows, kernel: as in `AttentionObjective`.

    Precision: value, gradient, Hessian and HVP agree with autodiff of the plain loss (`attnreg.problems.losses`) to a
    small multiple of eps × natural scale (tests/objectives/test_one_layer.py).
    Cost: value and gradient n·m·(2·d2 + 2·d3) multiplications and one exp per entry; Hessian n·m·(d2·d3 + d2²/2) +
    n·(d1·d2)²/2 + n·d1·d2·d3·c; memory O((n + m)·d) plus one block, n·d2·d3 more with cached curvature
    (tests/objectives/test_one_layer_costs.py). The Hessian itself has (d1·d2 + d3·c)² entries.
    Raises: ProblemError for unknowns of another shape or dtype.
    Source: arXiv 2309.07418 poses the problem; derivatives derived in docs/theory/one_layer.md.

    Example:
        >>> import jax.numpy as jnp
        >>> A = jnp.eye(3)
        >>> objective = OneLayerObjective(OneLayerRegression(A, A, A, jnp.full((3, 2), 1 / 3)))
        >>> value, gradient = objective.value_and_grad(Unknowns(jnp.zeros((3, 3)), jnp.full((3, 2), 1 / 3)))
        >>> bool(jnp.allclose(value, 0, atol=1e-12)), gradient.Y.shape
        (True, (3, 2))
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none", "blocks")

    problem: OneLayerRegression
    block_rows: BlockRows = None
    kernel: fused.Kernel = "streamed"

    def __post_init__(self) -> None:
        check_streaming(self)
        fused.check_kernel(self)

    def differentiable(self) -> "OneLayerObjective":
        """Streamed: JAX has no derivatives of kernels."""
        return replaced(self, kernel="streamed")

    @compiled()
    def start(self) -> Unknowns:
        """X = 0 and the best Y for it: at Y = 0 the X-gradient vanishes. A local start; `fit_one_layer` is global."""
        X = self.zeros().X
        return Unknowns(X, best_values(self.problem, self.attended(X))[0])

    def attended(self, X: jax.Array) -> jax.Array:
        """Z = softmax(A1 X A2ᵀ) A3 for all rows, (k·n, d3)."""

        def emit(block):
            return ol.attend(block, X, ol.values_of(self.problem, block))[2]

        z = map_over_blocks(ol.streamable(self.problem), emit, block_rows=self.block_rows)
        return z.reshape(-1, z.shape[2])

    def zeros(self) -> Unknowns:
        """X = 0 and Y = 0: a saddle, not a start."""
        return Unknowns(*(jnp.zeros(shape, self.problem.dtype) for shape in self.problem.shapes))

    def sum(self, emit: Callable[[ol.Rows], Any], params: Unknowns) -> Any:
        """`Σ emit(Rows)` over all blocks of rows."""
        return sum_over_blocks(
            ol.streamable(self.problem),
            lambda block: emit(ol.on_rows(self.problem, params, block)),
            block_rows=self.block_rows,
        )

    def _ridge_value(self, params: Unknowns) -> jax.Array:
        problem = self.problem
        value = problem.ridge * jnp.sum(params.X**2) + problem.ridge_y * jnp.sum(params.Y**2)
        if problem.value_weight is not None:
            value = value + jnp.sum((problem.value_weight * tt.matmul(problem.A3, params.Y)) ** 2)
        return value / 2

    def _ridge_times(self, v: Unknowns) -> Unknowns:
        problem = self.problem
        of_y = problem.ridge_y * v.Y
        if problem.value_weight is not None:
            weighted = problem.value_weight**2 * tt.matmul(problem.A3, v.Y)
            of_y = of_y + tt.einsum("kmb,kmc->bc", problem.A3, weighted)
        return Unknowns(problem.ridge * v.X, of_y)

    @compiled()
    def value(self, params: Unknowns) -> jax.Array:
        """The loss."""
        if (tiles := fused.tiles_for(self)) is not None:
            rows = one_layer_fused.layer_rows(self.problem, params, tiles)
            return one_layer_fused.value(rows) + self._ridge_value(params)
        return self.sum(ol.value, params) + self._ridge_value(params)

    @compiled()
    def value_and_grad(self, params: Unknowns) -> tuple[jax.Array, Unknowns]:
        """The loss and its gradient."""
        if (tiles := fused.tiles_for(self)) is not None:
            return self._of_rows(params, one_layer_fused.layer_rows(self.problem, params, tiles), tiles)
        value, gradient = self.sum(lambda rows: (ol.value(rows), ol.gradient(rows)), params)
        gradient = jax.tree.map(jnp.add, gradient, self._ridge_times(params))
        return value + self._ridge_value(params), gradient

    def _of_rows(
        self, params: Unknowns, rows: one_layer_fused.LayerRows, tiles: fused.Tiles
    ) -> tuple[jax.Array, Unknowns]:
        gradient = one_layer_fused.gradient(self.problem, rows, tiles)
        gradient = jax.tree.map(jnp.add, gradient, self._ridge_times(params))
        return one_layer_fused.value(rows) + self._ridge_value(params), gradient

    @compiled("gauss_newton")
    def value_grad_hessian(
        self, params: Unknowns, *, gauss_newton: bool = False
    ) -> tuple[jax.Array, Unknowns, jax.Array]:
        """Value, gradient and the dense Hessian in the order vec(X), vec(Y)."""
        value, gradient, parts = self.value_grad_parts(params, gauss_newton=gauss_newton)
        return value, gradient, parts.dense(params.Y.shape[1])

    def value_grad_parts(self, params: Unknowns, *, gauss_newton: bool = False) -> tuple[jax.Array, Unknowns, "Parts"]:
        """Value, gradient and the Hessian's `Parts`: the Y block is `yy ⊗ I_c` and is kept as yy."""

        def emit(rows):
            return ol.value(rows), ol.gradient(rows), packed_parts(rows, params, gauss_newton)

        value, gradient, (packed, direct, swapped, yy) = self.sum(emit, params)
        (d1, d2), (d3, c) = self.problem.shapes
        xx = tt.unpack_hessian(packed, d1, d2) + self.problem.ridge * jnp.eye(d1 * d2, dtype=packed.dtype)
        xy = direct.reshape(d1, d3, d2, c).transpose(0, 2, 1, 3)
        if not gauss_newton:
            xy = xy + swapped.reshape(d1, c, d2, d3).transpose(0, 2, 3, 1)
        yy = yy + value_curvature(self.problem)
        gradient = jax.tree.map(jnp.add, gradient, self._ridge_times(params))
        return value + self._ridge_value(params), gradient, Parts(xx, xy.reshape(d1 * d2, d3 * c), yy)

    @compiled("gauss_newton", "cache")
    def linearize(self, params: Unknowns, *, gauss_newton: bool = False, cache: Cache = "auto") -> Linearization:
        """Value, gradient and HVPs at (X, Y).

        cache: "none" recomputes the rows in every product, O(n·m·(3·d2 + 3·d3)) and no memory; "blocks" keeps N_j and
        the curvature blocks, n·d2·(d2 + d3) numbers, and a product costs O(n·d²). "auto" keeps them when they fit.
        """
        k, n, m, _, d2 = self.problem.sizes
        d3 = self.problem.A3.shape[2]
        numbers = k * n * d2 * (d2 + d3)
        affordable = numbers * jnp.finfo(self.problem.dtype).bits // 8 <= CACHE_BYTES and d2 * (d2 + d3) <= 8 * m
        streamed, tiles = cache == "none" or (cache == "auto" and not affordable), fused.tiles_for(self)
        if streamed and tiles is not None:
            rows = one_layer_fused.layer_rows(self.problem, params, tiles, products=True)
            return FusedLinearization(*self._of_rows(params, rows, tiles), params, self, rows, gauss_newton)
        value, gradient = self.value_and_grad(params)
        if streamed:
            return StreamedLinearization(value, gradient, params, self, gauss_newton)

        def emit(block: Block):
            rows = ol.on_rows(self.problem, params, block)
            logit = ol.penalty_curvature(rows) if gauss_newton else ol.logit_curvature(rows)
            curved = tt.unpack_blocks(tt.curvature_blocks(logit, rows.block.keys), d2)
            return ol.cross_blocks(rows), curved, rows.z, rows.residual

        kept = map_over_blocks(ol.streamable(self.problem), emit, block_rows=self.block_rows)
        return CachedLinearization(value, gradient, params, self, kept, gauss_newton)

    @compiled()
    def preconditioner(self, params: Unknowns) -> Blocks:
        """Block diagonal: `S ⊗ M` for X, estimated with `PROBES` fixed sign vectors, and the exact `2ZᵀZ ⊗ I` for Y.

        `N_j Y` is never formed: for a sign vector ω, `(N_jYω)(N_jYω)ᵀ` has mean `(N_jY)(N_jY)ᵀ`. Cost: about a
        gradient.
        """
        c = params.Y.shape[1]
        signs = jax.random.rademacher(jax.random.key(0), (c, min(PROBES, c)), self.problem.dtype)
        probes = tt.matmul(params.Y, signs) / jnp.sqrt(jnp.asarray(signs.shape[1], self.problem.dtype))

        def emit(rows):
            return kronecker_sums(rows, probes)

        left, right, total, yy = self.sum(emit, params)
        # Both traces equal the trace of the estimated matrix, so the product S ⊗ M is divided by it once.
        right = right / jnp.where(total > 0, total, 1)
        eye = jnp.eye(c, dtype=yy.dtype)
        of_x = Kronecker.of(left, right, shift=self.problem.ridge)
        of_y = Kronecker.of(yy + value_curvature(self.problem, ridge=False), eye, shift=self.problem.ridge_y)
        return Blocks(Unknowns._make((of_x, of_y)), common=True)

    @compiled()
    def rounding(self, params: Unknowns) -> jax.Array:
        """The size of the rounding error in the gradient's norm at (X, Y), a scalar. Cost: a gradient."""

        def emit(rows):
            return ol.rounding(rows, params)

        wrong = self.sum(emit, params)
        return jnp.sqrt(jnp.sum(wrong.X**2) + jnp.sum(wrong.Y**2))


def value_curvature(problem: OneLayerRegression, *, ridge: bool = True) -> jax.Array:
    """`A3ᵀ diag(v²) A3 + ridge_y I`, (d3, d3): the regularizers' part of the Y block, which is this `⊗ I_c`.

    Cost: k·m·d3² where there are weights.
    """
    d3 = problem.A3.shape[2]
    shift = problem.ridge_y * jnp.eye(d3, dtype=problem.dtype) if ridge else jnp.zeros((d3, d3), problem.dtype)
    if problem.value_weight is None:
        return shift
    weighted = (problem.value_weight * problem.A3).reshape(-1, d3)
    return shift + tt.matmul(weighted.T, weighted)


def best_values(problem: OneLayerRegression, Z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Y (d3, c) that fits B best for attended values Z (k·n, d3), and a triangular R (d3, d3).

    `2RᵀR = 2ZᵀZ + Λ` with `Λ = ridge_y I + A3ᵀ diag(value_weight²) A3`.

    By QR of Z over the roots of Λ/2, never by the normal equations. Cost: O(k·n·d3·(d3 + c)), with weights also
    k·m·d3².
    """
    d3 = Z.shape[1]
    below = [] if problem.value_weight is None else [(problem.value_weight * problem.A3).reshape(-1, d3) * 0.5**0.5]
    B = problem.B.reshape(-1, problem.B.shape[2])
    # Where Z is rank deficient its small singular values are rounding, eps‖Z‖: divided by less than √eps‖Z‖ squared
    # they would turn into a Y of size 1/eps.
    floor = jnp.finfo(Z.dtype).eps ** 0.5 * jnp.linalg.norm(Z) + jnp.finfo(Z.dtype).tiny ** 0.5
    shift = jnp.sqrt(jnp.maximum(problem.ridge_y / 2, floor**2))
    Q, R = jnp.linalg.qr(jnp.concatenate([Z, shift * jnp.eye(d3, dtype=Z.dtype), *below]))
    return triangular_solve(R, tt.matmul(Q[: Z.shape[0]].T, B), lower=False), R
