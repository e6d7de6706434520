"""Where a bound is claimed: the data and unknowns of one instance, the norms that limit them, and membership.

The three families, "softmax", "attention" and "one_layer", are one: single softmax regression is the matrix family
with one row, `A1 = (1)`, `A2 = A`, `X = xᵀ`; one-layer attention adds `A3`, `Y`. Norms are spectral for A1, A2, A3, Y,
Frobenius for X, and the largest row 2-norm for B. The published domain `‖A‖ ≤ R, ‖x‖ ≤ R` becomes
`‖A1‖, ‖A2‖ ≤ √R` (so `‖A1 ⊗ A2‖ ≤ R`), `‖X‖_F ≤ R`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.checks import check_choice, check_integer, check_number

SQUARINGS = 8
SLACK = 1e-12  # rounding that membership forgives

# Which arrays a family has, and the papers' name of each.
VARIABLES = {
    "softmax": {"X": "x", "A2": "A"},
    "attention": {"X": "X", "A1": "A1", "A2": "A2"},
    "one_layer": {"X": "X", "Y": "Y", "A1": "A1", "A2": "A2", "A3": "A3"},
}


class Point(NamedTuple):
    """One instance: A1 (n1, d1), A2 (n, d2), X (d1, d2), B (n1, n), or B (n1, m) with A3 (n, d3), Y (d3, m)."""

    A1: jax.Array
    A2: jax.Array
    X: jax.Array
    B: jax.Array
    A3: jax.Array | None = None
    Y: jax.Array | None = None


def softmax_point(A: jax.Array, x: jax.Array, b: jax.Array) -> Point:
    """Single softmax regression, A (n, d), x (d,), b (n,), as a `Point` with one row.

    >>> import jax.numpy as jnp
    >>> softmax_point(jnp.eye(3), jnp.ones(3), jnp.ones(3) / 3).X.shape
    (1, 3)
    """
    return Point(jnp.ones((1, 1), A.dtype), A, x[None, :], b[None, :])


class Norms(NamedTuple):
    """Upper limits on one instance; a bound is a function of these alone.

    `n1` rows (queries), `n` keys; `a1, a2, a3, y` spectral norms, `x` Frobenius, `b` the largest row of B.
    `b = 1` with `simplex` says that the rows of B are probability vectors.
    """

    n1: int
    n: int
    a1: float
    a2: float
    x: float
    b: float = 1.0
    a3: float = 0.0
    y: float = 0.0

    @property
    def logits(self) -> float:
        """`‖A1 X A2ᵀ‖_F ≤ ‖A1‖ ‖X‖_F ‖A2‖`, which also limits every row and every entry."""
        return self.a1 * self.x * self.a2

    @classmethod
    def ball(cls, family: str, R: float, *, n1: int, n: int) -> "Norms":
        """The published domain of radius R (one-layer: `‖A3‖, ‖Y‖ ≤ R` and rows of B at most R², as A3 Y reaches).

        >>> Norms.ball("softmax", 2.0, n1=1, n=5).logits
        4.0
        """
        check_choice("family", family, VARIABLES)
        check_number("R", R, at_least=0)
        check_integer("n1", n1, at_least=1)
        check_integer("n", n, at_least=1)
        if family == "softmax":
            return cls(1, n, 1.0, R, R)
        root = R**0.5
        if family == "attention":
            return cls(n1, n, root, root, R)
        return cls(n1, n, root, root, R, b=R * R, a3=R, y=R)

    @classmethod
    def of(cls, *points: Point) -> "Norms":
        """The smallest limits that hold for all `points` (measured with NumPy on the host)."""

        def largest(name: str, order: Any) -> float:
            values = [getattr(p, name) for p in points]
            return max(
                (float(np.linalg.norm(np.asarray(v, np.float64), order)) for v in values if v is not None), default=0.0
            )

        rows = max(float(np.max(np.linalg.norm(np.asarray(p.B, np.float64), axis=1))) for p in points)
        n1, n = points[0].A1.shape[0], points[0].A2.shape[0]
        return cls(
            n1, n, largest("A1", 2), largest("A2", 2), largest("X", "fro"), rows, largest("A3", 2), largest("Y", 2)
        )


def contains(norms: Norms, point: Point, *, simplex: bool) -> bool:
    """Whether `point` lies in the domain: every norm within its limit, and B's rows in the simplex if asked.

    Cost: three singular value decompositions on the host.
    """
    have = Norms.of(point)
    limits = zip(have[2:], norms[2:], strict=True)
    inside = all(h <= limit * (1 + SLACK) + SLACK for h, limit in limits if limit or h)
    if simplex:
        B = np.asarray(point.B, np.float64)
        inside = inside and bool(B.min() >= -SLACK and np.max(np.abs(B.sum(1) - 1.0)) <= SLACK * B.shape[1])
    return inside and (have.n1, have.n) == (norms.n1, norms.n)


def spectral_ceiling(A: jax.Array) -> jax.Array:
    """A differentiable upper bound on ‖A‖₂, a scalar: exact for two columns, at most `k^(1/512)` too large for k.

    `‖A‖₂² = λ_max(G) ≤ tr(G^256)^(1/256)` with G the smaller Gram matrix, by repeated squaring; no LAPACK call, so it
    can be mapped over a million small matrices. A is (n, k); cost `O(n k² + 8 k³)`.

    >>> import jax.numpy as jnp
    >>> round(float(spectral_ceiling(jnp.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))), 6)
    4.0
    """
    if A.shape[0] < A.shape[1]:
        A = A.T
    tiny = float(jnp.finfo(A.dtype).tiny) ** 0.5
    G = jnp.sum(A[:, :, None] * A[:, None, :], axis=0)
    if G.shape[0] == 1:
        return jnp.sqrt(G[0, 0] + tiny)
    if G.shape[0] == 2:
        gap = jnp.sqrt((G[0, 0] - G[1, 1]) ** 2 + 4.0 * G[0, 1] ** 2 + tiny)
        return jnp.sqrt((G[0, 0] + G[1, 1] + gap) / 2.0)
    log = jnp.zeros((), A.dtype)
    for _ in range(SQUARINGS):
        trace = jnp.trace(G) + tiny
        log, G = 2.0 * (log + jnp.log(trace)), G / trace
        G = jnp.sum(G[:, :, None] * G[None, :, :], axis=1)
    return jnp.exp((log + jnp.log(jnp.trace(G))) / 2.0 ** (SQUARINGS + 1))
