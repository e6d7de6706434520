"""Seeded synthetic instances: realizable, noisy, low-rank, with controlled conditioning and logit scale."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift.tensor_trick import logits, matmul
from attnreg.problems.attention import AttentionRegression, LinearRegression, SoftmaxRegression
from attnreg.problems.registry import find_loss


def targets(S: jax.Array, loss: str) -> jax.Array:
    """What logits S make of a row under a loss: S itself, `cosh(S)/Σ cosh(S)`, or the softmax.

    The sum of sinh over a row can vanish, so "sinh_rescaled" gets the softmax too: its truth is not exact.
    """
    if find_loss(loss).fits == "logits":
        return S
    if loss == "cosh_rescaled":
        return jnp.cosh(S) / jnp.sum(jnp.cosh(S), axis=-1, keepdims=True)
    return jax.nn.softmax(S, axis=-1)


class Instance(NamedTuple):
    """A problem and the X it was made from (before noise)."""

    problem: AttentionRegression
    truth: jax.Array


def conditioned(key: jax.Array, n: int, d: int, condition: float, dtype) -> jax.Array:
    """Gaussian rows with covariance eigenvalues spread geometrically so that singular values span `condition`.

    Rows have mean squared norm 1. (n, d).
    """
    scales = jnp.asarray(condition, dtype) ** (-jnp.linspace(0, 1, d, dtype=dtype))
    scales = scales / jnp.linalg.norm(scales)
    return jax.random.normal(key, (n, d), dtype) * scales[None, :]


def attention_instance(
    key: jax.Array,
    *,
    n: int,
    d: int,
    m: int | None = None,
    d2: int | None = None,
    documents: int = 1,
    loss: str = "normalized",
    rank: int | None = None,
    noise: float = 0.0,
    logit_scale: float = 1.0,
    condition: float = 1.0,
    ridge: float = 0.0,
    weight: float | None = None,
    dtype=jnp.float32,
) -> Instance:
    """`B = softmax(A1 X A2ᵀ) + noise`, A1, A2 with rows of mean squared norm 1, X standard normal times `logit_scale`.

    Args:
        key: PRNG key; the same key gives the same instance.
        n, d: queries and their width. m, d2: keys and their width (default n, d). documents: k.
        loss: as in `AttentionRegression`; "linear" makes B = A1 X A2ᵀ + noise.
        rank: X = Q Kᵀ/√rank of this rank; None is full.
        noise: standard deviation added to B relative to the root mean square of B's rows, B kept as it falls.
        logit_scale: multiplies X. condition: ratio of largest to smallest feature scale in A1 and A2.
        ridge, weight: passed to the problem.

    Returns:
        `Instance(problem, truth)`.

    Example:
        >>> instance = attention_instance(jax.random.key(0), n=8, d=2)
        >>> instance.problem.sizes
        (1, 8, 8, 2, 2)
    """
    m, d2 = m or n, d2 or d
    k1, k2, kx, kq, kn = jax.random.split(key, 5)
    A1 = conditioned(k1, documents * n, d, condition, dtype).reshape(documents, n, d)
    A2 = conditioned(k2, documents * m, d2, condition, dtype).reshape(documents, m, d2)
    if rank is None:
        X = jax.random.normal(kx, (d, d2), dtype)
    else:
        factors = jax.random.normal(kx, (d, rank), dtype), jax.random.normal(kq, (d2, rank), dtype)
        X = matmul(factors[0], factors[1].T) / jnp.sqrt(jnp.asarray(rank, dtype))
    X = X * jnp.asarray(logit_scale, dtype)
    S = jax.vmap(logits, (0, None, 0))(A1, X, A2)
    B = targets(S, loss)
    rms = jnp.sqrt(jnp.mean(B * B))
    B = B + jnp.asarray(noise, dtype) * rms * jax.random.normal(kn, B.shape, dtype)
    return Instance(AttentionRegression(A1, A2, B, loss=loss, ridge=ridge, weight=weight), X)


def vector_instance(
    key: jax.Array,
    *,
    n: int,
    d: int,
    loss: str = "normalized",
    noise: float = 0.0,
    logit_scale: float = 1.0,
    condition: float = 1.0,
    ridge: float = 0.0,
    dtype=jnp.float32,
) -> Instance:
    """Single softmax (or "linear") regression: A (n, d) as in `attention_instance`, `b = softmax(A x)` plus noise.

    The noise is relative to the root mean square of b. The truth is the (1, d) unknown.
    """
    ka, kx, kn = jax.random.split(key, 3)
    A = conditioned(ka, n, d, condition, dtype)
    x = jax.random.normal(kx, (d,), dtype) * jnp.asarray(logit_scale, dtype)
    s = matmul(A, x)
    b = targets(s, loss)
    rms = jnp.sqrt(jnp.mean(b * b))
    b = b + jnp.asarray(noise, dtype) * rms * jax.random.normal(kn, b.shape, dtype)
    if loss == "linear":
        return Instance(LinearRegression(A, b, ridge=ridge), x[None])
    return Instance(SoftmaxRegression(A, b, loss=loss, ridge=ridge), x[None])
