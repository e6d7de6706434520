"""The Hessian of a matrix problem with only the diagonal of each row's: `AᵀD̃A`, as arXiv 2304.10411 keeps it."""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import sum_over_blocks
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.row_terms import row_terms
from attnreg.objectives.stored import StoredObjective
from attnreg.problems.checks import ProblemError
from attnreg.rows.curvature import Curvature


def diagonal_hessian(objective: AttentionObjective | StoredObjective, X: jax.Array) -> jax.Array:
    """`Σ_j (a_j a_jᵀ) ⊗ A2ᵀ diag(D̃_j) A2` plus the regularizers, (d1·d2, d1·d2): the rank-two part is left out.

    Args:
        objective: an `AttentionObjective` (single or matrix problem, any loss), or the `StoredObjective` of a single
            problem whose A is sparse. X: (d1, d2), or x (d,).

    Precision: against the dense sum (tests/objectives/test_diagonal.py).
    Cost: n·m·d2²/2 + n·(d1·d2)²/2 multiplications; what it saves over the exact Hessian is O(n·m·d2). From stored
    entries s² flops for a row of s entries; docs/guides/benchmarks.md says from which s on a dense A is faster.
    Raises: ProblemError for another objective.
    Source: arXiv 2304.10411; docs/theory/bounds.md, section 6, says what the approximation is worth.
    """
    if isinstance(objective, StoredObjective):
        return objective.diagonal_hessian(X)
    if not isinstance(objective, AttentionObjective):
        raise ProblemError(f"diagonal_hessian takes an AttentionObjective, not a {type(objective).__name__}")
    objective.check(X)
    problem = objective.problem

    def emit(block: Any) -> jax.Array:
        curvature = row_terms(problem, block, tt.logits(block.query, X, block.keys)).hessian
        kept = tt.curvature_blocks(Curvature(curvature.diag), block.keys)
        return tt.lift_blocks(tt.khatri_rao_square(block.lift), kept)

    packed = sum_over_blocks(problem, emit, block_rows=objective.block_rows)
    d1, d2 = problem.shape
    return tt.unpack_hessian(packed, d1, d2) + problem.ridge * jnp.eye(d1 * d2, dtype=X.dtype)


def diagonal_sampler(
    key: jax.Array, objective: AttentionObjective | StoredObjective, X: jax.Array, *, samples: int
) -> jax.Array:
    """`diagonal_hessian` as `attnreg.solvers.sketched.SketchedNewton` takes a Hessian, (d1·d2, d1·d2).

    Args:
        key, samples: not read; nothing is drawn. objective, X: as in `diagonal_hessian`.

    Cost: that of `diagonal_hessian`.
    """
    return diagonal_hessian(objective, X)
