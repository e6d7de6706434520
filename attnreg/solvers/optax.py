"""Any optax optimiser as a solver.

optax is imported where it is used: it takes a seventh of a second, which a process without it need not pay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.problems.checks import ProblemError
from attnreg.solvers.base import Solver
from attnreg.solvers.result import Status, status_of
from attnreg.solvers.state import State, count, counted, moved, tree_norm

if TYPE_CHECKING:
    import optax


class Inner(NamedTuple):
    """The optimiser's own state, and the norm of its last update."""

    optimizer: Any
    moved: jax.Array


@functools.cache
def _optimizer(name: str, options: tuple[tuple[str, Any], ...]) -> optax.GradientTransformationExtraArgs:
    """One object for equal arguments: optimisers are compared by identity, and a new one is a new program."""
    import optax

    make: Callable[..., Any] | None = getattr(optax, name, None)
    if make is None:
        raise ProblemError(f"optax has no optimiser {name!r}; examples are 'adam' and 'lbfgs'")
    return make(**dict(options))


@dataclasses.dataclass(frozen=True)
class Optax(Solver):
    """Any optax gradient transformation on an objective's closed-form gradient.

    Args:
        optimizer: for example `optax.adam(1e-2)` or `optax.lbfgs()`; line searches get `value_fn`. A new optimizer
            object is a new program: build it once, or let `Optax.named` do so.
        tol, max_steps: see `Solver`; a step is one update of the optimiser.

    The loss is divided by its value at the start, so step sizes and thresholds mean the same on every problem
    (unscaled, the line searches of most libraries stop at once on small losses).

    Precision: the gradient norm falls to `tol` times its norm at the start, or to its rounding error; the status says
    which (tests/solvers/test_solver_table.py, tests/solvers/test_verdicts.py).
    Cost: per step one value and gradient, plus what the optimiser's line search asks for (counted).
    Raises: ProblemError for an option out of range or something that is not an optax optimiser.
    Source: the optimiser is optax's.
    """

    CONTROL: ClassVar[str] = "norm of the last update"

    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs
    tol: float | None = None
    max_steps: int = 1000

    def __post_init__(self) -> None:
        import optax

        super().__post_init__()
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise ProblemError(
                f"optimizer is a {type(self.optimizer).__name__}; it must be an optax optimiser, e.g. optax.adam(1e-2)"
            )

    @classmethod
    def named(cls, name: str, *, tol: float | None = None, max_steps: int = 1000, **options: Any) -> Optax:
        """The solver around `optax.<name>(**options)`; equal calls give equal solvers, which compile once.

        >>> Optax.named("adam", learning_rate=0.1) == Optax.named("adam", learning_rate=0.1)
        True
        """
        return cls(_optimizer(name, tuple(sorted(options.items()))), tol=tol, max_steps=max_steps)

    def init(self, objective: Any, params: Any) -> State:
        """Value, gradient and the optimiser's state."""
        value, gradient = objective.value_and_grad(params)
        with _as_optax_expects():
            inner = self.optimizer.init(params)
        inner = Inner(inner, jnp.zeros_like(value))
        return self.begin(params, value, gradient, inner=inner, counts=count(values=1, gradients=1))

    def control(self, state: State) -> jax.Array:
        """The norm of the last update."""
        return state.inner.moved

    def advance(self, objective: Any, state: State) -> State:
        """One update of the optimiser."""
        import optax

        scale = jnp.where(state.start_value > 0, state.start_value, jnp.ones_like(state.start_value))
        value_fn = _with_closed_form_gradient(objective, scale, state.params)
        gradient = jax.tree.map(lambda g: g / scale, state.gradient)
        optimizer = optax.with_extra_args_support(self.optimizer)
        with _as_optax_expects():
            extra: Any = dict(value=state.value / scale, grad=gradient, value_fn=value_fn)
            updates, inner = optimizer.update(gradient, state.inner.optimizer, state.params, **extra)
            params = optax.apply_updates(state.params, updates)
        inner = _as_typed(inner, state.inner.optimizer)
        value, gradient = self._evaluate(objective, inner, params, scale)
        norm = tree_norm(gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        searched = optax.tree_utils.tree_get(inner, "num_linesearch_steps")
        calls = 1 if searched is None else searched
        # A step to infinity ends the run where it stood before, not at NaN.
        state = counted(moved(state, finite, params, value, gradient, norm), values=calls, gradients=calls)
        status = status_of(finite, state.status, Status.STALLED)
        size = tree_norm(updates).astype(value.dtype)
        return state._replace(inner=Inner(inner, size), status=status, steps=state.steps + 1)

    def _evaluate(self, objective, inner, params, scale):
        """Value and gradient at the new point, from the line search when it left them behind."""
        import optax

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


def _with_closed_form_gradient(objective: Any, scale: jax.Array, like: Any):
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
