"""One normalized row `ℓ(s) = ‖softmax(s) − e_k‖²`: its extreme derivatives, and the lemma that bounds them.

The row Hessian is `2M` with `M = Σ_{i<j} L_ij (e_i − e_j)(e_i − e_j)ᵀ`, a Laplacian with weights of both signs
(`edge_weights`). If v is the eigenvector of an extreme eigenvalue λ, i and j the places of its largest and smallest
entry and `θ_l = (v_i − v_l)/(v_i − v_j) ∈ [0, 1]`, the difference of lines i and j of `Mv = λv` reads
`λ = 2L_ij + Σ_l [θ_l L_il + (1 − θ_l) L_jl]`, hence `edge_bounds`. docs/theory/row_hessian.md proves with it that the
suprema over all n are those of two points; the searches here look for anything that says otherwise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds import constants
from attnreg.bounds.quantities import row_loss


class RowSupremum(NamedTuple):
    """One extreme of one derivative of the row loss: proved value, and what the searches found."""

    name: str
    order: int
    sign: float
    proved: float
    before: float


# `before` is what multiplying sharp softmax constants gives for simplex targets (docs/theory/bounds.md, section 2):
# 2·½·√2, 2(¼ + √2·√6/9), 2·√2·√6/9 and √6/3 + √2.
SUPREMA = (
    RowSupremum("gradient", 1, 1.0, constants.ROW_GRADIENT, 2.0**0.5),
    RowSupremum("largest curvature", 2, 1.0, constants.ROW_CURVATURE_MAX, 0.5 + 2.0 * 12.0**0.5 / 9.0),
    RowSupremum("smallest curvature", 2, -1.0, -constants.ROW_CURVATURE_MIN, 2.0 * 12.0**0.5 / 9.0),
    RowSupremum("third derivative", 3, 1.0, constants.ROW_THIRD, 6.0**0.5 / 3.0 + 2.0**0.5),
)


def edge_weights(f: jax.Array, k: int) -> jax.Array:
    """`L_ij = f_i f_j (2(f_k + f_i + f_j) − 3‖f‖²)`, and `L_ik = f_i f_k (4f_k + 2f_i − 3‖f‖² − 1)`; zero diagonal.

    >>> import jax.numpy as jnp
    >>> round(float(edge_weights(jnp.array([0.5, 0.5]), 1)[0, 1]), 6)  # t(1−t)·2t(2−3t) at t = 1/2
    0.125
    """
    label = jnp.zeros_like(f).at[k].set(1.0)
    touches = label[:, None] + label[None, :]
    pair = f[:, None] + f[None, :]
    weights = f[:, None] * f[None, :] * (2.0 * (f[k] + pair) - 3.0 * jnp.sum(f * f) - touches)
    return weights - jnp.diag(jnp.diag(weights))


def edge_bounds(L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(lower, upper) limits of the nonzero spectrum of the Laplacian of L, any signs, from the lemma above.

    Largest `2L_ij + Σ_l max(L_il, L_jl)`, smallest `2L_ij + Σ_l min(L_il, L_jl)`, over pairs i ≠ j.
    """
    n = L.shape[0]
    other = 1.0 - jnp.eye(n, dtype=L.dtype)
    keep = other[:, None, :] * other[None, :, :]  # l differs from i and j
    above = 2.0 * L + jnp.sum(keep * jnp.maximum(L[:, None, :], L[None, :, :]), axis=2)
    below = 2.0 * L + jnp.sum(keep * jnp.minimum(L[:, None, :], L[None, :, :]), axis=2)
    eye = jnp.eye(n, dtype=bool)
    return jnp.min(jnp.where(eye, jnp.inf, below)), jnp.max(jnp.where(eye, -jnp.inf, above))


def derivative_along(s: jax.Array, v: jax.Array, k: int, order: int) -> jax.Array:
    """`D^order ℓ(s)[v, …, v]` for the unit direction of v, by nested forward modes."""
    v = v - jnp.mean(v)
    v = v / jnp.sqrt(jnp.sum(v * v) + float(jnp.finfo(v.dtype).tiny) ** 0.5)
    b = jnp.zeros_like(s).at[k].set(1.0)

    def along(tau):
        return row_loss(s + tau * v, b)

    for _ in range(order):
        along = (lambda g: lambda tau: jax.jvp(g, (tau,), (jnp.ones_like(tau),))[1])(along)
    return along(jnp.zeros((), s.dtype))


def search_three_points(order: int, sign: float, *, resolution: int = 40, angles: int = 48) -> float:
    """The largest `sign · D^order ℓ[v…v]` on a grid of all three-point supports and all directions of their plane."""
    t = np.linspace(0.0, 1.0, resolution + 1)
    grid = np.array([(a, b, 1.0 - a - b) for a in t for b in t if a + b <= 1.0 + 1e-12])
    logits = jnp.asarray(np.log(np.maximum(grid, 1e-12)))
    turn = np.linspace(0.0, 2.0 * np.pi, angles, endpoint=False)
    plane = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[2.0], [6.0]])
    directions = jnp.asarray(np.stack([np.cos(turn), np.sin(turn)], 1) @ plane)
    along = jax.vmap(jax.vmap(lambda s, v: sign * derivative_along(s, v, 0, order), (None, 0)), (0, None))
    return float(jnp.max(jax.jit(along)(logits, directions)))


def ascend(order: int, sign: float, key: jax.Array, *, n: int, starts: int, steps: int) -> tuple[float, np.ndarray]:
    """The largest `sign · D^order ℓ[v…v]` found by gradient ascent in (s, v) with n coordinates, and its f."""
    dtype = jnp.zeros(()).dtype
    s_key, v_key = jax.random.split(key)
    state = (3.0 * jax.random.normal(s_key, (starts, n), dtype), jax.random.normal(v_key, (starts, n), dtype))
    slope = jax.vmap(jax.value_and_grad(lambda z: sign * derivative_along(z[0], z[1], 0, order)))

    def step(state, length):
        value, gradient = slope(state)
        size = jnp.sqrt(jnp.sum(gradient[0] ** 2 + gradient[1] ** 2, axis=1, keepdims=True)) + 1e-30
        s, v = (z + length * g / size for z, g in zip(state, gradient, strict=True))
        v = v - jnp.mean(v, axis=1, keepdims=True)
        return (s, v / jnp.sqrt(jnp.sum(v * v, axis=1, keepdims=True))), value

    lengths = jnp.geomspace(0.5, 1e-3, steps, dtype=dtype)
    (s, _), values = jax.jit(lambda z: jax.lax.scan(step, z, lengths))(state)
    start = int(jnp.argmax(jnp.max(values, axis=0)))
    return float(jnp.max(values)), np.asarray(jax.nn.softmax(s[start]))
