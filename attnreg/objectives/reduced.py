"""Variable projection: Y eliminated in closed form, an objective in X alone with exact derivatives.

The loss is quadratic in Y. With the rows of Z = softmax(A1 X A2ᵀ) A3 of all documents stacked, λ = ridge_y and
v = value_weight,

    Y(X) = argmin_Y ‖Z Y − B‖² + ½ λ ‖Y‖² + ½‖diag(v) A3 Y‖²,      φ(X) = L(X, Y(X)),
    ∇φ = ∇_X L at Y(X),      ∇²φ = L_xx − L_xy (K⁻¹ ⊗ I_c) L_yx,   K = 2 ZᵀZ + λ I + A3ᵀ diag(v²) A3.

(docs/theory/one_layer.md derives both.)
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Kronecker
from attnreg.lift.streaming import BlockRows
from attnreg.lift.triangular import cholesky_solve, triangular_solve
from attnreg.objectives.base import Cache, Linearization, SecondOrderObjective, compiled
from attnreg.objectives.one_layer import OneLayerObjective, best_values
from attnreg.objectives.row_terms import check_streaming
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.one_layer import OneLayerRegression, Unknowns


@pytree_dataclass("block_rows")
class VariableProjection(SecondOrderObjective):
    """The reduced one-layer objective φ(X) = min_Y L(X, Y).

    Y is the solution of a QR factorisation of Z over `√(λ/2) I` and `√½ diag(v) A3`, never of the normal equations.
    λ is at least `2 eps ‖Z‖²`: so Y is defined, and harmless, even where attention is uniform and Z has rank one.

    Args:
        problem: the data; `ridge_y` is λ.
        block_rows: as in `AttentionObjective`.

    Precision: value, gradient, both Hessians and HVP against autodiff through a dense solve
    (tests/objectives/test_reduced.py).
    Cost: as `OneLayerObjective`, plus one more pass over the rows for Z, O(n·d3·(d3 + c)) for Y and, for the Hessian,
    (d1·d2)²·d3·c for the Schur complement. Memory: Z, B and Y only, O(n·(d3 + c)) more.
    Raises: ProblemError for an X of another shape or dtype.
    Source: derived in docs/theory/one_layer.md; Golub and Pereyra's variable projection is the general method.

    Example:
        >>> import jax.numpy as jnp
        >>> A = jnp.eye(3)
        >>> objective = VariableProjection(OneLayerRegression(A, A, A, jnp.full((3, 2), 1 / 3)))
        >>> bool(jnp.abs(objective.value(jnp.zeros((3, 3)))) < 1e-12)
        True
    """

    CACHES: ClassVar[tuple[str, ...]] = OneLayerObjective.CACHES

    problem: OneLayerRegression
    block_rows: BlockRows = None

    def __post_init__(self) -> None:
        check_streaming(self)

    @property
    def joint(self) -> OneLayerObjective:
        """The objective in (X, Y) that this one reduces."""
        return OneLayerObjective(self.problem, self.block_rows)

    def zeros(self) -> jax.Array:
        """X = 0, where attention is uniform, Z has rank one and the gradient is not zero."""
        return jnp.zeros(self.problem.shapes.X, self.problem.dtype)

    @compiled()
    def complete(self, X: jax.Array) -> Unknowns:
        """(X, Y(X))."""
        return Unknowns(X, self._best(X)[0])

    def _best(self, X: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Y(X) and the triangular factor R with `2RᵀR = K`."""
        return best_values(self.problem, self.joint.attended(X))

    @compiled()
    def value(self, X: jax.Array) -> jax.Array:
        """The loss."""
        Z = self.joint.attended(X)
        Y, _ = best_values(self.problem, Z)
        if self.problem.weight is not None:
            return self.joint.value(Unknowns(X, Y))
        residual = tt.matmul(Z, Y) - self.problem.B.reshape(-1, Y.shape[1])
        return jnp.sum(residual**2) + self.joint._ridge_value(Unknowns(X, Y))

    @compiled()
    def value_and_grad(self, X: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss and its gradient."""
        value, gradient = self.joint.value_and_grad(self.complete(X))
        return value, gradient.X

    @compiled("gauss_newton")
    def value_grad_hessian(self, X: jax.Array, *, gauss_newton: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Value, gradient and reduced Hessian; `gauss_newton` is the Schur complement of the joint Gauss–Newton
        matrix."""
        Y, R = self._best(X)
        value, gradient, parts = self.joint.value_grad_parts(Unknowns(X, Y), gauss_newton=gauss_newton)
        p, (d3, c) = parts.xx.shape[0], Y.shape
        # xy K⁻¹ yx with K = 2 RᵀR: one triangular solve and one product.
        sides = parts.xy.reshape(p, d3, c).transpose(1, 0, 2).reshape(d3, p * c)
        half = triangular_solve(R, sides, lower=False, transpose=True)
        half = half.reshape(d3, p, c).transpose(1, 0, 2).reshape(p, d3 * c)
        return value, gradient.X, parts.xx - tt.matmul(half, half.T) / 2

    @compiled("gauss_newton", "cache")
    def linearize(self, X: jax.Array, *, gauss_newton: bool = False, cache: Cache = "auto") -> Linearization:
        """HVPs as two joint products around one solve with K; see `OneLayerObjective.linearize` for `cache`."""
        Y, R = self._best(X)
        line = self.joint.linearize(Unknowns(X, Y), gauss_newton=gauss_newton, cache=cache)
        return ReducedLinearization(line.value, line.gradient.X, line, R, Y)

    @compiled()
    def preconditioner(self, X: jax.Array) -> Kronecker:
        """The X factor of the joint preconditioner at Y(X), an upper bound of the reduced one."""
        return self.joint.preconditioner(self.complete(X)).parts.X

    @compiled()
    def rounding(self, X: jax.Array) -> jax.Array:
        """The size of the rounding error in the gradient's norm at X: that of the joint gradient at (X, Y(X))."""
        return self.joint.rounding(self.complete(X))


@pytree_dataclass()
class ReducedLinearization(Linearization):
    """`V ↦ L_xx V − L_xy K⁻¹ L_yx V` through the joint linearization at (X, Y(X))."""

    value: jax.Array
    gradient: jax.Array
    joint: Any
    R: jax.Array
    Y: jax.Array

    @compiled()
    def hvp(self, v: jax.Array) -> jax.Array:
        """Two joint products: L_xx V and L_yx V, then the answer of Y."""
        first = self.joint.hvp(Unknowns(v, jnp.zeros_like(self.Y)))
        w = -cholesky_solve(self.R.T, first.Y) / 2
        return first.X + self.joint.hvp(Unknowns(jnp.zeros_like(v), w)).X
