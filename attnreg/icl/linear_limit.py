"""Linear attention as ridge regression on its products: fitted in closed form, and the limit of its loss as d grows.

One merged linear layer answers a query by `x_qᵀ Γ h`, with `h = (d/ℓ Σ y_i x_i, 1/ℓ Σ y_i²)` of the context: linear in
Γ (d, d + 1), so training is least squares on d(d + 1) features. Inputs `x ~ N(0, I/d)`, weights on the sphere of
radius √d, labels `y = ⟨w, x⟩ + ε`, `ε ~ N(0, ρ)`; k fixed training tasks. Proportions: `τ = n/d²` documents,
`α = ℓ/d` context, `κ = k/d` tasks; a finite fit takes `n = τd(d + 1)`, so that τ = 1 is interpolation there too. The
loss is the mean square on fresh tasks, with the query's noise.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import ProblemError, check_integer, check_number


class Proportions(NamedTuple):
    """tau: documents over d². alpha: context rows over d. rho: noise variance. kappa: tasks over d. Scalars."""

    tau: float
    alpha: float
    rho: float
    kappa: float


def wishart_transform(x: float, kappa: float) -> float:
    """The Stieltjes transform of `WᵀW/k` at −x, for k = κd rows of N(0, I_d) as d grows: a scalar.

    It solves `1/m = x + 1/(1 + m/κ)`.

    >>> m = wishart_transform(0.5, 2.0)
    >>> round(1.0 / m - 0.5 - 1.0 / (1.0 + m / 2.0), 12)
    0.0
    """
    b = x + 1.0 - 1.0 / kappa
    return 2.0 / (b + math.sqrt(b * b + 4.0 * x / kappa))


def limiting_loss(z: Proportions) -> float:
    """The loss of ridgeless linear attention as d → ∞, a scalar.

    Args:
        z: proportions; tau must not be 1, where the loss is infinite.

    Precision: the eight numbers of `configs/icl_limit.py` to all printed digits (tests/icl/test_linear_limit.py).
    Raises: ProblemError for proportions out of range.
    Source: arXiv 2405.11751, Result 1.

    >>> round(limiting_loss(Proportions(4.0, 10.0, 0.01, 10.0)), 4)
    0.1394
    """
    for name, value in z._asdict().items():
        check_number(name, value, **({"at_least": 0} if name == "rho" else {"above": 0}))  # type: ignore[arg-type]
    tau, alpha, rho, kappa = z
    if tau == 1.0:
        raise ProblemError("tau is 1; as many documents as features, where the limit is infinite")
    x = (1.0 + rho) / alpha
    if tau < 1.0:
        mu = x * wishart_transform(x, kappa / tau)
        spread = 1.0 - tau * (1.0 - mu) ** 2 - (x - rho) / x * mu
        return tau * (1.0 + x) / (1.0 - tau) * spread - 2.0 * tau * (1.0 - mu) + rho + 1.0
    m = wishart_transform(x, kappa)
    left = 1.0 / (tau - 1.0)
    several = 1.0 / (1.0 - kappa * (m / (kappa + m)) ** 2)
    fitted = (several - left) * (1.0 + x) * (x * m) ** 2 + (3.0 - 2.0 * tau) * left * m * x * x
    return fitted + ((1.0 + rho) * left * m + 1.0) * x + rho * m * left + rho


def fit_linear_attention(key: jax.Array, z: Proportions, *, dimension: int) -> jax.Array:
    """Γ (d, d + 1) of least squares on random documents; of least norm where there are fewer documents than features.

    Args:
        key: a typed key. z: proportions, of which the numbers of documents, rows and tasks are rounded.
        dimension: d.

    Precision: eps times the squared condition number of the features: float64.
    Cost: n p min(n, p) multiplications, p = d(d + 1) and n = τp.
    Raises: ProblemError for a dimension that is none.

    >>> import jax
    >>> fit_linear_attention(jax.random.key(0), Proportions(2.0, 2.0, 0.1, 2.0), dimension=3).shape
    (3, 4)
    """
    d = dimension
    check_integer("dimension", d, at_least=1)
    n, rows, tasks = (max(1, round(size)) for size in (z.tau * d * (d + 1), z.alpha * d, z.kappa * d))
    of_tasks, of_choice, of_inputs, of_noise = jax.random.split(key, 4)
    w = jax.random.normal(of_tasks, (tasks, d))
    w = math.sqrt(d) * w / jnp.sqrt(jnp.sum(w * w, axis=1, keepdims=True))
    w = w[jax.random.randint(of_choice, (n,), 0, tasks)]
    x = jax.random.normal(of_inputs, (n, rows + 1, d)) / math.sqrt(d)
    y = tt.einsum("nid,nd->ni", x, w) + math.sqrt(z.rho) * jax.random.normal(of_noise, (n, rows + 1))
    return least_squares(linear_features(x[:, :rows], y[:, :rows], x[:, rows]), y[:, rows])


def linear_features(context: jax.Array, targets: jax.Array, queries: jax.Array) -> jax.Array:
    """`x_q hᵀ` (n, d, d + 1) of n documents: what a merged linear layer is linear in.

    context: (n, ℓ, d). targets: (n, ℓ). queries: (n, d), one a document.

    Cost: n ℓ d multiplications, and n d².
    """
    rows, d = context.shape[1:]
    read = d / rows * tt.einsum("ni,nid->nd", targets, context)
    h = jnp.concatenate([read, jnp.mean(targets**2, axis=1)[:, None]], axis=1)
    return queries[:, :, None] * h[:, None, :]


def least_squares(features: jax.Array, asked: jax.Array) -> jax.Array:
    """Γ (d, d + 1) that answers best; of least norm where there are fewer documents than features.

    features: (n, d, d + 1). asked: (n,) labels of the queries.

    Cost: n p min(n, p) multiplications, p = d(d + 1).
    """
    n, flat = features.shape[0], features.reshape(features.shape[0], -1)
    if n <= flat.shape[1]:
        weights = tt.matmul(flat.T, jnp.linalg.solve(tt.matmul(flat, flat.T), asked))
    else:
        weights = jnp.linalg.solve(tt.matmul(flat.T, flat), tt.matmul(flat.T, asked))
    return weights.reshape(features.shape[1:])


def loss_of(gamma: jax.Array, z: Proportions) -> jax.Array:
    """The mean square of Γ on fresh documents with fresh tasks, exactly; a scalar.

    gamma: (d, d + 1).

    `ρ + (1/d) E‖w − Γh‖²`, with `E h wᵀ = (I, 0)`, `E h₁h₁ᵀ = (1 + (d(1+ρ) + 1)/ℓ)I`,
    `E h₁h₂ = 0` and `E h₂² = (1 + 2/ℓ)(1+ρ)²`.

    Cost: one pass over Γ.
    """
    d = gamma.shape[0]
    rows = max(1, round(z.alpha * d))
    first, last = gamma[:, :d], gamma[:, d]
    size = 1.0 + (d * (1.0 + z.rho) + 1.0) / rows
    values = size * jnp.sum(first**2) + (1.0 + 2.0 / rows) * (1.0 + z.rho) ** 2 * jnp.sum(last**2)
    return z.rho + 1.0 - 2.0 / d * jnp.trace(first) + values / d
