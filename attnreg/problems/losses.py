"""The objectives exactly as posed in the literature: pure functions of (unknowns, data), and autodiff's target.

These are the readable definitions. They materialise every (n, m) array, know no closed form, and are what the closed
forms in `attnreg.objectives` are checked against. Squared norms are plain, without a factor 1/2. Notation:
docs/theory/README.md.

A matrix loss takes `X` (d1, d2), `A1` (n, d1), `A2` (m, d2), `B` (n, m) and an optional boolean `mask` (n, m), True
where a query may attend a key. It returns a scalar. Map it over documents with `jax.vmap` and add.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

PRECISION = jax.lax.Precision.HIGHEST

# A matrix loss as described above, and an entrywise function of the logits.
Definition = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]


def _logits(X: jax.Array, A1: jax.Array, A2: jax.Array) -> jax.Array:
    return jnp.matmul(jnp.matmul(A1, X, precision=PRECISION), A2.T, precision=PRECISION)


def _allowed(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))


def _softmax(S: jax.Array, mask: jax.Array | None) -> jax.Array:
    if mask is None:
        return jax.nn.softmax(S, axis=-1)
    f = jax.nn.softmax(S, axis=-1, where=mask)
    return jnp.where(mask, f, jnp.zeros_like(f))


def linear_regression(x: jax.Array, A: jax.Array, b: jax.Array) -> jax.Array:
    """`‖A x − b‖²`, a scalar, for x (d,), A (n, d), b (n,).

    >>> import jax.numpy as jnp
    >>> float(linear_regression(jnp.ones(2), jnp.eye(2), jnp.zeros(2)))
    2.0
    """
    return jnp.sum((jnp.matmul(A, x, precision=PRECISION) - b) ** 2)


def softmax_regression(x: jax.Array, A: jax.Array, b: jax.Array) -> jax.Array:
    """`‖⟨exp(Ax), 1⟩⁻¹ exp(Ax) − b‖²`, a scalar, for x (d,), A (n, d), b (n,) (arXiv 2304.13276, 2304.10411)."""
    return jnp.sum((jax.nn.softmax(jnp.matmul(A, x, precision=PRECISION)) - b) ** 2)


def rescaled_softmax_regression(
    x: jax.Array, A: jax.Array, b: jax.Array, *, activation: Activation = jnp.exp
) -> jax.Array:
    """`‖g(Ax) − ⟨g(Ax), 1⟩ b‖²`, a scalar, `g = activation`, for x (d,), A (n, d), b (n,) (arXiv 2305.00660)."""
    u = activation(jnp.matmul(A, x, precision=PRECISION))
    return jnp.sum((u - jnp.sum(u) * b) ** 2)


def linear_attention_regression(
    X: jax.Array, A1: jax.Array, A2: jax.Array, B: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """`‖A1 X A2ᵀ − B‖_F²` over the allowed entries, a scalar; X (d1, d2), A1 (n, d1), A2 (m, d2), B (n, m)."""
    return jnp.sum(_allowed(_logits(X, A1, A2) - B, mask) ** 2)


def attention_regression(
    X: jax.Array, A1: jax.Array, A2: jax.Array, B: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """`‖D(X)⁻¹ exp(A1 X A2ᵀ) − B‖_F²`, `D(X) = diag(exp(A1 X A2ᵀ) 1)`, a scalar (arXiv 2307.02419).

    X (d1, d2), A1 (n, d1), A2 (m, d2), B (n, m).

    >>> import jax.numpy as jnp
    >>> A, B = jnp.eye(2), jnp.full((2, 2), 0.5)
    >>> float(attention_regression(jnp.zeros((2, 2)), A, A, B))
    0.0
    """
    return jnp.sum((_softmax(_logits(X, A1, A2), mask) - _allowed(B, mask)) ** 2)


def rescaled_attention_regression(
    X: jax.Array,
    A1: jax.Array,
    A2: jax.Array,
    B: jax.Array,
    mask: jax.Array | None = None,
    *,
    activation: Activation = jnp.exp,
) -> jax.Array:
    """`‖g(A1 X A2ᵀ) − D(X) B‖_F²`, `D(X) = diag(g(A1 X A2ᵀ) 1)`, `g = activation`, a scalar.

    X (d1, d2), A1 (n, d1), A2 (m, d2), B (n, m). Source: arXiv 2307.02419, 2305.00660.
    """
    u = _allowed(activation(_logits(X, A1, A2)), mask)
    return jnp.sum((u - jnp.sum(u, axis=-1, keepdims=True) * _allowed(B, mask)) ** 2)


def kl_attention_regression(
    X: jax.Array, A1: jax.Array, A2: jax.Array, B: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """`Σ_j β_j KL(b_j / β_j ‖ f_j)`, `f_j` the softmax of row j of `A1 X A2ᵀ`, `β_j = ⟨b_j, 1⟩`, a scalar.

    X (d1, d2), A1 (n, d1), A2 (m, d2), B (n, m) with entries at least 0; a row that sums to 1 adds `KL(b_j ‖ f_j)`.

    >>> import jax.numpy as jnp
    >>> A, B = jnp.eye(2), jnp.full((2, 2), 0.5)
    >>> float(kl_attention_regression(jnp.zeros((2, 2)), A, A, B))
    0.0
    """
    B = _allowed(B, mask)
    target = B / jnp.maximum(jnp.sum(B, axis=-1, keepdims=True), jnp.finfo(B.dtype).tiny)
    log_f = jax.nn.log_softmax(_logits(X, A1, A2), axis=-1, where=mask)
    # 0 log 0 = 0, and a masked key, whose log f is −inf, has no term.
    positive = target > 0
    ratio = jnp.log(jnp.where(positive, target, jnp.ones_like(B))) - jnp.where(positive, log_f, jnp.zeros_like(B))
    return jnp.sum(B * ratio)


def one_layer_attention(
    X: jax.Array,
    Y: jax.Array,
    A1: jax.Array,
    A2: jax.Array,
    A3: jax.Array,
    B: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """`‖D(X)⁻¹ exp(A1 X A2ᵀ) A3 Y − B‖_F²`, a scalar (arXiv 2309.07418).

    X (d1, d2), Y (d3, c), A1 (n, d1), A2 (m, d2), A3 (m, d3), B (n, c).
    """
    f = _softmax(_logits(X, A1, A2), mask)
    values = jnp.matmul(A3, Y, precision=PRECISION)
    return jnp.sum((jnp.matmul(f, values, precision=PRECISION) - B) ** 2)


def logit_regularizer(
    X: jax.Array, A1: jax.Array, A2: jax.Array, W: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """The papers' `½‖W∘(A1 X A2ᵀ)‖_F²`, a scalar, for W (n, m): `½‖diag(w) (A1⊗A2) vec(X)‖²` with `w = vec(W)`."""
    return jnp.sum(_allowed(W * _logits(X, A1, A2), mask) ** 2) / 2


def value_regularizer(Y: jax.Array, A3: jax.Array, v: jax.Array) -> jax.Array:
    """`½‖diag(v) A3 Y‖_F²`, a scalar, for Y (d3, c), A3 (m, d3), v (m,): one weight a key (arXiv 2309.07418).

    >>> float(value_regularizer(jnp.ones((2, 1)), jnp.eye(2), jnp.array([1.0, 2.0])))
    2.5
    """
    return jnp.sum((v[:, None] * jnp.matmul(A3, Y, precision=PRECISION)) ** 2) / 2


def vectorized(loss: Definition) -> Definition:
    """The tensor-trick form of a matrix loss: a function of `(x, A, B)` with `x = vec(X)`, `A = A1 ⊗ A2`.

    `A` is (n·m, d1·d2): an explicit reference for small sizes. The j-th block of m rows gives the j-th row of logits,
    so the loss is the same row function summed over the blocks.

    >>> import jax, jax.numpy as jnp
    >>> A1, A2, X = jnp.eye(2), jnp.ones((3, 2)), jnp.ones((2, 2))
    >>> B = jnp.full((2, 3), 1 / 3)
    >>> bool(jnp.allclose(vectorized(attention_regression)(X.ravel(), jnp.kron(A1, A2), B), 0, atol=1e-12))
    True
    """
    of_logits = on_logits(loss)

    def of_vec(x: jax.Array, A: jax.Array, B: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return of_logits(jnp.matmul(A, x, precision=PRECISION).reshape(B.shape), B, mask)

    return of_vec


def on_logits(loss: Definition) -> Definition:
    """A matrix loss as a function of the logits themselves: `(S, B, mask)`, S and B (n, m), to a scalar.

    >>> import jax.numpy as jnp
    >>> float(on_logits(linear_attention_regression)(jnp.ones((1, 3)), jnp.zeros((1, 3))))
    3.0
    """

    def of_logits(S: jax.Array, B: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        # With X the logits themselves and identities for the data, the matrix loss is its own row function.
        return loss(S, jnp.eye(S.shape[0], dtype=S.dtype), jnp.eye(S.shape[1], dtype=S.dtype), B, mask)

    return of_logits
