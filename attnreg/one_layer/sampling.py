"""The joint one-layer Hessian from sampled queries: blocks `A_[j] = a_jᵀ ⊗ A2` of the rows of A1 ⊗ A2."""

import dataclasses

import jax
import jax.numpy as jnp

from attnreg import tensor_trick as tt
from attnreg.one_layer import rows as ol
from attnreg.one_layer.objective import OneLayerObjective, Parts, packed_parts
from attnreg.one_layer.problem import Unknowns
from attnreg.sampling import draw, leverage_scores
from attnreg.streaming import sum_over_blocks

# Queries per compiled block of the sampled pass.
BLOCK = 64


def sampled_joint_hessian(key: jax.Array, objective: OneLayerObjective, params: Unknowns, *, samples: int) -> jax.Array:
    """An unbiased estimate of the joint Hessian over `ravel_pytree((X, Y))` from `samples` queries.

    The part in which X takes part is `Σ_j` over queries; query j is drawn with probability ∝ its leverage in [A1, Z]
    and its whole block, low-rank part included, is computed exactly and weighted by the inverse. The Y block 2ZᵀZ ⊗ I
    is a gradient's worth of work and stays exact. Drawing single keys as well would not help: the low-rank part
    `N_j Y Yᵀ N_jᵀ` is a product of two sums over keys, whose estimate is biased unless they are drawn twice.

    Args:
        key: PRNG key. objective, params: where. samples: queries to draw, with replacement.

    Precision: relative spectral error falls as 1/√samples (tests/test_sampling.py, configs/greedy_newton.py).
    Cost: one pass O(n·m·(d2 + d3)) for Z, and samples/n of an exact Hessian.
    Source: arXiv 2309.07418 for the algorithm; the sampling derived in docs/theory/greedy_newton.md.
    """
    problem = objective.problem
    k, n, _, d1, d2 = problem.sizes
    d3, c = params.Y.shape

    def attended(rows):
        kept = ol.fresh_only(rows, rows.z)
        return 2 * tt.matmul(kept.T, kept)

    yy = objective.sum(attended, params) + problem.ridge_y * jnp.eye(d3, dtype=problem.dtype)
    # Half of every draw is uniform: no query's weight then exceeds twice n / samples.
    leverage = jax.vmap(leverage_scores)(problem.A1).reshape(-1)
    probability = 0.5 * leverage / jnp.sum(leverage) + 0.5 / (k * n)
    which = draw(probability, jax.random.uniform(key, (samples,), problem.dtype))
    weights = 1 / (samples * probability[which])

    def one(j, weight):
        small = _single_query(problem, j // n, j % n)
        return sum_over_blocks(
            ol.streamable(small),
            lambda block: packed_parts(ol.on_rows(small, params, block), params, False, weight[None])[:3],
        )

    def scan(total, chunk):
        parts = jax.vmap(one)(*chunk)
        return jax.tree.map(lambda t, p: t + jnp.sum(p, axis=0), total, parts), None

    shapes = jax.eval_shape(one, which[0], weights[0])
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    block = min(BLOCK, samples)
    padding = -samples % block
    chunks = (jnp.pad(which, (0, padding)), jnp.pad(weights, (0, padding)))
    chunks = jax.tree.map(lambda x: x.reshape(-1, block), chunks)
    (packed, direct, swapped), _ = jax.lax.scan(scan, zero, chunks)
    xx = tt.unpack_hessian(packed, d1, d2) + problem.ridge * jnp.eye(d1 * d2, dtype=problem.dtype)
    xy = direct.reshape(d1, d3, d2, c).transpose(0, 2, 1, 3) + swapped.reshape(d1, c, d2, d3).transpose(0, 2, 3, 1)
    return Parts(xx, xy.reshape(d1 * d2, d3 * c), yy).dense(c)


def _single_query(problem, document, row):
    """The problem of one query of one document, under jit: no checks run on traced data."""

    def pick(x, axis, index):
        return x if x is None or x.shape[axis] == 1 else jax.lax.dynamic_slice_in_dim(x, index, 1, axis)

    def both(x):
        return x if x is None else pick(pick(x, 0, document), 1, row)

    changes = dict(A1=both(problem.A1), B=both(problem.B), mask=both(problem.mask), weight=both(problem.weight))
    changes |= dict(A2=pick(problem.A2, 0, document), A3=pick(problem.A3, 0, document))
    leaves = {f.name: changes.get(f.name, getattr(problem, f.name)) for f in dataclasses.fields(problem)}
    if problem.causal:
        order = jnp.arange(problem.A2.shape[1])[None, None, :] <= row
        leaves["mask"] = order if leaves["mask"] is None else order & leaves["mask"]
        leaves["causal"] = False
    small = object.__new__(type(problem))
    for name, value in leaves.items():
        object.__setattr__(small, name, value)
    return small
