"""Trying points: one evaluation that is taken or not, and the length to try after a failure."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.solvers.state import State, acceptable, counted, moved, tree_norm


def flat_gradient(state: State) -> jax.Array:
    """The gradient as a vector."""
    return ravel_pytree(state.gradient)[0]


def move(
    objective: Any, state: State, delta: jax.Array, predicted: jax.Array
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """Try one point: the state after it, whether it was taken, actual over predicted decrease, and the loss there."""
    flat, unravel = ravel_pytree(state.params)
    trial = unravel(flat + delta)
    value, gradient = objective.value_and_grad(trial)
    norm = tree_norm(gradient)
    accepted, ratio = acceptable(state, value, norm, predicted)
    state = counted(moved(state, accepted, trial, value, gradient, norm), values=1, gradients=1)
    return state, accepted, ratio, value


def interpolate(
    length: jax.Array, slope: jax.Array, value: jax.Array, trial: jax.Array, *, least: float = 0.05
) -> jax.Array:
    """A shorter length, `least` to a half of it, where a parabola has its minimum.

    The parabola goes through the loss, its slope (times the length) and the trial; a tenth where the trial is not
    finite or no parabola opens upwards.
    """
    rise = trial - value - slope
    wanted = jnp.where(rise > 0, -slope / (2 * jnp.where(rise > 0, rise, 1)), 0.1)
    return length * jnp.clip(jnp.where(jnp.isfinite(trial), wanted, 0.1), least, 0.5)
