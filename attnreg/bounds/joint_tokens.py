"""Self-attention in its tokens: A1, A2 and A3 are one document Z and move together.

One head, `S = Z X Zᵀ + 1 (Z c)ᵀ` (c is what a query bias adds to every query's logits), `F = softmax(S)`, `O = F Z Y`.
A bound claims `‖Q(Z') − Q(Z)‖_F ≤ constant · ‖Z' − Z‖_F` for all documents of n tokens whose rows have norm at most
r. A mask changes nothing. Proofs: docs/theory/bounds.md, section 8.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.bounds.estimate import exp, times
from attnreg.problems import losses

PRECISION = losses.PRECISION


class TokenLimits(NamedTuple):
    """A domain: n tokens, their largest norm r, `x = ‖X‖₂`, `y = ‖Y‖₂` and `shift = ‖c‖`; scalars."""

    n: int
    r: float
    x: float
    y: float
    shift: float = 0.0

    @property
    def reach(self) -> float:
        """β, the largest `‖Xᵀz_j + c‖`: how fast a logit moves with its key."""
        return times(self.r, self.x) + self.shift

    @property
    def peak(self) -> float:
        """The largest attention weight: logits of a row differ by at most 2rβ."""
        return 1.0 / (1.0 + (self.n - 1) * exp(-2.0 * times(self.r, self.reach)))


def published_output(z: TokenLimits) -> float:
    """`√3 ‖Y‖ (‖X‖² r⁴ (4n + 1) + n)^½`, without a bias; a scalar.

    Source: attributed to arXiv 2312.14820, Theorem 3.3, whose text was not compared; derived in docs/theory/bounds.md,
    section 8, as a sum of three terms.
    """
    a = times(z.x, z.r, z.r)
    return times(math.sqrt(3.0), z.y, math.sqrt(times(a, a, 4.0 * z.n + 1.0) + z.n))


def product_output(z: TokenLimits) -> float:
    """The product rule with `‖Z‖₂ ≤ √n r`: `½ ‖DS‖ ‖ZY‖ + ‖F‖ ‖Y‖`, which grows like n; a scalar."""
    return times(0.5, product_logits(z), math.sqrt(z.n) * z.r, z.y) + times(math.sqrt(z.n), z.y)


def product_logits(z: TokenLimits) -> float:
    """`‖ΔS‖_F ≤ √n r (‖X‖ + …) ‖ΔZ‖_F`, both factors one after the other; a scalar."""
    return times(math.sqrt(z.n), times(z.r, z.x) + z.reach)


def heaviest_key(a2: float, peak: float) -> float:
    """`max p (1 + a² v(p))` over `0 ≤ p ≤ peak`, `v = min(1, 4p(1 − p))` beyond ½ and 1 below; a scalar.

    `v(p) r²` is the largest variance of points of a ball when one of them has weight p. a2: a².

    >>> heaviest_key(0.0, 1.0), round(heaviest_key(3.0, 0.5), 12)
    (1.0, 2.0)
    """
    if peak <= 0.5:
        return peak * (1.0 + a2)
    a = math.sqrt(a2)
    if math.isinf(a):
        return math.inf
    at = min(peak, (2.0 * a + math.sqrt(4.0 * a2 + 3.0)) / (6.0 * a)) if a > 0.5 else peak
    return at * (1.0 + 4.0 * a2 * at * (1.0 - at))


def sharp_output(z: TokenLimits) -> float:
    """`‖Y‖ (r²‖X‖ + √(n φ))`, φ of `heaviest_key` with a = rβ; a scalar."""
    heavy = heaviest_key(times(z.r, z.reach, z.r, z.reach), z.peak)
    return times(z.y, times(z.r, z.r, z.x) + math.sqrt(z.n * heavy))


def sharp_map(z: TokenLimits) -> float:
    """`r‖X‖ √peak' + √n β peak'` with `peak' = min(½, peak)`; a scalar."""
    half = min(0.5, z.peak)
    return (times(z.r, z.x, math.sqrt(half)) + times(math.sqrt(z.n), z.reach, half)) if z.n > 1 else 0.0


def attention(Z: jax.Array, X: jax.Array, c: jax.Array) -> jax.Array:
    """The map F (n, n) of Z (n, d), X (d, d), c (d,)."""
    keys = jnp.matmul(Z, X.T, precision=PRECISION)  # s_ji = ⟨z_j, X z_i⟩ + ⟨c, z_i⟩
    shift = jnp.matmul(Z, c, precision=PRECISION)[None, :]
    return jax.nn.softmax(jnp.matmul(Z, keys.T, precision=PRECISION) + shift, axis=-1)


def output(Z: jax.Array, X: jax.Array, Y: jax.Array, c: jax.Array) -> jax.Array:
    """`F Z Y` (n, k) of Z (n, d), X (d, d), Y (d, k), c (d,)."""
    return jnp.matmul(attention(Z, X, c), jnp.matmul(Z, Y, precision=PRECISION), precision=PRECISION)


@dataclasses.dataclass(frozen=True)
class TokenBound:
    """One quantity of a document.

    Attributes:
        name: "map" or "output".
        value: `(Z, X, Y, c) -> array`.
        published: of arXiv 2312.14820, or None.
        product: the product rule.
        sharp: proved here.
        attained: where it is (nearly) reached.
    """

    name: str
    value: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
    published: Callable[[TokenLimits], float] | None
    product: Callable[[TokenLimits], float]
    sharp: Callable[[TokenLimits], float]
    attained: str


TOKEN_BOUNDS: Mapping[str, TokenBound] = {
    row.name: row
    for row in (
        TokenBound(
            "map", lambda Z, X, Y, c: attention(Z, X, c), None, lambda z: times(0.5, product_logits(z)), sharp_map,
            "every query halves its attention between two keys that move apart",
        ),
        TokenBound(
            "output", output, published_output, product_output, sharp_output,
            "every query attends to one key with weight 2/3, or with all of it where r²‖X‖ < ½",
        ),
    )
}  # fmt: skip


def local_output(Z: jax.Array, X: jax.Array, Y: jax.Array, c: jax.Array) -> jax.Array:
    """A limit on the derivative of `output` at one document, a scalar: the proof's inequalities with its own numbers.

    `max_j ‖Yᵀ C_j Xᵀ‖ + √(max_i Σ_j f_ji ν_j)`, `ν_j = λ_max(Yᵀ(I + ‖Xᵀz_j + c‖² C_j)Y)`, C_j the covariance of the
    keys under f_j.

    Args:
        Z: tokens (n, d). X: (d, d). Y: values (d, k). c: (d,).

    Cost: n products (k, n)(n, d), and the eigenvalues of 2n symmetric matrices (k, k).
    """
    F = attention(Z, X, c)
    reach = jnp.sum((jnp.matmul(Z, X, precision=PRECISION) + c[None, :]) ** 2, axis=1)

    def row(f: jax.Array, reached: jax.Array) -> tuple[jax.Array, jax.Array]:
        centred = Z - jnp.matmul(f, Z, precision=PRECISION)[None, :]
        values = jnp.matmul(centred, Y, precision=PRECISION)
        moved = jnp.matmul((values * f[:, None]).T, jnp.matmul(centred, X.T, precision=PRECISION), precision=PRECISION)
        spread = jnp.matmul(Y.T, Y, precision=PRECISION) + reached * jnp.matmul(
            (values * f[:, None]).T, values, precision=PRECISION
        )
        # The largest singular values, from (k, k) matrices.
        own = jnp.linalg.eigvalsh(jnp.matmul(moved, moved.T, precision=PRECISION))[-1]
        return jnp.sqrt(own), jnp.linalg.eigvalsh(spread)[-1]

    own, heavy = jax.lax.map(lambda each: row(*each), (F, reach))
    return jnp.max(own) + jnp.sqrt(jnp.max(jnp.matmul(F.T, heavy, precision=PRECISION)))
