"""The preconditioner of a head in its factors: a Kronecker product for Q and one for K."""

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Blocks, Kronecker
from attnreg.lift.rotation import angles_of
from attnreg.lift.streaming import Block, rows_of
from attnreg.objectives.factors import Factors
from attnreg.objectives.row_terms import kronecker_sums, normalised_kronecker
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.rotary import Layout, Rotation
from attnreg.rows.curvature import RowTerms

Sums = tuple[jax.Array, ...]


def block_sums(problem: AttentionRegression, block: Block, terms: RowTerms) -> Sums:
    """What the rows of a block add to the sums: those of the full X, or, where heads turn, those of Q and of K.

    With turns, row j has the Gauss–Newton matrix `a_j a_jᵀ ⊗ R_jᵀ N_j R_j` in Q, with
    `N_j = Σ H_j,mm' k_m k_m'ᵀ` of turned keys: summed as it is. In K the turns of the keys
    do not factor; the inputs get `Σ ‖q_j‖² M_j`, the columns
    `Σ_jm h_jm ‖a_m‖² R_mᵀ q_j q_jᵀ R_m` with h the diagonals of H, as if keys of a row were seen one at a time.
    """
    lift = jnp.where(block.fresh[:, None], rows_of(block, problem.A1), jnp.zeros((), problem.dtype))
    keys = problem.A2[block.document]
    if problem.rotary is None:
        return kronecker_sums(lift, terms, keys)
    return _turned_sums(problem.rotary, block, terms, lift, keys)


def _turned_sums(rotation: Rotation, block: Block, terms: RowTerms, lift: jax.Array, keys: jax.Array) -> Sums:
    curvature, r = terms.gauss_newton, block.keys.shape[1]
    angles = angles_of(rotation, block.document, block.start, block.fresh.shape[0])
    norms, sizes = jnp.sum(lift**2, axis=1), jnp.sum(block.lift**2, axis=1)
    seen = jnp.maximum(tt.block_traces(curvature, block.keys), 0)
    each_row = tt.unpack_blocks(tt.curvature_blocks(curvature, block.keys), r)
    right_q = _turned_back(each_row * norms[:, None, None], angles.cos_q, angles.sin_q, rotation.layout)
    left_k = tt.weighted_block_sum(curvature, keys, sizes)
    packed = tt.matmul(curvature.diag.T, tt.khatri_rao_square(block.lift))
    each_key = tt.unpack_blocks(packed, r) * jnp.sum(keys**2, axis=1)[:, None, None]
    right_k = _turned_back(each_key, angles.cos_k, angles.sin_k, rotation.layout)
    left_q = tt.matmul((lift * seen[:, None]).T, lift)
    return (left_q, right_q, jnp.sum(seen * norms), left_k, right_k, jnp.trace(right_k))


def _turned_back(N: jax.Array, cos: jax.Array, sin: jax.Array, layout: Layout) -> jax.Array:
    """`Σ_j R_jᵀ N_j R_j`, (r, r), of symmetric N (j, r, r) and the turns cos, sin (j, p).

    `(R_jᵀ x)_i = C_ji x_i + S_j,i' x_i'` with i' the other column of the pair of i: three weighted sums of the N as
    they are, and only these sums are put in the order of the other columns.
    """
    turns = Rotation(cos[None], sin[None], cos[None], sin[None], layout)
    first, second, rest = turns.split(np.arange(N.shape[1]))  # type: ignore[arg-type]
    other = np.empty(N.shape[1], int)
    other[first], other[second], other[rest] = second, first, rest
    stay = jnp.zeros((len(cos), len(rest)), N.dtype)
    # S of the row i' that N_i counts for.
    own, across = turns.joined(cos, cos, stay + 1), turns.joined(-sin, sin, stay)
    left = own[:, :, None] * N, across[:, :, None] * N
    both = jnp.sum(left[0] * own[:, None, :], axis=0)
    crossed = jnp.sum(left[1] * own[:, None, :], axis=0)[other]
    swapped = jnp.sum(left[1] * across[:, None, :], axis=0)[other][:, other]
    return both + crossed + crossed.T + swapped


def blocks_of(problem: AttentionRegression, total: Sums, x: Factors) -> Blocks:
    """`S ⊗ (Kᵀ M K)` for Q and `M ⊗ (Qᵀ S Q)` for K, S ⊗ M that of the full X; with turns, each its own pair.

    Cost: two symmetric eigendecompositions for each factor, O(d1³ + d2³).
    """
    shift = problem.ridge
    if problem.rotary is None:
        S, M = normalised_kronecker(*total)
        right_q, right_k = tt.matmul(x.K.T, tt.matmul(M, x.K)), tt.matmul(x.Q.T, tt.matmul(S, x.Q))
        return Blocks(Factors._make((Kronecker.of(S, right_q, shift=shift), Kronecker.of(M, right_k, shift=shift))))
    of_q, of_k = (Kronecker.of(*normalised_kronecker(*part), shift=shift) for part in (total[:3], total[3:]))
    return Blocks(Factors._make((of_q, of_k)))
