"""Seeded synthetic instances: realizable, noisy, low-rank, with controlled conditioning and logit scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.lift.tensor_trick import logits, matmul
from attnreg.problems.arrays import check_dtype
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import check_integer, check_number
from attnreg.problems.registry import find_loss
from attnreg.problems.reprs import compact_repr
from attnreg.problems.vector import LinearRegression, SoftmaxRegression


def targets(S: jax.Array, loss: str) -> jax.Array:
    """What logits S (…, m) make of a row under a loss, shaped like S: S itself, `cosh(S)/Σ cosh(S)`, or the softmax.

    The sum of sinh over a row can vanish, so "sinh_rescaled" gets the softmax too: its truth is not exact.
    """
    if find_loss(loss).fits == "logits":
        return S
    if loss == "cosh_rescaled":
        return jnp.cosh(S) / jnp.sum(jnp.cosh(S), axis=-1, keepdims=True)
    return jax.nn.softmax(S, axis=-1)


def _noisy(key: jax.Array, B: jax.Array, noise: float, loss: str) -> jax.Array:
    """B plus noise relative to its root mean square; negative entries become 0 where the loss takes none."""
    rms = jnp.sqrt(jnp.mean(B * B))
    B = B + jnp.asarray(noise, B.dtype) * rms * jax.random.normal(key, B.shape, B.dtype)
    return jnp.maximum(B, 0) if find_loss(loss).targets == "nonnegative" else B


def _check(loss: str, dtype: Any, sizes: dict[str, Any], **numbers: Any) -> None:
    """Refuse options that no instance can be drawn from."""
    find_loss(loss)
    check_dtype("dtype", dtype)
    for name, size in sizes.items():
        if size is not None:
            check_integer(name, size, at_least=1)
    check_number("noise", numbers["noise"], at_least=0)
    check_number("logit_scale", numbers["logit_scale"])
    check_number("condition", numbers["condition"], at_least=1)


@compact_repr
class Instance(NamedTuple):
    """A problem, and the truth it was made from before noise: X (d1, d2)."""

    problem: AttentionRegression
    truth: jax.Array


def conditioned(key: jax.Array, n: int, d: int, condition: float, dtype: Any) -> jax.Array:
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
    dtype: Any = jnp.float32,
) -> Instance:
    """`B = softmax(A1 X A2ᵀ) + noise`, A1, A2 with rows of mean squared norm 1, X standard normal times `logit_scale`.

    Args:
        key: PRNG key; the same key gives the same instance.
        n, d: queries and their width. m, d2: keys and their width (default n, d). documents: k.
        loss: as in `AttentionRegression`; "linear" makes B = A1 X A2ᵀ + noise.
        rank: X = Q Kᵀ/√rank of this rank; None is full.
        noise: standard deviation added to B relative to the root mean square of B; entries below 0 are kept, except
            for a loss of nonnegative targets, where they become 0.
        logit_scale: multiplies X. condition: ratio of largest to smallest feature scale in A1 and A2.
        ridge, weight: passed to the problem.

    Returns:
        `Instance(problem, truth)`.

    Raises:
        ProblemError: a size that is no whole number of at least 1, a rank above min(d, d2), an unknown loss, and so on.

    Example:
        >>> instance = attention_instance(jax.random.key(0), n=8, d=2)
        >>> instance.problem.sizes
        (1, 8, 8, 2, 2)
    """
    sizes = dict(n=n, d=d, m=m, d2=d2, documents=documents, rank=rank)
    _check(loss, dtype, sizes, noise=noise, logit_scale=logit_scale, condition=condition)
    m, d2 = n if m is None else m, d if d2 is None else d2
    if rank is not None:
        check_integer("rank", rank, at_least=1, at_most=min(d, d2))
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
    B = _noisy(kn, targets(S, loss), noise, loss)
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
    dtype: Any = jnp.float32,
) -> Instance:
    """Single softmax (or "linear") regression: A (n, d) as in `attention_instance`, `b = softmax(A x)` plus noise.

    The noise is relative to the root mean square of b. The truth is the (1, d) unknown.
    """
    _check(loss, dtype, dict(n=n, d=d), noise=noise, logit_scale=logit_scale, condition=condition)
    ka, kx, kn = jax.random.split(key, 3)
    A = conditioned(ka, n, d, condition, dtype)
    x = jax.random.normal(kx, (d,), dtype) * jnp.asarray(logit_scale, dtype)
    s = matmul(A, x)
    b = _noisy(kn, targets(s, loss), noise, loss)
    if loss == "linear":
        return Instance(LinearRegression(A, b, ridge=ridge), x[None])
    return Instance(SoftmaxRegression(A, b, loss=loss, ridge=ridge), x[None])


@compact_repr
class Layer(NamedTuple):
    """A one-layer instance: A1, A2, A3 (n, d) and the outputs B (n, d)."""

    A1: jax.Array
    A2: jax.Array
    A3: jax.Array
    B: jax.Array


def layer_instance(key: jax.Array, *, n: int, d: int, noise: float = 0.0) -> Layer:
    """A random layer in JAX's default float: A1, A2, A3 (n, d) ~ N(0, 1/d), `B = softmax(A1 X A2ᵀ) A3 Y` (n, d).

    X, Y (d, d) ~ N(0, 1); the noise of B is relative to its root mean square.

    Example:
        >>> layer_instance(jax.random.key(0), n=4, d=2).B.shape
        (4, 2)
    """
    check_integer("n", n, at_least=1)
    check_integer("d", d, at_least=1)
    check_number("noise", noise, at_least=0)
    keys = jax.random.split(key, 6)
    A1, A2, A3 = (jax.random.normal(k, (n, d)) / np.sqrt(d) for k in keys[:3])
    X, Y = (jax.random.normal(k, (d, d)) for k in keys[3:5])
    B = jax.nn.softmax(A1 @ X @ A2.T, axis=-1) @ A3 @ Y
    return Layer(A1, A2, A3, B + noise * jnp.sqrt(jnp.mean(B**2)) * jax.random.normal(keys[5], B.shape))
