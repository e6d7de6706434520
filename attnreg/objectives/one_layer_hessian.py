"""Blocks of the joint one-layer Hessian, and the sums behind its preconditioner, from the rows of a block."""

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.objectives import one_layer_rows as ol
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.one_layer import Unknowns
from attnreg.rows.curvature import Curvature


@pytree_dataclass()
class Parts:
    """Blocks of a joint Hessian: xx (p, p), xy (p, d3·c), and yy (d3, d3) standing for `yy ⊗ I_c`."""

    xx: jax.Array
    xy: jax.Array
    yy: jax.Array

    def dense(self, c: int) -> jax.Array:
        """The whole matrix in the order vec(X), vec(Y)."""
        yy = jnp.kron(self.yy, jnp.eye(c, dtype=self.yy.dtype))
        return jnp.block([[self.xx, self.xy], [self.xy.T, yy]])


def packed_parts(
    rows: ol.Rows, params: Unknowns, gauss_newton: bool, weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A block's part of the X block (packed), of both orders of the mixed block, and of yy; `weights` (r,) its rows."""
    r = rows.f.shape[0]
    N = ol.cross_blocks(rows)
    NY = tt.matmul(N, params.Y)
    i, j = tt.triangle(N.shape[1])
    square = 2 * tt.matmul(NY, jnp.swapaxes(NY, 1, 2))[:, i, j]
    logit = ol.penalty_curvature(rows) if gauss_newton else ol.logit_curvature(rows)
    if not gauss_newton or rows.penalty is not None:
        square = square + tt.curvature_blocks(logit, rows.block.keys)
    lift = rows.block.lift
    weighted = lift if weights is None else lift * weights[:, None]

    def lifted(left, right):
        pairs = (weighted[:, :, None] * left[:, None, :]).reshape(r, -1)
        return 2 * tt.matmul(pairs.T, right.reshape(r, -1))

    squares = tt.khatri_rao_square(lift)
    xx = tt.lift_blocks(squares if weights is None else squares * weights[:, None], square)
    swapped = jnp.zeros((), N.dtype) if gauss_newton else lifted(rows.residual, N)
    return xx, lifted(rows.z, NY), swapped, 2 * tt.matmul(ol.fresh_only(rows, rows.z).T, rows.z)


def kronecker_sums(rows: ol.Rows, probes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Left and right factors, their common trace, and 2ZᵀZ."""
    keys, lift = rows.block.keys, rows.block.lift
    h = tt.matmul(rows.values, probes)
    h_mean = tt.matmul(rows.z, probes)
    # N_j Y ω = A2ᵀ (f ∘ (h − ⟨f, h⟩)), one probe after the other.
    sides = jnp.stack(
        [tt.matmul(rows.f * (h[None, :, i] - h_mean[:, i, None]), keys) for i in range(probes.shape[1])], axis=1
    )
    norms = jnp.sum(lift**2, axis=1)
    traces = 2 * jnp.sum(sides**2, axis=(1, 2))
    flat = sides.reshape(-1, keys.shape[1])
    weights = jnp.repeat(2 * norms, sides.shape[1])
    right = tt.matmul((flat * weights[:, None]).T, flat)
    if rows.penalty is not None:
        penalty: Curvature = rows.penalty.hessian
        traces = traces + tt.block_traces(penalty, keys)
        right = right + tt.weighted_block_sum(penalty, keys, norms)
    left = tt.matmul((lift * traces[:, None]).T, lift)
    yy = 2 * tt.matmul(ol.fresh_only(rows, rows.z).T, rows.z)
    return left, right, jnp.sum(traces * norms), yy
