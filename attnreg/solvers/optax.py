"""First-order solvers: any optax optimiser, and gradient descent with a step size from the curvature."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attnreg.objectives.base import Objective
from attnreg.solvers.base import Solver, State, add_counts, count, select, tree_norm
from attnreg.solvers.result import Status


@dataclasses.dataclass(frozen=True)
class Optax(Solver):
    """Any optax gradient transformation on an objective's closed-form gradient.

    Args:
        optimizer: for example `optax.adam(1e-2)` or `optax.lbfgs()`; line searches get `value_fn`. Build it once: a new
            optimizer object is a new static argument, hence a new compilation.
        tol: stop at gradient norm ≤ tol × its norm at the start. max_steps: updates.

    The loss is divided by its value at the start, so step sizes and thresholds mean the same on every problem
    (unscaled, the line searches of most libraries stop at once on small losses).

    Cost per step: one value and gradient, plus what the optimiser's line search asks for (counted).
    """

    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs
    tol: float = 1e-8
    max_steps: int = 1000

    def init(self, objective: Objective, params: Any) -> State:
        """Value, gradient and the optimiser's state."""
        value, gradient = objective.value_and_grad(params)
        with _as_optax_expects():
            inner = self.optimizer.init(params)
        return self.start(params, value, gradient, damping=jnp.nan, inner=inner, counts=count(values=1, gradients=1))

    def step(self, objective: Objective, state: State) -> State:
        """One update of the optimiser."""
        scale = jnp.where(state.start_value > 0, state.start_value, jnp.ones_like(state.start_value))
        value_fn = _with_closed_form_gradient(objective, scale, state.params)
        gradient = jax.tree.map(lambda g: g / scale, state.gradient)
        optimizer = optax.with_extra_args_support(self.optimizer)
        with _as_optax_expects():
            updates, inner = optimizer.update(
                gradient, state.inner, state.params, value=state.value / scale, grad=gradient, value_fn=value_fn
            )
            params = optax.apply_updates(state.params, updates)
        inner = _as_typed(inner, state.inner)
        value, gradient = self._evaluate(objective, inner, params, scale)
        norm = tree_norm(gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        # A step to infinity ends the run where it stood before, not at NaN.
        old = (state.params, state.value, state.gradient, state.gradient_norm)
        params, value, gradient, norm = select(finite, (params, value, gradient, norm), old)
        searched = optax.tree_utils.tree_get(inner, "num_linesearch_steps")
        extra = 1 if searched is None else searched
        return state._replace(
            params=params,
            value=value,
            gradient=gradient,
            gradient_norm=norm,
            inner=inner,
            status=jnp.where(finite, state.status, Status.STALLED).astype(jnp.int32),
            steps=state.steps + 1,
            counts=add_counts(state.counts, count(values=extra, gradients=extra)),
        )

    def _evaluate(self, objective, inner, params, scale):
        """Value and gradient at the new point, from the line search when it left them behind."""
        value = optax.tree_utils.tree_get(inner, "value")
        gradient = optax.tree_utils.tree_get(inner, "grad")
        if value is None or gradient is None:
            return objective.value_and_grad(params)
        return value * scale, jax.tree.map(lambda g: g * scale, gradient)


@contextlib.contextmanager
def _as_optax_expects():
    """JAX's default promotion rules: optax mixes integer and float types, which strict rules would refuse."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _as_typed(tree: Any, like: Any) -> Any:
    """`tree` in the dtypes of `like`: where 64-bit types are on, optax searches lines in float64 on float32 data."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.asarray(y).dtype), tree, like)


def _with_closed_form_gradient(objective: Objective, scale: jax.Array, like: Any):
    """The scaled loss as a function whose reverse-mode derivative is the closed form (for line searches).

    It is evaluated in the dtypes of `like`, whatever the line search hands in.
    """

    @jax.custom_vjp
    def value_fn(params):
        return objective.value(_as_typed(params, like)) / scale

    def forward(params):
        value, gradient = objective.value_and_grad(_as_typed(params, like))
        return value / scale, _as_typed(jax.tree.map(lambda g: g / scale, gradient), params)

    def backward(gradient, cotangent):
        return (jax.tree.map(lambda g: jnp.asarray(cotangent, g.dtype) * g, gradient),)

    value_fn.defvjp(forward, backward)  # pyright: ignore[reportFunctionMemberAccess]
    return value_fn
