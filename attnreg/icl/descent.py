"""Algorithms that read a document's context and answer its queries: gradient descent and the references.

All return a linear predictor `w`, so a query's logit is `⟨a_q, w⟩` and its sensitivity is `w`, except GD++, which
transforms the queries together with the context and returns logits through `gd_plus_logits`.

Units of the step size η: linear regression `w ← w + (η/n) Aᵀ(b − A w)` (gradient of the half mean square, as in
arXiv 2212.07677), softmax regression `w ← w − η ∇‖softmax(A w) − b‖²` (the objective as posed in 2304.13276).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.icl.tasks import Documents, TaskConfig
from attnreg.lift import tensor_trick as tt
from attnreg.lift.triangular import cholesky_solve, triangular_solve
from attnreg.rows import linear, normalized

_ROW = {"linear": linear, "softmax": normalized}


def gradient_descent(task: TaskConfig, document: Documents, steps: jax.Array) -> jax.Array:
    """Iterate after gradient steps from 0.

    `w_{k+1} = w_k − η_k c ∇L(w_k)`, `c = 1/(2n)` (linear) or 1 (softmax), L the context loss; its gradient is `Aᵀγ`,
    γ the row function's gradient in the logits.

    Args:
        task: `TaskConfig`; its kind says which loss.
        document: one `Documents` without batch axis.
        steps: (K,) step sizes η_k.

    Returns: (d,) w_K.
    Precision: matmuls at the highest precision; `test_descent` compares with a NumPy loop at 100 eps.
    Cost: 4 K n d flops.
    Source: arXiv 2212.07677 (linear), 2304.13276 (softmax).

    >>> import jax, jax.numpy as jnp
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> task = TaskConfig(kind="softmax", dimension=3, length=8, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> gradient_descent(task, document, jnp.ones(2)).shape
    (3,)
    """
    A, row = document.context, _ROW[task.kind]
    factor = 0.5 / A.shape[0] if task.kind == "linear" else 1.0

    def step(w, eta):
        gradient = tt.matmul(A.T, row(tt.matmul(A, w), document.targets).gradient)
        return w - eta * factor * gradient, None

    start = jnp.zeros_like(A[0])
    return jax.lax.scan(step, start, steps.astype(start.dtype))[0]


class PlusSteps(NamedTuple):
    """Step sizes of GD++: eta (K,) as above, gamma (K,) in units of the unnormalised `AᵀA`."""

    eta: jax.Array
    gamma: jax.Array


def gd_plus_logits(document: Documents, steps: PlusSteps, queries: jax.Array | None = None) -> jax.Array:
    """Query answers of K steps of GD++ for linear regression: gradient steps while the data are preconditioned.

    With residuals r (r = b at the start): `r ← r − (η_k/n) A Aᵀ r` on context and queries (each with its own row of
    A), and at the same time `a ← a − γ_k AᵀA a` for every row a; the answer is minus the query's residual.

    Args:
        document: one linear `Documents` without batch axis.
        steps: `PlusSteps`.
        queries: (m, d), replaces `document.queries`.

    Returns: (m,) answers.
    Precision: as `gradient_descent`; γ = 0 equals it to 100 eps (`test_descent`).
    Cost: K (2 (n+m) d² + 2 n d²) flops.
    Source: arXiv 2212.07677, section on GD++.

    >>> import jax, jax.numpy as jnp
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> task = TaskConfig(kind="linear", dimension=3, length=8, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> gd_plus_logits(document, PlusSteps(jnp.ones(2), jnp.zeros(2))).shape
    (4,)
    """
    A, r = document.context, document.targets
    Q = document.queries if queries is None else queries
    n = A.shape[0]

    def step(carry, scale):
        A, r, Q, answer = carry
        eta, gamma = scale
        slope = tt.matmul(A.T, r) * (eta / n)
        S = tt.matmul(A.T, A) * gamma
        moved = (A - tt.matmul(A, S), r - tt.matmul(A, slope), Q - tt.matmul(Q, S), answer + tt.matmul(Q, slope))
        return moved, None

    steps = PlusSteps(*(leaf.astype(A.dtype) for leaf in steps))
    start = (A, r, Q, jnp.zeros_like(Q[:, 0]))
    return jax.lax.scan(step, start, (steps.eta, steps.gamma))[0][3]


def gd_plus_sensitivities(document: Documents, steps: PlusSteps) -> jax.Array:
    """The gradient (m, d) of each GD++ answer with respect to its own query (a query is read by nobody).

    Cost: about three times `gd_plus_logits`.
    """
    return jax.grad(lambda queries: jnp.sum(gd_plus_logits(document, steps, queries)))(document.queries)


def ridge(document: Documents, strength: Any) -> jax.Array:
    """`(AᵀA + λI)⁻¹Aᵀ b`; λ = ν²/ω² is the Bayes estimate of the linear task, λ → 0 least squares.

    Solved as the least-squares problem `[A; √λ I] w = [b; 0]` by QR, so the condition number is not squared.

    Args:
        document: one `Documents` without batch axis.
        strength: λ ≥ 0 (scalar, traced); 0 needs n ≥ d.

    Returns: (d,) w.
    Precision: eps · cond(A); `test_descent` against NumPy's lstsq.
    Cost: 2 (n+d) d² flops.

    >>> import jax, jax.numpy as jnp
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> task = TaskConfig(kind="linear", dimension=3, length=8, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> bool(jnp.allclose(ridge(document, 0.0), document.weights, atol=1e-4))
    True
    """
    A, b = document.context, document.targets
    d = A.shape[1]
    stacked = jnp.concatenate([A, jnp.sqrt(jnp.asarray(strength, A.dtype)) * jnp.eye(d, dtype=A.dtype)])
    Q, R = jnp.linalg.qr(stacked)
    projected = tt.matmul(Q.T, jnp.concatenate([b, jnp.zeros(d, A.dtype)]))
    return triangular_solve(R, projected, lower=False)


def spectral_norm(S: jax.Array) -> jax.Array:
    """The largest eigenvalue of a symmetric positive semidefinite S (d, d), or up to `log(d)/1024` of itself more.

    `tr(S^1024)^(1/1024)` by repeated squaring. A singular value decomposition of each of thousands of documents would
    not do: beside the QR of `ridge` in one program it may wait for itself for ever (seen on two cores, jaxlib 0.10.2).

    Returns: scalar.
    Cost: ten products of 2 d³ flops.

    >>> import jax.numpy as jnp
    >>> bool(abs(spectral_norm(jnp.diag(jnp.array([3.0, 1.0]))) - 3) < 1e-4)
    True
    """
    power, log = S, jnp.zeros((), S.dtype)
    for k in range(10):
        trace = jnp.trace(power)
        size = jnp.where(trace > 0, trace, jnp.ones_like(trace))
        log = log + jnp.log(size) / 2**k
        power = tt.matmul(power / size, power / size)
    return jnp.exp(log + jnp.log(jnp.trace(power)) / 2**10)


def inverse_newton(document: Documents, steps: int, scale: Any) -> jax.Array:
    """Least squares by Newton's iteration for the inverse of `S = AᵀA`: `M ← 2M − M S M`, then `w = M Aᵀ b`.

    It starts at `M = scale·S/N²`, N being `spectral_norm(S)`, and k iterations leave `(1 − scale λ²/N²)^(2^k)` of the
    error along an eigenvector with eigenvalue λ: the second-order method that depth is compared with.

    Args:
        document: one linear `Documents` without batch axis.
        steps: K, static.
        scale: in (0, 2), a traced scalar.

    Returns: (d,) w.
    Precision: 1e-12 relative against NumPy in float64 (`test_descent`).
    Cost: K matrix products of 2 d³ flops twice, and n d².
    Source: arXiv 2310.17086.

    >>> import jax
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> task = TaskConfig(kind="linear", dimension=3, length=8, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> bool(jnp.allclose(inverse_newton(document, 20, 1.0), document.weights, atol=1e-3))
    True
    """
    A = document.context
    S = tt.matmul(A.T, A)
    largest = spectral_norm(S)

    def step(M, _):
        return 2 * M - tt.matmul(tt.matmul(M, S), M), None

    M = jax.lax.scan(step, jnp.asarray(scale, A.dtype) * S / largest**2, length=steps)[0]
    return tt.matmul(M, tt.matmul(A.T, document.targets))


def log_ratio(document: Documents, strength: Any) -> jax.Array:
    """Ridge (d,) on the logits of a softmax document: regress `log b − mean log b` on the centred context.

    Exact (w up to rounding) for noiseless targets in general position with n > d; the least-squares reference.
    Arguments and cost as `ridge`.
    """
    centred = document.context - jnp.mean(document.context, axis=0, keepdims=True)
    signal = jnp.log(document.targets)
    return ridge(document._replace(context=centred, targets=signal - jnp.mean(signal)), strength)


def best_linear(task: TaskConfig, document: Documents, strength: Any) -> jax.Array:
    """The reference (d,) that no step size limits: `ridge` on the targets (linear) or on their logarithms (softmax).

    Arguments and cost as `ridge`.
    """
    return ridge(document, strength) if task.kind == "linear" else log_ratio(document, strength)


def newton(task: TaskConfig, document: Documents, steps: int, strength: Any) -> jax.Array:
    """Iteratively reweighted least squares from 0: Newton's method on the convex cross entropy (softmax task).

    `w ← w − t (Aᵀ(diag f − f fᵀ)A + λI)⁻¹ (Aᵀ(f − b) + λ w)`, f = softmax(A w), t the best of 1, ½, …, 2⁻⁷ for the
    cross entropy `lse(A w) − ⟨b, A w⟩ + λ‖w‖²/2` (a full step may diverge on peaked targets). Its minimiser at λ = 0
    is that of the softmax regression for noiseless targets. For the linear task one step is `ridge`.

    Args:
        task: `TaskConfig`; its kind says which loss.
        document: one `Documents` without batch axis.
        steps: number of Newton steps K, static.
        strength: λ > 0, absolute (scalar, traced).

    Returns: (d,) w_K.
    Precision: eps · cond of the (d, d) matrix (positive definite, Cholesky); `test_descent` against NumPy.
    Cost: K (n d² + d³/3 + 20 n d) flops.

    >>> import jax, jax.numpy as jnp
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> task = TaskConfig(kind="softmax", dimension=3, length=9, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> bool(jnp.allclose(newton(task, document, 10, 1e-6), document.weights, atol=1e-2))
    True
    """
    if task.kind == "linear":
        return ridge(document, strength)
    A, b = document.context, document.targets
    strength = jnp.asarray(strength, A.dtype)
    halvings = 2.0 ** -jnp.arange(8, dtype=A.dtype)

    def entropy(w):
        s = tt.matmul(A, w)
        return jax.nn.logsumexp(s) - tt.matmul(b, s) + strength * jnp.sum(w * w) / 2

    def step(w, _):
        f = jax.nn.softmax(tt.matmul(A, w))
        centred = A - tt.matmul(f, A)[None, :]
        H = tt.matmul(centred.T * f[None, :], centred) + strength * jnp.eye(A.shape[1], dtype=A.dtype)
        slope = tt.matmul(A.T, f - b) + strength * w
        direction = cholesky_solve(jnp.linalg.cholesky(H), slope)
        trials = w[None, :] - halvings[:, None] * direction[None, :]
        return trials[jnp.argmin(jax.vmap(entropy)(trials))], None

    return jax.lax.scan(step, jnp.zeros_like(A[0]), length=steps)[0]
