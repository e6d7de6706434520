"""Trials on one model of the loss: the only place where Newton's method evaluates it after the start.

Warm-up, full step, shorter steps after a failure and chord steps differ in what their directions come from and in when
they end. They share one loop, so that a program holds one value and gradient, and compiles fast.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.lift.triangular import cholesky_solve
from attnreg.solvers.secant import Pairs, corrected_solve, no_pairs, push
from attnreg.solvers.state import State
from attnreg.solvers.trial import flat_gradient, interpolate, move

BACKTRACKS = 2  # shorter steps tried before a direction is given up
RENEW = 12  # steps after which the Kronecker approximation of a warm-up is made anew
SETTLED = 0.1  # gradient norm, relative to the start's, that ends the warm-up


class Model(NamedTuple):
    """A model of the curvature at a point.

    kronecker: a `Preconditioner` for the warm-up, or None without one. factor: Cholesky's, of the damped Hessian
    (p, p). shift: what was added to its diagonal, a scalar.
    """

    kronecker: Any
    factor: jax.Array
    shift: jax.Array


class Rules(NamedTuple):
    """When a search ends. goal: the gradient norm that is enough, a scalar. budget: evaluations of a warm-up at most.

    chord: the largest gradient-norm ratio at which the model is used once more. memory: secant pairs.
    """

    goal: jax.Array
    budget: int
    chord: float
    memory: int


class Search(NamedTuple):
    """Where a search stands.

    state: the best point. pairs: secant pairs on the model. length: of the next trial. tries, taken: trials, and those
    of them that were accepted. accepted, ratio: of the first trial, and its actual over predicted decrease. reached:
    the length of the first trial that was accepted. going: whether another trial is worth it.
    """

    state: State
    pairs: Pairs
    length: jax.Array
    tries: jax.Array
    taken: jax.Array
    accepted: jax.Array
    ratio: jax.Array
    reached: jax.Array
    going: jax.Array


def begin(state: State, memory: int) -> Search:
    """A search at a point, before its first trial."""
    one, none, no = jnp.ones_like(state.value), jnp.int32(0), jnp.asarray(False)
    pairs = no_pairs(memory, flat_gradient(state))
    return Search(state, pairs, one, none, none, no, jnp.zeros_like(one), jnp.zeros_like(one), jnp.asarray(True))


def stale(search: Search, warm: Any) -> jax.Array:
    """Whether a warm-up has come so far that its Kronecker approximation is made anew."""
    return warm & (search.taken > 0) & (search.taken % RENEW == 0) & (search.length == 1)


def trials(objective: Any, search: Search, model: Model, rules: Rules, warm: Any) -> Search:
    """Trials from the first one on this model until it has to be made anew, or none is worth it.

    warm: whether the model is the Kronecker approximation, of a warm-up; a bool, or a boolean scalar.

    Cost: a value and gradient, a solve with the model and 4·memory·p multiplications a trial.
    """
    first = search.tries
    loop = lambda c: c.going & ((c.tries == first) | ~stale(c, warm))  # noqa: E731
    return jax.lax.while_loop(loop, lambda c: _trial(objective, c, model, rules, warm), search)


def _trial(objective: Any, search: Search, model: Model, rules: Rules, warm: Any) -> Search:
    old, length, fresh = search.state, search.length, search.tries == 0
    g = flat_gradient(old)
    delta = -length * corrected_solve(search.pairs, lambda v: _solve(model, v, old.params, warm), g)
    slope = g @ delta
    # A line search asks for a part of the slope. A full step is asked for a part of what its model predicts.
    damped = jnp.where(fresh, model.shift.astype(g.dtype) * (delta @ delta), jnp.zeros_like(slope))
    line = warm | (length < 1)
    state, accepted, ratio, value = move(objective, old, delta, jnp.where(line, -slope, (damped - slope) / 2))
    pairs = push(search.pairs, delta, flat_gradient(state) - g) if rules.memory else search.pairs
    shorter = interpolate(length, slope, old.value, value)
    now = search._replace(
        state=state,
        pairs=pairs,
        length=jnp.where(accepted, jnp.ones_like(length), shorter),
        tries=search.tries + 1,
        taken=search.taken + accepted.astype(jnp.int32),
        accepted=jnp.where(fresh, accepted, search.accepted),
        ratio=jnp.where(fresh, ratio, search.ratio),
        reached=jnp.where(accepted & (search.taken == 0), length, search.reached),
    )
    settling = (now.tries < rules.budget) & (now.length > 1e-6)
    going = _worth_it(search, now, line, accepted, ratio, rules)
    return now._replace(going=jnp.where(warm, settling, going) & (state.gradient_norm > rules.goal))


def _worth_it(before: Search, now: Search, line: Any, accepted: jax.Array, ratio: jax.Array, rules: Rules) -> jax.Array:
    """Whether a factor is used for another trial: after a success a chord step, after a failure a shorter one."""
    fast = now.state.gradient_norm <= rules.chord * before.state.gradient_norm
    chord = accepted & ~line & ((before.tries > 0) | (ratio > 0.1)) & fast & (rules.chord > 0)
    return chord | (~accepted & (before.taken == 0) & (before.tries < BACKTRACKS))


def _solve(model: Model, v: jax.Array, like: Any, warm: Any) -> jax.Array:
    """The inverse of the model times v (p,)."""

    def by_factor():
        size = jnp.linalg.norm(v)
        size = jnp.where(size > 0, size, jnp.ones_like(size))
        # In the factor's precision, whatever the size of v.
        scaled = (v / size).astype(model.factor.dtype)
        return cholesky_solve(model.factor, scaled).astype(v.dtype) * size

    def by_kronecker():
        # Undetermined directions have no gradient; a little damping keeps rounding from moving along them.
        return ravel_pytree(model.kronecker.solve(ravel_pytree(like)[1](v), relative=1e-6))[0]

    return either(warm, by_kronecker, by_factor)


def either(condition: bool | jax.Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()` or `no()`; only one of them is a part of the program where the condition is known."""
    if isinstance(condition, bool):
        return yes() if condition else no()
    return jax.lax.cond(condition, yes, no)
