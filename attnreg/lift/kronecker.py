"""Kronecker-factored curvature `S ⊗ M + shift·I` and its inverse through two small eigendecompositions."""

import jax
import jax.numpy as jnp

from attnreg.lift.tensor_trick import matmul
from attnreg.problems.checks import pytree_dataclass


@pytree_dataclass()
class Kronecker:
    """`V ↦ S V M + shift·V` for symmetric positive semidefinite S (d1, d1), M (d2, d2), V (d1, d2).

    Stored as eigenvectors and eigenvalues, so the damped inverse is exact for any shift.
    """

    left: jax.Array
    right: jax.Array
    eigenvalues: jax.Array
    shift: jax.Array

    @classmethod
    def of(cls, S: jax.Array, M: jax.Array, *, shift: jax.Array | float = 0.0) -> "Kronecker":
        """From the two factors. Cost: two symmetric eigendecompositions, O(d1³ + d2³)."""
        s, left = jnp.linalg.eigh((S + S.T) / 2)
        m, right = jnp.linalg.eigh((M + M.T) / 2)
        eigenvalues = jnp.maximum(s, 0)[:, None] * jnp.maximum(m, 0)[None, :]
        return cls(left, right, eigenvalues, jnp.asarray(shift, S.dtype))

    def mean(self) -> jax.Array:
        """Mean eigenvalue, the scale that relative dampings refer to."""
        return jnp.mean(self.eigenvalues) + self.shift

    def largest(self) -> jax.Array:
        """Largest eigenvalue."""
        return jnp.max(self.eigenvalues) + self.shift

    def _rotated(self, V: jax.Array, scale: jax.Array) -> jax.Array:
        inner = matmul(matmul(self.left.T, V), self.right) * scale
        return matmul(matmul(self.left, inner), self.right.T)

    def apply(self, V: jax.Array, damping: jax.Array | float = 0.0) -> jax.Array:
        """`(S ⊗ M + shift + damping) V`."""
        return self._rotated(V, self.eigenvalues + (self.shift + damping))

    def solve(self, V: jax.Array, damping: jax.Array | float = 0.0) -> jax.Array:
        """`(S ⊗ M + shift + damping)⁻¹ V`, with directions below rounding error left at the floor eps·max."""
        floor = jnp.finfo(V.dtype).eps * jnp.max(self.eigenvalues)
        return self._rotated(
            V,
            1 / jnp.maximum(self.eigenvalues + (self.shift + damping), jnp.maximum(floor, jnp.finfo(V.dtype).tiny)),
        )
