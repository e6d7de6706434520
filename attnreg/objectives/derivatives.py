"""Derivative rules of objectives: what JAX uses when a `value` or a `value_and_grad` is itself differentiated.

In the unknowns these are the closed forms, which stay finite where autodiff of a masked or saturated row does not:

    value            its derivative is `⟨gradient, dx⟩`
    value_and_grad   that, and `H dx` for the gradient

In the data (arrays of the problem) there is no closed form. This is the only module of closed forms that uses autodiff.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero


def with_rule(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method` itself, or with its rule when it is called `value` or `value_and_grad`."""
    rule = {"value": _of_value, "value_and_grad": _of_value_and_grad}.get(method.__name__)
    if rule is None:
        return method

    @jax.custom_jvp
    @functools.wraps(method)
    def ruled(objective: Any, x: Any) -> Any:
        return method(objective, x)

    def jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
        (objective, x), (of_data, of_x) = primals, tangents
        parts = []
        if moves(of_x):
            parts.append(rule(method, objective, x, instantiated(of_x)))
        if moves(of_data) or not parts:
            parts.append(jax.jvp(lambda o: method(_plain(o), x), (objective,), (instantiated(of_data),)))
        return parts[0][0], functools.reduce(functools.partial(jax.tree.map, jnp.add), [part[1] for part in parts])

    ruled.defjvp(jvp, symbolic_zeros=True)
    return ruled


def moves(tangent: Any) -> bool:
    """Whether any array of a pytree of tangents is not known to be zero."""
    return not all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(tangent))


def instantiated(tangent: Any) -> Any:
    """A pytree of tangents in which known zeros are arrays of zeros."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, SymbolicZero):
            return leaf
        leaf = cast(Any, leaf)
        if leaf.dtype == jax.dtypes.float0:
            return np.zeros(leaf.shape, jax.dtypes.float0)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(one, tangent)


def _plain(objective: Any) -> Any:
    """The objective without kernels, of which JAX has no derivatives."""
    return objective.differentiable() if hasattr(objective, "differentiable") else objective


def _inner(a: Any, b: Any) -> jax.Array:
    return cast(jax.Array, sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def _of_value(method: Callable[..., Any], objective: Any, x: Any, v: Any) -> tuple[Any, Any]:
    del method
    value, gradient = objective.value_and_grad(x)
    return value, _inner(gradient, v)


def _of_value_and_grad(method: Callable[..., Any], objective: Any, x: Any, v: Any) -> tuple[Any, Any]:
    objective = _plain(objective)
    if not getattr(objective, "TRANSPOSABLE", False):
        return jax.jvp(lambda z: method(objective, z), (x,), (v,))
    line = objective.linearize(x)
    return (line.value, line.gradient), (_inner(line.gradient, v), line.hvp(v))
