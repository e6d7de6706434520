"""What the objectives of an attention map compute on a block of rows, and check before."""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import Block, BlockRule, block_rule
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import check_integer
from attnreg.problems.registry import find_loss
from attnreg.rows import logit_regularizer
from attnreg.rows.capping import capped, through
from attnreg.rows.curvature import Curvature, RowTerms


def row_terms(problem: AttentionRegression, block: Block, s: jax.Array) -> RowTerms:
    """The problem's row function and regularizer on a block of logits s (r, m)."""
    row = find_loss(problem.loss).row
    if problem.scale is None and problem.soft_cap is None:
        terms = row(s, block.b, block.mask)
    else:
        seen = capped(s, problem.scale, problem.soft_cap)
        terms = through(row(seen.logits, block.b, block.mask), seen)
    return regularized(terms, s, block.weight, block.mask)


def regularized(terms: RowTerms, s: jax.Array, weight: jax.Array | None, mask: jax.Array | None) -> RowTerms:
    """Some rows with the regularizer `½‖w∘s‖²` of their logits s (r, m); as they are without a weight."""
    if weight is None:
        return terms
    extra = logit_regularizer(s, weight, mask)

    def plus(curvature: Curvature) -> Curvature:
        return curvature._replace(diag=curvature.diag + extra.hessian.diag)

    return RowTerms(
        terms.value + extra.value,
        terms.gradient + extra.gradient,
        plus(terms.hessian),
        plus(terms.gauss_newton),
    )


def curvature_of(terms: RowTerms, gauss_newton: bool | jax.Array) -> Curvature:
    """The exact or the Gauss–Newton curvature of some rows; a boolean scalar chooses while the program runs."""
    if isinstance(gauss_newton, bool):
        return terms.gauss_newton if gauss_newton else terms.hessian
    yes, no = (_with_low(a, b) for a, b in ((terms.gauss_newton, terms.hessian), (terms.hessian, terms.gauss_newton)))
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(gauss_newton, a, b), yes, no)


def _with_low(curvature: Curvature, other: Curvature) -> Curvature:
    """The same matrices, with a part of rank two that is zero where only the other has one."""
    if curvature.low is not None or other.low is None:
        return curvature
    return curvature._replace(low=jax.tree.map(jnp.zeros_like, other.low))


def check_streaming(objective: Any) -> None:
    """Refuse a block size that is no number of rows and no rule; None becomes the rule of the platform.

    The rule is a static field, so a program that was compiled for one is not taken for another.
    """
    if objective.block_rows is None:
        object.__setattr__(objective, "block_rows", block_rule(None))
    elif not isinstance(objective.block_rows, BlockRule):
        check_integer("block_rows", objective.block_rows, at_least=1)


def all_devices(axis_name: str | None) -> int:
    """How many devices share the rows: 1 outside `shard_map`."""
    return 1 if axis_name is None else jax.lax.psum(1, axis_name)


def over_devices(total: Any, axis_name: str | None) -> Any:
    """A pytree of sums over the rows of a device, any shape (…), summed over all devices that share the rows."""
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def rounding_of_rows(terms: RowTerms, s: jax.Array) -> jax.Array:
    """Rounding errors of the row gradients at logits s (r, m): eps·(|γ| + |curvature|·(1 + |s|)), shaped like s."""
    moved = jnp.abs(terms.gauss_newton.diag) * (1 + jnp.abs(s))
    return jnp.finfo(s.dtype).eps * (jnp.abs(terms.gradient) + moved)


def kronecker_sums(lift: jax.Array, terms: RowTerms, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`Σ tr(M_j) a_j a_jᵀ`, `Σ ‖a_j‖² M_j` and `Σ tr(M_j) ‖a_j‖²` over some rows, M_j Gauss–Newton."""
    curvature = terms.gauss_newton
    norms = jnp.sum(lift**2, axis=1)
    traces = jnp.maximum(tt.block_traces(curvature, keys), 0)
    left = tt.matmul((lift * traces[:, None]).T, lift)
    return left, tt.weighted_block_sum(curvature, keys, norms), jnp.sum(traces * norms)


def normalised_kronecker(left: jax.Array, right: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The factors S and M whose product has the trace of the whole, from `kronecker_sums` over all rows."""
    return left, right / jnp.where(total > 0, total, jnp.ones_like(total))


def fresh_value(block: Block, terms: RowTerms) -> jax.Array:
    """The loss of the rows of a block that no earlier block has done, a scalar."""
    return jnp.sum(jnp.where(block.fresh, terms.value, jnp.zeros((), terms.value.dtype)))
