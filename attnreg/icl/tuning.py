"""Step sizes of the descent algorithms: in closed form, by line search, or learned; always on tuning documents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnreg.icl import descent
from attnreg.icl.metrics import document_loss

# Second and fourth moments of one unit-scale feature.
_MOMENTS = {"gaussian": (1.0, 3.0), "uniform": (1 / 3, 1 / 5), "laplace": (1.0, 6.0), "exponential": (1.0, 9.0)}


class ClosedForm(NamedTuple):
    """Best step size of one gradient step, its expected loss, and the expected loss of answering zero."""

    eta: float
    loss: float
    zero: float


def closed_form(task):
    """Optimal single gradient step of the linear task, exactly.

    With `s = E x²`, `k = E x⁴` of one feature, `T1 = d s`, `T2 = (d k + d(d−1)s²)/n + (n−1)/n · d s²` and
    `V = d s ν²/(n ω²)`: `η* = T1/(T2 + V)`, half mean square `½ s ω² (d − 2ηT1 + η²(T2 + V))`, zero predictor
    `½ s ω² d`.

    Args:
        task: `TaskConfig` of a linear problem with independent features (not "rows"), no distractors.

    Returns: `ClosedForm` of Python floats.
    Precision: exact; `test_tuning` compares with Monte Carlo and with the published loss 0.2 (0.20623).
    Cost: none.
    Raises: ValueError where no closed form is known.
    Source: derived in docs/theory/icl.md.

    >>> from attnreg.icl.tasks import TaskConfig
    >>> task = TaskConfig(problem="linear", dimension=10, length=10, queries=1, inputs="uniform", input_scale=0.5)
    >>> [round(value, 5) for value in closed_form(task)]
    [6.06061, 0.20623, 0.41667]
    """
    if task.problem != "linear" or task.inputs not in _MOMENTS or task.distractors:
        raise ValueError("closed_form needs a linear task with independent features and no distractors")
    d, n, a = task.dimension, task.length, task.input_scale
    s, k = (m * a**p for m, p in zip(_MOMENTS[task.inputs], (2, 4), strict=True))
    signal = d * s
    size = (d * k + d * (d - 1) * s**2) / n + (n - 1) / n * d * s**2
    size += d * s * task.noise**2 / (n * task.weight_scale**2)
    eta = signal / size
    scale = 0.5 * s * task.weight_scale**2
    return ClosedForm(eta, scale * (d - 2 * eta * signal + eta**2 * size), scale * d)


def mean_loss(problem, documents, logits):
    """Mean over documents of the loss of B×m logits; infinity where an iterate diverged."""
    losses = jax.vmap(lambda l, b: document_loss(problem, l, b))(logits, documents.answers)
    return jnp.nan_to_num(jnp.mean(losses), nan=jnp.inf)


def descent_logits(problem, documents, steps):
    """B×m logits of K gradient steps."""

    def one(document):
        w = descent.gradient_descent(problem, document, steps)
        return jnp.matmul(document.queries, w, precision=descent.PRECISION)

    return jax.vmap(one)(documents)


def line_search(loss, low, high, *, points=24, zooms=4):
    """Minimiser of `loss` over a positive scalar: a logarithmic grid, refined around its best point.

    Args:
        loss: scalar function of a positive scalar array; may be infinite.
        low: lower end of the first grid, > 0.
        high: upper end.
        points: points of each grid, static.
        zooms: refinements, each narrowing to the neighbours of the best point.

    Returns: (argument, loss) as scalar arrays; an argument at `low` or `high` means the bracket was too narrow.
    Precision: relative spacing `(high/low)^(2^z/(points−1)^(z+1))`, about 1e-4 by default for four decades.
    Cost: points·(zooms+1) evaluations of the loss, one at a time (so memory is that of one).

    >>> import jax.numpy as jnp
    >>> best, _ = line_search(lambda x: (jnp.log(x) - 1.0) ** 2, 1e-2, 1e2)
    >>> bool(abs(best - jnp.e) < 1e-2)
    True
    """
    unit = jnp.linspace(0.0, 1.0, points)
    low, high = jnp.log(jnp.asarray(low, unit.dtype)), jnp.log(jnp.asarray(high, unit.dtype))
    at, value = low, jnp.inf
    for _ in range(zooms + 1):
        grid = low + (high - low) * unit
        values = jax.lax.map(lambda x: loss(jnp.exp(x)), grid)
        best = jnp.argmin(values)
        at, value = grid[best], values[best]
        low, high = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, points - 1)]
    return jnp.exp(at), value


def tune_descent(problem, documents, steps, *, low=1e-2, high=1e3):
    """One step size shared by `steps` gradient steps, by line search on tuning documents.

    Returns: (η, loss on the tuning documents). Cost: 120 evaluations of `steps` steps on all documents.
    """

    def loss(eta):
        etas = jnp.broadcast_to(eta, (steps,))
        return mean_loss(problem, documents, descent_logits(problem, documents, etas))

    dtype = documents.context.dtype
    return line_search(lambda eta: loss(eta.astype(dtype)), low, high)


def tune_ridge(documents, solve, *, low=1e-6, high=1e3, problem="linear"):
    """Ridge strength by line search; `solve(document, λ)` returns w. Returns (λ, loss)."""
    dtype = documents.context.dtype

    def loss(strength):
        w = jax.vmap(lambda document: solve(document, strength.astype(dtype)))(documents)
        logits = jnp.einsum("bmd,bd->bm", documents.queries, w, precision=descent.PRECISION)
        return mean_loss(problem, documents, logits)

    return line_search(loss, low, high)


def minimise(loss: Callable[[Any], Any], start: Any, *, iterations: int = 60) -> tuple[Any, Any]:
    """L-BFGS from `start` (a pytree): (argument, loss). For a handful of well-scaled unknowns."""
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


def learn_plus(documents, steps, *, shared, eta, gamma, iterations=60):
    """Step sizes of GD++ by L-BFGS on tuning documents.

    Args:
        documents: linear tuning documents.
        steps: K, static.
        shared: one (η, γ) for all steps, or one per step.
        eta: start for η > 0 (it is learned as log η).
        gamma: start for γ.
        iterations: L-BFGS iterations, static.

    Returns: (`PlusSteps` with (K,) leaves, loss on the tuning documents).
    Precision: a local optimum; `test_tuning` reproduces 0.110 at γ ≈ 0.18 for K = 2 shared.
    Cost: about 1.5 · iterations gradients of K steps on all documents.
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
        return mean_loss("linear", documents, answers)

    theta, value = minimise(loss, start, iterations=iterations)
    return unpack(theta), value
