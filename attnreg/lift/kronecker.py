"""Preconditioners: Kronecker-factored curvature `S ⊗ M + shift·I`, and one such block for each part of an unknown.

Every preconditioner has the four methods of `Preconditioner`, so that a solver never asks which one it has.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from attnreg.lift.tensor_trick import matmul
from attnreg.problems.checks import pytree_dataclass

# One matrix after the other, under vmap too: on the CPU a program with two or more *batched* factorisations of a few
# hundred columns waits for itself for ever (jaxlib 0.10.2, two cores; tests/lift/test_kronecker.py).
_eigh = jax.custom_batching.sequential_vmap(
    lambda matrix: tuple(jax.lax.linalg.eigh(matrix, symmetrize_input=False)[::-1])
)


class Preconditioner(Protocol):
    """A positive semidefinite matrix P over the unknowns, cheap to apply and to invert.

    `relative` adds that many times P's own scale, its mean eigenvalue, to every eigenvalue: the damping of a solver.
    """

    def apply(self, v: Any, /, *, relative: jax.Array | float = 0.0) -> Any:
        """`(P + relative·scale) v`, shaped like v."""
        ...

    def solve(self, v: Any, /, *, relative: jax.Array | float = 0.0) -> Any:
        """`(P + relative·scale)⁻¹ v`, shaped like v."""
        ...

    def scale(self) -> Any:
        """Mean eigenvalue, a scalar for each block."""
        ...

    def largest(self) -> jax.Array:
        """Largest eigenvalue, a scalar."""
        ...


@pytree_dataclass()
class Kronecker:
    """`V ↦ S V M + shift·V` for symmetric positive semidefinite S (d1, d1), M (d2, d2), V (d1, d2).

    Stored as eigenvectors left (d1, d1), right (d2, d2) and eigenvalues (d1, d2), so that the damped inverse is exact
    for any damping; shift is a scalar.
    """

    left: jax.Array
    right: jax.Array
    eigenvalues: jax.Array
    shift: jax.Array

    @classmethod
    def of(cls, S: jax.Array, M: jax.Array, *, shift: jax.Array | float = 0.0) -> "Kronecker":
        """From S (d1, d1) and M (d2, d2), without derivative. Cost: two symmetric eigendecompositions, O(d1³ + d2³)."""
        # What it helps to solve does not depend on it, and `_eigh` has no reverse mode.
        S, M = jax.lax.stop_gradient((S, M))
        s, left = _eigh((S + S.T) / 2)
        m, right = _eigh((M + M.T) / 2)
        eigenvalues = jnp.maximum(s, 0)[:, None] * jnp.maximum(m, 0)[None, :]
        return cls(left, right, eigenvalues, jnp.asarray(shift, S.dtype))

    def scale(self) -> jax.Array:
        """Mean eigenvalue, a scalar."""
        return jnp.mean(self.eigenvalues) + self.shift

    def largest(self) -> jax.Array:
        """Largest eigenvalue, a scalar."""
        return jnp.max(self.eigenvalues) + self.shift

    def apply(self, V: jax.Array, *, relative: jax.Array | float = 0.0) -> jax.Array:
        """`(S ⊗ M + shift + relative·scale) V`, shaped like V (d1, d2)."""
        return self.shifted(V, relative * self.scale())

    def solve(self, V: jax.Array, *, relative: jax.Array | float = 0.0) -> jax.Array:
        """`(S ⊗ M + shift + relative·scale)⁻¹ V`, shaped like V (d1, d2)."""
        return self.shifted_solve(V, relative * self.scale())

    def shifted(self, V: jax.Array, damping: jax.Array | float) -> jax.Array:
        """`(S ⊗ M + shift + damping) V` for an absolute damping."""
        return self._rotated(V, self.eigenvalues + (self.shift + damping))

    def shifted_solve(self, V: jax.Array, damping: jax.Array | float) -> jax.Array:
        """`(S ⊗ M + shift + damping)⁻¹ V`, with directions below rounding error left at the floor eps·max."""
        floor = jnp.finfo(V.dtype).eps * jnp.max(self.eigenvalues)
        floor = jnp.maximum(floor, jnp.finfo(V.dtype).tiny)
        return self._rotated(V, 1 / jnp.maximum(self.eigenvalues + (self.shift + damping), floor))

    def _rotated(self, V: jax.Array, scale: jax.Array) -> jax.Array:
        inner = matmul(matmul(self.left.T, V), self.right) * scale
        return matmul(matmul(self.left, inner), self.right.T)


@pytree_dataclass("common")
class Blocks:
    """A block-diagonal preconditioner: one `Kronecker` for each part of the unknown.

    Args:
        parts: the unknown's own container (`Factors`, `Unknowns`) with a `Kronecker` in the place of each array.
        common: True damps all blocks by the same amount, relative to the smallest scale among them, which is small for
            every block when their units differ; False damps each relative to its own scale.
    """

    parts: Any
    common: bool = False

    def _each(self, function: Any, *trees: Any) -> Any:
        return type(self.parts)(*(function(*leaves) for leaves in zip(self.parts, *trees, strict=True)))

    def scale(self) -> Any:
        """Mean eigenvalue of each block, or the smallest of them for each: scalars in the unknown's container."""
        scales = [part.scale() for part in self.parts]
        if self.common:
            scales = [jnp.min(jnp.stack(scales))] * len(scales)
        return type(self.parts)(*scales)

    def largest(self) -> jax.Array:
        """Largest eigenvalue of all blocks, a scalar."""
        return jnp.max(jnp.stack([part.largest() for part in self.parts]))

    def apply(self, v: Any, *, relative: jax.Array | float = 0.0) -> Any:
        """Each block's `(P + relative·scale) v`, shaped like v."""
        return self._each(lambda part, x, scale: part.shifted(x, relative * scale), v, self.scale())

    def solve(self, v: Any, *, relative: jax.Array | float = 0.0) -> Any:
        """Each block's `(P + relative·scale)⁻¹ v`, shaped like v."""
        return self._each(lambda part, x, scale: part.shifted_solve(x, relative * scale), v, self.scale())
