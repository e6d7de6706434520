"""Where a solver stands, and the small algebra that every step does with it."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.reprs import compact_repr
from attnreg.solvers.result import Counts


@compact_repr
class State(NamedTuple):
    """Where a solver stands.

    Args:
        params: the point, a pytree. value, gradient, gradient_norm: there; scalars, and a pytree shaped like params.
        start_value, start_gradient_norm: scalars, at the start.
        status: int32 scalar, a `Status`. steps: int32 scalar.
        counts: (4,) int32, what was evaluated, in the order of `Counts`: one array, since tiny problems pay for each.
        inner: the solver's own memory (a damping, a cached Hessian, an optax state).
    """

    params: Any
    value: jax.Array
    gradient: Any
    gradient_norm: jax.Array
    start_value: jax.Array
    start_gradient_norm: jax.Array
    status: jax.Array
    steps: jax.Array
    counts: jax.Array
    inner: Any


def tree_dot(a: Any, b: Any) -> jax.Array:
    """Inner product of two pytrees, a scalar."""
    return cast(jax.Array, sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def tree_norm(a: Any) -> jax.Array:
    """Euclidean norm of a pytree, a scalar; squares neither underflow nor overflow."""
    leaves = jax.tree.leaves(a)
    top = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x)) for x in leaves])
    unit = jnp.where((top > 0) & jnp.isfinite(top), top, jnp.ones_like(top))
    return unit * jnp.sqrt(tree_dot(*[[x / unit for x in leaves]] * 2))


def tree_axpy(scale: Any, a: Any, b: Any) -> Any:
    """`scale · a + b`, shaped like both."""
    return jax.tree.map(lambda x, y: scale * x + y, a, b)


def count(**counts: int | jax.Array) -> jax.Array:
    """The named entries of `Counts`, zero elsewhere, (4,) int32."""
    numbers = [counts.get(name, 0) for name in Counts._fields]
    if all(isinstance(number, int) for number in numbers):
        return jnp.asarray(np.asarray(numbers, np.int32))
    return jnp.stack([jnp.asarray(number, jnp.int32) for number in numbers])


def rounding_of_value(state: State) -> jax.Array:
    """Size of rounding errors in the loss: residuals carry eps × the targets' size, `√start_value`."""
    eps = jnp.finfo(state.value.dtype).eps
    return 8 * eps * (jnp.abs(state.value) + jnp.sqrt(jnp.abs(state.value * state.start_value)))


def acceptable(
    state: State, value: jax.Array, gradient_norm: jax.Array, predicted: jax.Array, *, least: float = 1e-4
) -> tuple[jax.Array, jax.Array]:
    """Whether to take a trial point, and the ratio of actual to predicted decrease, of which `least` is asked.

    Below rounding error of the loss the ratio says nothing and the gradient decides.
    """
    finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    actual = jnp.where(finite, state.value - value, -jnp.inf)
    noise = rounding_of_value(state)
    blind = (predicted <= noise) & (jnp.abs(actual) <= 4 * noise)
    ratio = jnp.where(blind, jnp.where(gradient_norm < state.gradient_norm, 1.0, 0.0), actual / predicted)
    return finite & (ratio > least) & (predicted > 0), ratio.astype(state.value.dtype)


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Pytree `where`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def moved(state: State, accepted: jax.Array, params: Any, value: jax.Array, gradient: Any, norm: jax.Array) -> State:
    """`state` at the trial point where it was accepted, where it stood elsewhere."""
    old = (state.params, state.value, state.gradient, state.gradient_norm)
    params, value, gradient, norm = select(accepted, (params, value, gradient, norm), old)
    return state._replace(params=params, value=value, gradient=gradient, gradient_norm=norm)


def counted(state: State, **counts: int | jax.Array) -> State:
    """`state` with the named counts added."""
    return state._replace(counts=state.counts + count(**counts))
