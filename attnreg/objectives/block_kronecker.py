"""Block-diagonal Kronecker preconditioner for the unknowns (X, Y)."""

import jax
import jax.numpy as jnp

from attnreg.lift.kronecker import Kronecker
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.one_layer import Unknowns


@pytree_dataclass()
class BlockKronecker:
    """`(U, V) ↦ (S U M, K V)`: a `Kronecker` for each unknown."""

    X: Kronecker
    Y: Kronecker

    def mean(self) -> jax.Array:
        """The smaller of the blocks' mean eigenvalues, the scale that relative dampings refer to.

        They carry different units; the smaller one keeps the damping small for both.
        """
        return jnp.minimum(self.X.mean(), self.Y.mean())

    def apply(self, v: Unknowns, damping: jax.Array | float = 0.0) -> Unknowns:
        """The damped matrix times v."""
        return Unknowns(self.X.apply(v.X, damping), self.Y.apply(v.Y, damping))

    def solve(self, v: Unknowns, damping: jax.Array | float = 0.0) -> Unknowns:
        """The damped inverse times v."""
        return Unknowns(self.X.solve(v.X, damping), self.Y.solve(v.Y, damping))
