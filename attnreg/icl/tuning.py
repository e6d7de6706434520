"""Step sizes of the descent algorithms: in closed form, by line search, or learned; always on tuning documents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnreg.icl import descent
from attnreg.icl.metrics import document_loss
from attnreg.icl.tasks import Documents, TaskConfig
from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import ProblemError

# Second and fourth moments of one unit-scale feature.
_MOMENTS = {"gaussian": (1.0, 3.0), "uniform": (1 / 3, 1 / 5), "laplace": (1.0, 6.0), "exponential": (1.0, 9.0)}
# Brackets of the line searches, its grid, and the iterations of L-BFGS for the step sizes of GD++.
_ETA, _STRENGTH, _SCALE = (1e-2, 1e3), (1e-6, 1e3), (1e-2, 2.0)
_POINTS, _ZOOMS = 24, 4
_ITERATIONS = 60


class ClosedForm(NamedTuple):
    """Best step size of one gradient step, its expected loss, and the expected loss of answering zero."""

    eta: float
    loss: float
    zero: float


def has_closed_form(task: TaskConfig) -> bool:
    """Whether `closed_form` knows the task: linear, independent features, no distractors."""
    return task.kind == "linear" and task.inputs in _MOMENTS and not task.distractors


def closed_form(task: TaskConfig) -> ClosedForm:
    """Optimal single gradient step of the linear task, exactly.

    With `s = E x²`, `k = E x⁴` of one feature, `T1 = d s`, `T2 = (d k + d(d−1)s²)/n + (n−1)/n · d s²` and
    `V = d s ν²/(n ω²)`: `η* = T1/(T2 + V)`, half mean square `½ s ω² (d − 2ηT1 + η²(T2 + V))`, zero predictor
    `½ s ω² d`.

    Args:
        task: `TaskConfig` of a linear task with independent features (not "real"), no distractors.

    Returns: `ClosedForm` of Python floats.
    Precision: exact; `test_tuning` compares with Monte Carlo and with the published loss 0.20623.
    Raises: ProblemError where no closed form is known.
    Source: derived in docs/theory/icl.md.

    >>> from attnreg.icl.tasks import TaskConfig
    >>> task = TaskConfig(kind="linear", dimension=10, length=10, queries=1, inputs="uniform", input_scale=0.5)
    >>> [round(value, 5) for value in closed_form(task)]
    [6.06061, 0.20623, 0.41667]
    """
    if not has_closed_form(task):
        raise ProblemError("closed_form needs a linear task with independent features and no distractors")
    d, n, a = task.dimension, task.length, task.input_scale
    s, k = (m * a**p for m, p in zip(_MOMENTS[task.inputs], (2, 4), strict=True))
    signal = d * s
    size = (d * k + d * (d - 1) * s**2) / n + (n - 1) / n * d * s**2
    size += d * s * task.noise**2 / (n * task.weight_scale**2)
    eta = signal / size
    scale = 0.5 * s * task.weight_scale**2
    return ClosedForm(eta, scale * (d - 2 * eta * signal + eta**2 * size), scale * d)


def mean_loss(task: TaskConfig, documents: Documents, logits: jax.Array) -> jax.Array:
    """Mean over documents (scalar) of the loss of logits (B, m); infinity where an iterate diverged."""
    losses = jax.vmap(lambda l, b: document_loss(task, l, b))(logits, documents.answers)
    return jnp.nan_to_num(jnp.mean(losses), nan=jnp.inf)


def linear_logits(documents: Documents, w: jax.Array) -> jax.Array:
    """Logits (B, m) of linear predictors w (B, d), one a document."""
    return tt.einsum("bmd,bd->bm", documents.queries, w)


def descent_logits(task: TaskConfig, documents: Documents, steps: jax.Array) -> jax.Array:
    """Logits (B, m) of gradient steps of sizes (K,). Cost: that of `descent.gradient_descent` a document."""

    def one(document):
        return tt.matmul(document.queries, descent.gradient_descent(task, document, steps))

    return jax.vmap(one)(documents)


def line_search(loss: Callable[[jax.Array], jax.Array], low: float, high: float) -> tuple[jax.Array, jax.Array]:
    """Minimiser of `loss` over a positive scalar: a logarithmic grid of 24 points, refined 4 times around its best one.

    Args:
        loss: scalar function of a positive scalar array; may be infinite.
        low: lower end of the first grid, > 0.
        high: upper end.

    Returns: (argument, loss) as scalar arrays; an argument at `low` or `high` means the bracket was too narrow.
    Precision: each refinement narrows to the neighbours of the best point; about 1e-4 relative for four decades.
    Cost: 120 evaluations of the loss, one at a time (so memory is that of one).

    >>> import jax.numpy as jnp
    >>> best, _ = line_search(lambda x: (jnp.log(x) - 1.0) ** 2, 1e-2, 1e2)
    >>> bool(abs(best - jnp.e) < 1e-2)
    True
    """
    unit = jnp.linspace(0.0, 1.0, _POINTS)
    lower, upper = jnp.log(jnp.asarray(low, unit.dtype)), jnp.log(jnp.asarray(high, unit.dtype))
    at, value = lower, jnp.asarray(jnp.inf, unit.dtype)
    for _ in range(_ZOOMS + 1):
        grid = lower + (upper - lower) * unit
        values = jax.lax.map(lambda x: loss(jnp.exp(x)), grid)
        best = jnp.argmin(values)
        at, value = grid[best], values[best]
        lower, upper = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _POINTS - 1)]
    return jnp.exp(at), value


def tune_descent(task: TaskConfig, documents: Documents, steps: int) -> tuple[jax.Array, jax.Array]:
    """One step size shared by `steps` gradient steps, and its loss (scalars), by line search on tuning documents.

    Cost: 120 evaluations of `steps` steps on all documents.
    """
    dtype = documents.context.dtype

    def loss(eta):
        etas = jnp.broadcast_to(eta.astype(dtype), (steps,))
        return mean_loss(task, documents, descent_logits(task, documents, etas))

    return line_search(loss, *_ETA)


def tune_ridge(task: TaskConfig, documents: Documents) -> tuple[jax.Array, jax.Array]:
    """Ridge strength of `descent.best_linear` and its loss (scalars), by line search on tuning documents.

    Cost: 120 evaluations of the ridge on all documents.
    """
    return _tuned(task, documents, lambda document, number: descent.best_linear(task, document, number), _STRENGTH)


def tune_inverse_newton(task: TaskConfig, documents: Documents, steps: int) -> tuple[jax.Array, jax.Array]:
    """The scale of `descent.inverse_newton` with K steps, and its loss (scalars), by line search below 2.

    Cost: 120 evaluations of K steps on all documents.
    """
    return _tuned(task, documents, lambda document, number: descent.inverse_newton(document, steps, number), _SCALE)


def _tuned(task: TaskConfig, documents: Documents, weights: Callable[[Any, Any], jax.Array], interval: Any):
    """The number that makes `weights(document, number)` best on all documents, and its loss, by line search."""
    dtype = documents.context.dtype

    def loss(number):
        w = jax.vmap(lambda document: weights(document, number.astype(dtype)))(documents)
        return mean_loss(task, documents, linear_logits(documents, w))

    return line_search(loss, *interval)


def minimise(loss: Callable[[Any], jax.Array], start: Any, *, iterations: int) -> tuple[Any, jax.Array]:
    """L-BFGS from `start` (a pytree of a handful of well-scaled unknowns): (argument shaped like it, loss, scalar).

    The loop is not that of `attnreg.solvers.Optax`, which takes an objective that is a pytree and stops by a verdict.
    Here the loss is a closure over traced documents, and all kernels of one `lax.map` take the same number of steps.

    Cost: about 1.5 values and gradients an iteration.
    """
    solver = optax.lbfgs()
    slope_at = optax.value_and_grad_from_state(loss)

    def iterate(carry, _):
        theta, state = carry
        value, slope = slope_at(theta, state=state)
        update, state = solver.update(slope, state, theta, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(theta, update), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax.lbfgs mixes int32 and int64 counters under x64
        (theta, _), _ = jax.lax.scan(iterate, (start, solver.init(start)), length=iterations)
    return theta, loss(theta)


def learn_plus(
    task: TaskConfig, documents: Documents, steps: int, *, shared: bool, eta: float, gamma: float
) -> tuple[descent.PlusSteps, jax.Array]:
    """Step sizes of GD++ by L-BFGS on tuning documents.

    Args:
        task: `TaskConfig` of a linear task.
        documents: `Documents` to tune on.
        steps: K, static.
        shared: one (η, γ) for all steps, or one per step.
        eta: start for η > 0 (it is learned as log η).
        gamma: start for γ.

    Returns: (`PlusSteps` with (K,) leaves, scalar loss on the tuning documents).
    Precision: a local optimum; `test_tuning` reproduces 0.110 at γ ≈ 0.18 for K = 2 shared.
    Cost: about 90 gradients of K steps on all documents.
    """
    dtype = documents.context.dtype
    size = (1,) if shared else (steps,)
    # Both unknowns of order one: η = e^θ₀, γ = γ₀·θ₁.
    start = (jnp.full(size, np.log(eta), dtype), jnp.ones(size, dtype))

    def unpack(theta):
        spread = [jnp.broadcast_to(leaf, (steps,)) for leaf in theta]
        return descent.PlusSteps(jnp.exp(spread[0]), gamma * spread[1])

    def loss(theta):
        scales = unpack(theta)
        answers = jax.vmap(lambda document: descent.gd_plus_logits(document, scales))(documents)
        return mean_loss(task, documents, answers)

    theta, value = minimise(loss, start, iterations=_ITERATIONS)
    return unpack(theta), value
