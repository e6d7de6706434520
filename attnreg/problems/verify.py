"""A loss's closed form against automatic differentiation of its plain definition."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.checks import ProblemError
from attnreg.problems.losses import on_logits
from attnreg.problems.registry import Loss, find_loss

# Rows and keys of the instance; sizes of the largest logit. Two keys of every row are masked.
ROWS, KEYS = 8, 6
SIZES = (1e-2, 1.0, 5.0)
# Errors that rounding may make, in eps × the largest entry of its quantity.
ALLOWED = 1e3


class LossReport(NamedTuple):
    """Largest error of each quantity of a loss, closed form against autodiff, in eps × its largest entry.

    Args:
        value, gradient, hessian: errors, at most `ALLOWED`.
        positive: the lowest eigenvalue of the Gauss–Newton part in eps × the largest, at least −`ALLOWED`.
    """

    value: float
    gradient: float
    hessian: float
    positive: float


def check_loss(name: str) -> LossReport:
    """How far a registered loss's closed form is from autodiff of its definition, over masks and sizes of logits.

    Args:
        name: one of `loss_names()`.

    Returns:
        `LossReport`: the largest errors, in eps × the largest entry of each quantity.

    Precision: errors up to `ALLOWED` = 1000 of that unit pass as rounding; a wrong formula is off by about 1/eps.
    Cost: one small program is compiled, with second derivatives of 8 rows of 6 logits.

    Raises:
        ProblemError: no such loss; a quantity is off; the Gauss–Newton part is not positive semidefinite. The message
            names the quantity and shows both numbers.

    Example:
        >>> check_loss("kl").gradient < 100
        True
    """
    return verify(find_loss(name))


def verify(loss: Loss) -> LossReport:
    """`check_loss` for a loss that need not be registered: the `LossReport`, or a `ProblemError`."""
    plain = on_logits(loss.definition)

    def of_row(s: jax.Array, b: jax.Array, mask: jax.Array) -> jax.Array:
        return plain(s[None], b[None], mask[None])

    @jax.jit
    def both(s: jax.Array, b: jax.Array, mask: jax.Array) -> tuple[dict, dict, jax.Array]:
        terms = loss.row(s, b, mask)
        closed = dict(value=terms.value, gradient=terms.gradient, hessian=terms.hessian.dense())
        derivatives = dict(value=of_row, gradient=jax.grad(of_row), hessian=jax.hessian(of_row))
        autodiff = {name: jax.vmap(function)(s, b, mask) for name, function in derivatives.items()}
        return closed, autodiff, terms.gauss_newton.dense()

    worst = dict(value=0.0, gradient=0.0, hessian=0.0, positive=0.0)
    for size in SIZES:
        closed, autodiff, gauss_newton = both(*_instance(loss, size))
        for name in ("value", "gradient", "hessian"):
            worst[name] = max(worst[name], _apart(loss, name, closed[name], autodiff[name]))
        worst["positive"] = min(worst["positive"], _lowest(loss, gauss_newton))
    return LossReport(**worst)


def _instance(loss: Loss, size: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits whose largest is about `size`, targets the loss takes, a mask; in the widest dtype that is switched on."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=(ROWS, KEYS))
    b = rng.dirichlet(np.ones(KEYS), ROWS) if loss.targets == "nonnegative" else rng.normal(size=(ROWS, KEYS))
    b[0] = np.eye(KEYS)[2]
    mask = np.ones((ROWS, KEYS), bool)
    mask[:, [1, 4]] = False
    dtype = jnp.zeros(()).dtype
    return jnp.asarray(size * s / np.max(np.abs(s)), dtype), jnp.asarray(b, dtype), jnp.asarray(mask)


def _apart(loss: Loss, name: str, closed: jax.Array, autodiff: jax.Array) -> float:
    """Error in eps × the largest entry; a `ProblemError` beyond `ALLOWED`."""
    have, want = np.asarray(closed, np.float64), np.asarray(autodiff, np.float64)
    unit = float(jnp.finfo(closed.dtype).eps) * max(np.max(np.abs(want)), np.finfo(closed.dtype).tiny)
    errors = np.abs(have - want) / unit
    # A NaN is the largest error of all.
    at = np.unravel_index(np.argmax(np.where(np.isnan(errors), np.inf, errors)), errors.shape)
    if not errors[at] <= ALLOWED:
        place = ", ".join(map(str, at[1:]))
        raise ProblemError(
            f"loss {loss.name!r}: {name}{f'[{place}]' if place else ''} of a row is {have[at]:.6g} in closed form and "
            f"{want[at]:.6g} by autodiff of its definition; correct the row function or the definition"
        )
    return float(errors[at])


def _lowest(loss: Loss, gauss_newton: jax.Array) -> float:
    """The lowest eigenvalue over rows, in eps × the largest; a `ProblemError` below −`ALLOWED`."""
    matrices = np.asarray(gauss_newton, np.float64)
    if not np.all(np.isfinite(matrices)):
        raise ProblemError(f"loss {loss.name!r}: gauss_newton has NaN or infinite entries at logits of at most 5")
    values = np.linalg.eigvalsh(matrices)
    eps = float(jnp.finfo(gauss_newton.dtype).eps)
    lowest = float(np.min(values) / (eps * max(np.max(np.abs(values)), np.finfo(gauss_newton.dtype).tiny)))
    if not lowest >= -ALLOWED:
        raise ProblemError(
            f"loss {loss.name!r}: gauss_newton has the eigenvalue {np.min(values):.6g}; it must be positive "
            "semidefinite, e.g. 2 JᵀJ for a squared residual with Jacobian J"
        )
    return lowest
