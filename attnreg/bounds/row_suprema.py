"""One normalized row `ℓ(s) = ‖softmax(s) − e_k‖²`: its extreme derivatives, and searches for larger ones.

docs/theory/row_hessian.md proves that the suprema over all n are those of two points; the searches here look for
anything that says otherwise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds import constants
from attnreg.bounds.ascent import ascend
from attnreg.bounds.quantities import row_loss

ANGLES = 48  # directions of the plane that the grid search tries


class RowSupremum(NamedTuple):
    """One extreme of one derivative of the row loss: its proved value, and the norm-product bound it replaces."""

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


def derivative_along(s: jax.Array, v: jax.Array, k: int, order: int) -> jax.Array:
    """`D^order ℓ(s)[v, …, v]` for the unit direction of v, a scalar, by nested forward modes.

    Args:
        s: logits (n,).
        v: direction (n,); its mean is taken off and it is scaled to unit length.
        k: the place of the 1 in the targets e_k.
        order: how many derivatives.

    Cost: 2^order passes over the row.
    """
    v = v - jnp.mean(v)
    v = v / jnp.sqrt(jnp.sum(v * v) + float(jnp.finfo(v.dtype).tiny) ** 0.5)
    b = jnp.zeros_like(s).at[k].set(1.0)

    def along(tau: jax.Array) -> jax.Array:
        return row_loss(s + tau * v, b)

    for _ in range(order):
        along = (lambda g: lambda tau: jax.jvp(g, (tau,), (jnp.ones_like(tau),))[1])(along)
    return along(jnp.zeros((), s.dtype))


def search_three_points(order: int, sign: float, *, resolution: int) -> float:
    """The largest `sign · D^order ℓ[v…v]` on a grid of all three-point supports and all directions of their plane.

    Cost: about 24 · resolution² evaluations.
    """
    t = np.linspace(0.0, 1.0, resolution + 1)
    grid = np.array([(a, b, 1.0 - a - b) for a in t for b in t if a + b <= 1.0 + 1e-12])
    logits = jnp.asarray(np.log(np.maximum(grid, 1e-12)))
    turn = np.linspace(0.0, 2.0 * np.pi, ANGLES, endpoint=False)
    plane = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[2.0], [6.0]])
    directions = jnp.asarray(np.stack([np.cos(turn), np.sin(turn)], 1) @ plane)
    along = jax.vmap(jax.vmap(lambda s, v: sign * derivative_along(s, v, 0, order), (None, 0)), (0, None))
    return float(jnp.max(jax.jit(along)(logits, directions)))


def climb(order: int, sign: float, key: jax.Array, *, n: int, starts: int, steps: int) -> tuple[float, np.ndarray]:
    """The largest `sign · D^order ℓ[v…v]` that ascent in (s, v) finds with n coordinates, and its end's f (n,).

    Cost: `starts · steps` values and gradients.
    """
    dtype = jnp.zeros(()).dtype
    s_key, v_key = jax.random.split(key)
    state = (3.0 * jax.random.normal(s_key, (starts, n), dtype), jax.random.normal(v_key, (starts, n), dtype))

    def unit(z: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        v = z[1] - jnp.mean(z[1], axis=1, keepdims=True)
        return z[0], v / jnp.sqrt(jnp.sum(v * v, axis=1, keepdims=True))

    def value(z: tuple[jax.Array, jax.Array]) -> jax.Array:
        return sign * derivative_along(z[0], z[1], 0, order)

    lengths = jnp.geomspace(0.5, 1e-3, steps, dtype=dtype)[:-1]
    found = jax.jit(lambda z: ascend(value, z, project=unit, lengths=lengths))(state)
    best = int(jnp.argmax(found.best))
    return float(found.best[best]), np.asarray(jax.nn.softmax(found.end[0][best]))
