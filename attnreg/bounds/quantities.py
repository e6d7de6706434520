"""The building blocks of attention regression as pure functions of one instance, straight from their definitions.

Nothing here is a closed form: gradients and Hessians are autodiff of `attnreg.problems.losses`, so that a bound is
checked against something that shares no derivation with it. Every function takes a `Point` and, where it needs one, a
direction. Letters: `S = A1 X A2ᵀ`, `u = exp S`, `α = u 1`, `f = u/α`, `h = A3 Y`, `c` the residual, `q = c hᵀ`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.bounds.domain import Point
from attnreg.problems import losses

PRECISION = losses.PRECISION
Activation = losses.Activation
Rescaled = bool | Activation


def _dot(A: Any, B: Any) -> jax.Array:
    return jnp.matmul(A, B, precision=PRECISION)


def logits(p: Point) -> jax.Array:
    """`S = A1 X A2ᵀ` (n1, n)."""
    return _dot(_dot(p.A1, p.X), p.A2.T)


def u(p: Point) -> jax.Array:
    """`exp(S)` (n1, n)."""
    return jnp.exp(logits(p))


def alpha(p: Point) -> jax.Array:
    """Row sums `α = u 1` (n1,)."""
    return jnp.sum(u(p), axis=1)


def log_alpha(p: Point) -> jax.Array:
    """`log α` (n1,)."""
    return jax.nn.logsumexp(logits(p), axis=1)


def alpha_inverse(p: Point) -> jax.Array:
    """`1/α` (n1,)."""
    return jnp.exp(-log_alpha(p))


def f(p: Point) -> jax.Array:
    """`softmax(S)` by rows (n1, n)."""
    return jax.nn.softmax(logits(p), axis=1)


def residual(p: Point) -> jax.Array:
    """Normalized `c = f − B` (n1, n)."""
    return f(p) - p.B


def residual_rescaled(p: Point) -> jax.Array:
    """Rescaled `c = u − diag(α) B` (n1, n)."""
    return u(p) - alpha(p)[:, None] * p.B


def h(p: Point) -> jax.Array:
    """Value vectors `A3 Y` (n, m)."""
    return _dot(p.A3, p.Y)


def residual_one_layer(p: Point) -> jax.Array:
    """`c = f A3 Y − B` (n1, m)."""
    return _dot(f(p), h(p)) - p.B


def q(p: Point) -> jax.Array:
    """`q = c hᵀ` (n1, n): row j is `Σ_i c_{j,i} h_i`."""
    return _dot(residual_one_layer(p), h(p).T)


def activated(p: Point, activation: Activation) -> jax.Array:
    """`g(S)` (n1, n) for an entrywise g: `jnp.cosh` or `jnp.sinh`."""
    return activation(logits(p))


def residual_activated(p: Point, activation: Activation) -> jax.Array:
    """`c = g(S) − diag(α) B` (n1, n), `α = g(S) 1`, for an entrywise g."""
    g = activated(p, activation)
    return g - jnp.sum(g, axis=1, keepdims=True) * p.B


def loss(p: Point, family: str, *, rescaled: Rescaled = False) -> jax.Array:
    """The objective of `family` at p, a scalar, from `attnreg.problems.losses`; `rescaled` may be its g."""
    if family == "one_layer":
        assert p.Y is not None, "a one-layer point has Y"
        assert p.A3 is not None, "a one-layer point has A3"
        return losses.one_layer_attention(p.X, p.Y, p.A1, p.A2, p.A3, p.B)
    if rescaled is False:
        return losses.attention_regression(p.X, p.A1, p.A2, p.B)
    activation = jnp.exp if rescaled is True else rescaled
    return losses.rescaled_attention_regression(p.X, p.A1, p.A2, p.B, activation=activation)


def gradient(p: Point, family: str, *, unknown: str = "X", rescaled: Rescaled = False) -> jax.Array:
    """Gradient of the objective in `unknown` ("X" or "Y"), shaped like it, by reverse-mode autodiff of the loss."""
    return jax.grad(lambda z: loss(p._replace(**{unknown: z}), family, rescaled=rescaled))(getattr(p, unknown))


def curvature(p: Point, direction: dict[str, jax.Array], family: str, *, rescaled: Rescaled = False) -> jax.Array:
    """`D²L(p)[w, w]`, a scalar, for the direction w by unknown name.

    direction: {"X": W} or {"X": W, "Y": V}, shaped like X and Y.

    Cost: four passes (two nested forward modes).

    For a unit w this is at most the spectral norm of the Hessian, and reaches it at the extreme eigenvector; so the
    change of a Hessian can be maximised over w without ever forming it.

    >>> import jax.numpy as jnp
    >>> from attnreg.bounds.domain import softmax_point
    >>> p = softmax_point(jnp.eye(2), jnp.zeros(2), jnp.array([0.0, 1.0]))
    >>> round(float(curvature(p, {"X": jnp.array([[0.5**0.5, -(0.5**0.5)]])}, "softmax")), 6)  # 8t²(1−t)(2−3t), t=1/2
    0.5
    """
    names = tuple(direction)
    tangents = tuple(direction[name] for name in names)

    def along(*values: jax.Array) -> jax.Array:
        return loss(p._replace(**dict(zip(names, values, strict=True))), family, rescaled=rescaled)

    def slope(*values: jax.Array) -> jax.Array:
        return jax.jvp(along, values, tangents)[1]

    return jax.jvp(slope, tuple(getattr(p, name) for name in names), tangents)[1]


def mixed_curvature(p: Point, direction: dict[str, jax.Array]) -> jax.Array:
    """`D²L(p)[V, W]` of the one-layer loss, a scalar, V along X and W along Y.

    direction: {"X": V, "Y": W}, shaped like X and Y.

    Cost: two nested forward modes.
    """
    assert p.Y is not None, "a one-layer point has Y"

    def slope(Y: jax.Array) -> jax.Array:
        return jax.jvp(lambda X: loss(p._replace(X=X, Y=Y), "one_layer"), (p.X,), (direction["X"],))[1]

    return jax.jvp(slope, (p.Y,), (direction["Y"],))[1]


def row_loss(s: jax.Array, b: jax.Array) -> jax.Array:
    """`‖softmax(s) − b‖²`, the normalized row function in its logits s (n,) and targets b (n,); a scalar."""
    return jnp.sum((jax.nn.softmax(s) - b) ** 2)
