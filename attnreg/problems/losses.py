"""The objectives exactly as posed in the literature: pure functions of (unknowns, data), and autodiff's target.

These are the readable definitions. They materialise every n×m array, know no closed form, and are what the closed
forms in `attnreg.objectives` are checked against. Plain squared norms, no factor 1/2. Notation: docs/theory/README.md.

Every matrix loss takes `A1` (n, d1), `A2` (m, d2), `X` (d1, d2), `B` (n, m) and an optional boolean `mask`
(n, m), True where a query may attend a key. Map them over documents with `jax.vmap` and add.
"""

import jax
import jax.numpy as jnp

PRECISION = jax.lax.Precision.HIGHEST


def _logits(X, A1, A2):
    return jnp.matmul(jnp.matmul(A1, X, precision=PRECISION), A2.T, precision=PRECISION)


def _allowed(x, mask):
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))


def _softmax(S, mask):
    if mask is None:
        return jax.nn.softmax(S, axis=-1)
    f = jax.nn.softmax(S, axis=-1, where=mask)
    return jnp.where(mask, f, jnp.zeros_like(f))


def linear_regression(x: jax.Array, A: jax.Array, b: jax.Array) -> jax.Array:
    """`‖A x − b‖²` for x (d,), A (n, d), b (n,).

    >>> import jax.numpy as jnp
    >>> float(linear_regression(jnp.ones(2), jnp.eye(2), jnp.zeros(2)))
    2.0
    """
    return jnp.sum((jnp.matmul(A, x, precision=PRECISION) - b) ** 2)


def softmax_regression(x: jax.Array, A: jax.Array, b: jax.Array) -> jax.Array:
    """`‖⟨exp(Ax), 1⟩⁻¹ exp(Ax) − b‖²` for x (d,), A (n, d), b (n,) (arXiv 2304.13276, 2304.10411)."""
    return jnp.sum((jax.nn.softmax(jnp.matmul(A, x, precision=PRECISION)) - b) ** 2)


def rescaled_softmax_regression(x: jax.Array, A: jax.Array, b: jax.Array, *, activation=jnp.exp) -> jax.Array:
    """`‖g(Ax) − ⟨g(Ax), 1⟩ b‖²` with `g = activation`: exp, cosh or sinh (arXiv 2305.00660)."""
    u = activation(jnp.matmul(A, x, precision=PRECISION))
    return jnp.sum((u - jnp.sum(u) * b) ** 2)


def linear_attention_regression(X, A1, A2, B, mask=None) -> jax.Array:
    """`‖A1 X A2ᵀ − B‖_F²` over the allowed entries."""
    return jnp.sum(_allowed(_logits(X, A1, A2) - B, mask) ** 2)


def attention_regression(X, A1, A2, B, mask=None) -> jax.Array:
    """`‖D(X)⁻¹ exp(A1 X A2ᵀ) − B‖_F²`, `D(X) = diag(exp(A1 X A2ᵀ) 1)` (arXiv 2307.02419).

    >>> import jax.numpy as jnp
    >>> A, B = jnp.eye(2), jnp.full((2, 2), 0.5)
    >>> float(attention_regression(jnp.zeros((2, 2)), A, A, B))
    0.0
    """
    return jnp.sum((_softmax(_logits(X, A1, A2), mask) - _allowed(B, mask)) ** 2)


def rescaled_attention_regression(X, A1, A2, B, mask=None, *, activation=jnp.exp) -> jax.Array:
    """`‖g(A1 X A2ᵀ) − D(X) B‖_F²`, `D(X) = diag(g(A1 X A2ᵀ) 1)`, `g = activation` (arXiv 2307.02419, 2305.00660)."""
    u = _allowed(activation(_logits(X, A1, A2)), mask)
    return jnp.sum((u - jnp.sum(u, axis=-1, keepdims=True) * _allowed(B, mask)) ** 2)


def one_layer_attention(X, Y, A1, A2, A3, B, mask=None) -> jax.Array:
    """`‖D(X)⁻¹ exp(A1 X A2ᵀ) A3 Y − B‖_F²` for A3 (m, d3), Y (d3, c), B (n, c) (arXiv 2309.07418)."""
    f = _softmax(_logits(X, A1, A2), mask)
    values = jnp.matmul(A3, Y, precision=PRECISION)
    return jnp.sum((jnp.matmul(f, values, precision=PRECISION) - B) ** 2)


def logit_regularizer(X, A1, A2, W, mask=None) -> jax.Array:
    """The papers' `½‖W∘(A1 X A2ᵀ)‖_F²`, which is `½‖diag(w) (A1⊗A2) vec(X)‖²` with `w = vec(W)`."""
    return jnp.sum(_allowed(W * _logits(X, A1, A2), mask) ** 2) / 2


def vectorized(loss):
    """The tensor-trick form of a matrix loss: a function of `(x, A, B)` with `x = vec(X)`, `A = A1 ⊗ A2`.

    `A` is (n·m, d1·d2): an explicit reference for small sizes. The j-th block of m rows gives the j-th row of logits,
    so the loss is the same row function summed over the blocks. Equality with the matrix form is tested.

    >>> import jax, jax.numpy as jnp
    >>> A1, A2, X = jnp.eye(2), jnp.ones((3, 2)), jnp.ones((2, 2))
    >>> B = jnp.full((2, 3), 1 / 3)
    >>> bool(jnp.allclose(vectorized(attention_regression)(X.ravel(), jnp.kron(A1, A2), B), 0, atol=1e-12))
    True
    """

    def of_vec(x, A, B, mask=None, **options):
        logits = jnp.matmul(A, x, precision=PRECISION).reshape(B.shape)
        # With X the logits themselves and identities for the data, the matrix loss is its own row function.
        eye_n, eye_m = jnp.eye(B.shape[0], dtype=B.dtype), jnp.eye(B.shape[1], dtype=B.dtype)
        return loss(logits, eye_n, eye_m, B, mask, **options)

    return of_vec
