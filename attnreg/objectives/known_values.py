"""A head from its outputs where its values are known: the one-layer objective in the factors of its logits alone.

With `φ(X) = L(X, Y)` the one-layer loss at a fixed Y and X = Q Kᵀ, the chain rule gives

    ∇_Q = G K,  ∇_K = Gᵀ Q,      H (U, V) = (W K + G V, Wᵀ Q + Gᵀ U),   G = ∇φ,  W = ∇²φ [U Kᵀ + Q Vᵀ],

and the Gauss–Newton product leaves out G and takes that of φ for ∇²φ.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Blocks, Kronecker
from attnreg.lift.streaming import BlockRows
from attnreg.objectives.base import Cache, Linearization, SecondOrderObjective, by_products, check_like, compiled
from attnreg.objectives.factors import Factors
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.objectives.row_terms import check_streaming
from attnreg.objectives.spectral import shortened
from attnreg.problems.checks import check_integer, pytree_dataclass
from attnreg.problems.one_layer import OneLayerRegression, Unknowns


@pytree_dataclass("rank", "block_rows")
class KnownValues(SecondOrderObjective):
    """`‖softmax(A1 Q Kᵀ A2ᵀ) A3 Y − B‖²` in the unknowns `Factors(Q, K)`, Y being known.

    Args:
        problem: the data, regularizers included.
        Y: (d3, c), of the dtype of the data; values that are known as they are have the identity.
        rank: r, from 1 to min(d1, d2).
        block_rows: as in `AttentionObjective`.

    Precision: value, gradient, both Hessians and products against autodiff of the plain loss
    (tests/objectives/test_known_values.py).
    Cost: that of `OneLayerObjective`, and O(d1·d2·r) for the chain rule.
    Raises: ProblemError for a rank outside its range, a Y that does not fit, or unknowns of another shape.
    Source: derived at the head of this file.

    Example:
        >>> import jax.numpy as jnp
        >>> A = jnp.eye(3)
        >>> head = KnownValues(OneLayerRegression(A, A, A, jnp.full((3, 3), 1 / 3)), jnp.eye(3), rank=1)
        >>> bool(head.value(head.zeros()) < 1e-12)
        True
    """

    CACHES: ClassVar[tuple[str, ...]] = OneLayerObjective.CACHES

    problem: OneLayerRegression
    Y: jax.Array
    rank: int
    block_rows: BlockRows = None

    def __post_init__(self) -> None:
        shapes = self.problem.shapes
        check_integer("rank", self.rank, at_least=1, at_most=min(shapes.X))
        check_like(self.Y, jax.ShapeDtypeStruct(shapes.Y, self.problem.dtype), "Y")
        check_streaming(self)

    @property
    def joint(self) -> OneLayerObjective:
        """The objective in (X, Y)."""
        return OneLayerObjective(self.problem, self.block_rows)

    def zeros(self) -> Factors:
        """Q = 0 and K = 0: a saddle, not a start."""
        (d1, d2), dtype = self.problem.shapes.X, self.problem.dtype
        return Factors(jnp.zeros((d1, self.rank), dtype), jnp.zeros((d2, self.rank), dtype))

    @compiled()
    def start(self) -> Factors:
        """The best factors of one preconditioned step from X = 0, where attention is uniform."""
        at_zero = Unknowns(jnp.zeros(self.problem.shapes.X, self.problem.dtype), self.Y)
        gradient = self.joint.value_and_grad(at_zero)[1].X
        step = -self.joint.preconditioner(at_zero).parts.X.solve(gradient, relative=1e-2)
        return shortened(self.value, Factors.nearest(step, self.rank))

    def _at(self, x: Factors) -> Unknowns:
        return Unknowns(x.product(), self.Y)

    @compiled()
    def value(self, x: Factors) -> jax.Array:
        """The loss, a scalar."""
        return self.joint.value(self._at(x))

    @compiled()
    def value_and_grad(self, x: Factors) -> tuple[jax.Array, Factors]:
        """The loss and its gradient."""
        value, gradient = self.joint.value_and_grad(self._at(x))
        return value, _chained(gradient.X, x)

    @compiled("gauss_newton", "cache")
    def linearize(self, x: Factors, *, gauss_newton: bool = False, cache: Cache = "auto") -> Linearization:
        """Value, gradient and products at x; see `OneLayerObjective.linearize` for `cache`."""
        line = self.joint.linearize(self._at(x), gauss_newton=gauss_newton, cache=cache)
        return KnownValuesLinearization(line.value, _chained(line.gradient.X, x), line, x, gauss_newton)

    @compiled("gauss_newton")
    def value_grad_hessian(self, x: Factors, *, gauss_newton: bool = False) -> tuple[jax.Array, Factors, jax.Array]:
        """Value, gradient and the dense Hessian by one product per unknown: for small sizes."""
        line = self.linearize(x, gauss_newton=gauss_newton)
        return line.value, line.gradient, by_products(line, x)

    @compiled()
    def preconditioner(self, x: Factors) -> Blocks:
        """`S ⊗ (Kᵀ M K)` for Q and `M ⊗ (Qᵀ S Q)` for K, S ⊗ M that of the joint objective for X."""
        of_x = self.joint.preconditioner(self._at(x)).parts.X
        rows, columns = jnp.max(of_x.eigenvalues, axis=1), jnp.max(of_x.eigenvalues, axis=0)
        # The eigenvalues are a product; both factors get the whole of its scale, which is taken out once.
        largest = jnp.max(rows)
        columns = columns / jnp.where(largest > 0, largest, 1)
        S, M = _symmetric(of_x.left, rows), _symmetric(of_x.right, columns)
        right_q, right_k = (tt.matmul(B.T, tt.matmul(A, B)) for A, B in ((M, x.K), (S, x.Q)))
        parts = (Kronecker.of(S, right_q, shift=of_x.shift), Kronecker.of(M, right_k, shift=of_x.shift))
        return Blocks(Factors._make(parts))


def _chained(G: jax.Array, x: Factors) -> Factors:
    """`(G K, Gᵀ Q)`."""
    return Factors(tt.matmul(G, x.K), tt.matmul(G.T, x.Q))


def _symmetric(vectors: jax.Array, eigenvalues: jax.Array) -> jax.Array:
    return tt.matmul(vectors * eigenvalues[None, :], vectors.T)


@pytree_dataclass("gauss_newton")
class KnownValuesLinearization(Linearization):
    """A `KnownValues` at one point."""

    value: jax.Array
    gradient: Factors
    joint: Any
    x: Factors
    gauss_newton: bool = False

    @compiled()
    def hvp(self, v: Factors) -> Factors:
        """One joint product, and when exact what the gradient in X couples."""
        moved = tt.matmul(v.Q, self.x.K.T) + tt.matmul(self.x.Q, v.K.T)
        out = _chained(self.joint.hvp(Unknowns(moved, jnp.zeros_like(self.joint.gradient.Y))).X, self.x)
        if self.gauss_newton:
            return out
        return jax.tree.map(jnp.add, out, _chained(self.joint.gradient.X, v))
