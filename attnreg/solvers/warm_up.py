"""The warm-up of Newton's method: as near the minimum as gradients and a Kronecker approximation bring it cheaply."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.solvers.secant import corrected_solve, no_pairs, push
from attnreg.solvers.state import State, add_counts, count, select, tree_norm
from attnreg.solvers.trial import flat_gradient, interpolate, move

RENEW = 12  # steps after which the Kronecker approximation is made anew
SETTLED = 0.1  # gradient norm, relative to the start's, that ends the warm-up


def settled_norm(state: State, tol: float) -> jax.Array:
    """The gradient norm at which the warm-up has done its work."""
    return jnp.maximum(SETTLED, tol) * state.start_gradient_norm


def kronecker_warm_up(objective: Any, state: State, *, budget: int, memory: int, tol: float) -> State:
    """Quasi-Newton steps around the Kronecker approximation, renewed every `RENEW` steps: a state nearer the minimum.

    BFGS corrections of `objective.kronecker`, one value and gradient per evaluation, no Hessian. Ends when the gradient
    norm is `SETTLED` (or tol, if larger) of that at the start, after `budget` evaluations, or when no step is left.

    Args:
        state: where to begin; values, gradients and counts are kept up to date. budget: evaluations. memory: pairs.

    Cost: per evaluation a value and gradient, a Kronecker solve and 4·memory·p multiplications; one Kronecker
    approximation every `RENEW` steps.
    """
    goal = settled_norm(state, tol)
    renew = objective.preconditioner

    def unfinished(carry):
        state, _, _, length, _, tries = carry
        return (tries < budget) & (state.gradient_norm > goal) & (length > 1e-6)

    def one(carry):
        old, pairs, kronecker, length, taken, tries = carry
        _, unravel = ravel_pytree(old.params)
        g = flat_gradient(old)

        def solve(v):
            # Undetermined directions have no gradient; a little damping keeps rounding from moving along them.
            return ravel_pytree(kronecker.solve(unravel(v), relative=1e-6))[0]

        delta = -length * corrected_solve(pairs, solve, g)
        state, accepted, _, value = move(objective, old, delta, -g @ delta)
        taken = taken + accepted.astype(jnp.int32)
        pairs = push(pairs, delta, flat_gradient(state) - g)
        stale = accepted & (taken % RENEW == 0)
        kronecker = jax.lax.cond(stale, lambda: renew(state.params), lambda: kronecker)
        pairs = select(stale, no_pairs(memory, g), pairs)
        shorter = interpolate(length, g @ delta, old.value, value)
        return state, pairs, kronecker, jnp.where(accepted, jnp.ones_like(length), shorter), taken, tries + 1

    zero = jnp.int32(0)
    start = (state, no_pairs(memory, flat_gradient(state)), renew(state.params), jnp.ones_like(state.value), zero, zero)
    return jax.lax.while_loop(unfinished, one, start)[0]


def coarse_warm_up(dtype: str, objective: Any, state: State, *, budget: int, memory: int, tol: float) -> State:
    """`kronecker_warm_up` in another precision; its point is judged, and if worse refused, in the objective's own."""
    coarse_objective, coarse_state = as_dtype(dtype, (objective, state._replace(inner=())))
    coarse = kronecker_warm_up(coarse_objective, coarse_state, budget=budget, memory=memory, tol=tol)
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), coarse.params, state.params)
    value, gradient = objective.value_and_grad(params)
    counts = add_counts(coarse.counts, count(values=1, gradients=1))
    done = state._replace(
        params=params, value=value, gradient=gradient, gradient_norm=tree_norm(gradient), counts=counts
    )
    # Rounding, or an overflow of the narrower range, may have spoiled it.
    return select(value <= state.value, done, state._replace(counts=counts))


def as_dtype(dtype: str, tree: Any) -> Any:
    """A pytree with its floating-point arrays in another precision."""

    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    return jax.tree.map(cast, tree)
