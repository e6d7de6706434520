"""The statements of arXiv 2309.07418 on curvature, one row each: published constant, sharp constant, what to measure.

A row claims `measure(p, w) ≤ constant(R, n, d)` for every point p of the published domain (`LayerSizes.ball`) and every
unit direction w; units are the paper's, with the loss `½‖C‖²`. `verdict` says what the printed constant is worth:
"true", or where it fails. docs/theory/errata.md has the counterexamples, docs/theory/one_layer_convexity.md the proofs.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from attnreg.bounds import quantities as Q
from attnreg.bounds.domain import Norms, Point
from attnreg.bounds.estimate import exp, times
from attnreg.bounds.layer_curvature import LayerSizes, sandwich_weight
from attnreg.bounds.registry import BOUNDS

Constant = Callable[[float, int, int], float]
Direction = dict[str, jax.Array]
Measure = Callable[[Point, Direction], jax.Array]


@dataclasses.dataclass(frozen=True)
class Statement:
    """One row.

    Attributes:
        name: lemma of arXiv 2309.07418, and what it limits.
        says: the quantity, in words.
        published: `(R, n, d) -> float`, as printed.
        sharp: the same, proved here.
        measure: `(point, direction) -> scalar`, or None for a Lipschitz constant, which `bound` measures.
        bound: the entry of `registry.BOUNDS` whose half this is (the library's loss has no ½), or "".
        verdict: "true", or where the printed constant fails.
    """

    name: str
    says: str
    published: Constant
    sharp: Constant
    measure: Measure | None
    bound: str = ""
    verdict: str = "true"


def printed_c0(R: float) -> float:
    """`C0 = 30 R⁸` of Lemma F.1, a scalar."""
    return times(30.0, *[R] * 8)


def row_form(p: Point, z: jax.Array, *, entry: bool = False) -> jax.Array:
    """`zᵀ K z` of the first query, a scalar: K sums its outputs, or is that of the first output alone (`entry`).

    p: one layer with A1 (n1, d), B (n1, m); z: (n,).
    """
    values, b = (Q.h(p)[:, :1], p.B[0, :1]) if entry else (Q.h(p), p.B[0])

    def half(s: jax.Array) -> jax.Array:
        return jnp.sum((jnp.matmul(jax.nn.softmax(s), values, precision=Q.PRECISION) - b) ** 2) / 2.0

    def slope(s: jax.Array) -> jax.Array:
        return jax.jvp(half, (s,), (z,))[1]

    return jax.jvp(slope, (Q.logits(p)[0],), (z,))[1]


def entry_form(p: Point, X: jax.Array) -> jax.Array:
    """`vec(X)ᵀ A_[1]ᵀ K A_[1] vec(X)` for the first query and output, a scalar; X shaped like p.X."""
    z = jnp.matmul(jnp.matmul(p.A1[:1], X, precision=Q.PRECISION), p.A2.T, precision=Q.PRECISION)[0]
    return row_form(p, z, entry=True)


def spread_of_attention(p: Point, v: jax.Array) -> jax.Array:
    """`‖F v‖²`, a scalar, for v (n,): at most λ_max(FᵀF), which is what `0.9(FᵀF + w²) ≼ w²` needs a ninth of."""
    return jnp.sum(jnp.matmul(Q.f(p), v, precision=Q.PRECISION) ** 2)


def _sizes(of: Callable[[LayerSizes], float]) -> Constant:
    return lambda R, n, d: of(LayerSizes.ball(R, n=n, d=d))


def _single(quantity: str, factor: Constant = lambda R, n, d: 1.0) -> Constant:
    """The sharp constant of a single softmax regression with `‖A‖, ‖x‖ ≤ R`, times a factor."""
    return lambda R, n, d: times(
        factor(R, n, d), BOUNDS[f"softmax.{quantity}.x"].sharp(Norms.ball("softmax", R, n1=1, n=n))
    )


_SMALL = "false below R = 0.30, where ¼ R⁴ exceeds 30 R⁸; true from 0.41"
_ROWS = (
    Statement(
        "F.1 (1), above", "the kernel of one (j, i), largest eigenvalue", lambda R, n, d: printed_c0(R),
        _sizes(lambda z: z.entry_above), lambda p, w: row_form(p, w["z"], entry=True), verdict=_SMALL,
    ),
    Statement(
        "F.1 (1), below", "the same, smallest eigenvalue with its sign turned", lambda R, n, d: printed_c0(R),
        _sizes(lambda z: z.entry_below), lambda p, w: -row_form(p, w["z"], entry=True), verdict="true for R ≥ 0.37",
    ),
    Statement(
        "F.1 (2)", "norm of A_[j]ᵀ K A_[j]", lambda R, n, d: times(printed_c0(R), R, R),
        _sizes(lambda z: times(z.entry_above, z.block, z.block)), lambda p, w: entry_form(p, w["X"]), verdict=_SMALL,
    ),
    Statement(
        "F.1 (3, 5)", "w² − l/σ² that H_xx ≽ l needs, all outputs", lambda R, n, d: d * printed_c0(R),
        _sizes(lambda z: z.row_below), lambda p, w: -row_form(p, w["z"]),
        verdict="void for d > 1: σ_min(A_[j]) = 0; true with σ_min(A1 ⊗ A2), w² for w and R ≥ 0.37",
    ),
    Statement(
        "F.1 (4, 6)", "w² at which w² is within 10% of K_j + w²", lambda R, n, d: 100.0 * d * printed_c0(R),
        _sizes(sandwich_weight),
        lambda p, w: jnp.maximum(9.0 * row_form(p, w["z"]), -11.0 * row_form(p, w["z"])),
        verdict="true with w² for w and R ≥ 0.23",
    ),
    Statement(
        "G.1 (4)", "v² at which v² is within 10% of FᵀF + v²", lambda R, n, d: 100.0 * n,
        lambda R, n, d: 9.0 * n, lambda p, w: 9.0 * spread_of_attention(p, w["z"]),
    ),
    Statement(
        "I.9", "norm of H_xy", lambda R, n, d: times(10.0 * n * d, R, R), _sizes(lambda z: z.mixed),
        lambda p, w: jnp.abs(Q.mixed_curvature(p, w)),  # half of the form 2 D²L[V, W], whose norm is twice H_xy's
        verdict="false for R ≥ 4.5 at d = 1: ‖A_[j]‖ and ‖A3‖ are missing; true with 10 R⁴",
    ),
    Statement(
        "E.1", "H_xx is Lipschitz in X", lambda R, n, d: times(n**2.5 * d, exp(30.0 * R * R)),
        _sizes(lambda z: z.third[0]), None, "one_layer.hessian_X.X",
    ),
    Statement(
        "I.1", "H_xy is Lipschitz in X", lambda R, n, d: times(n**2.5 * d, exp(20.0 * R * R)),
        _sizes(lambda z: z.third[1]), None, "one_layer.hessian_XY.X",
    ),
    Statement(
        "E.5, u", "u is Lipschitz in x", lambda R, n, d: times(math.sqrt(n), exp(2.0 * R * R)),
        _single("u"), None, "softmax.u.x",
    ),
    Statement(
        "E.5, α⁻¹", "1/α is Lipschitz in x", lambda R, n, d: times(n, exp(4.0 * R * R)),
        _single("alpha_inverse"), None, "softmax.alpha_inverse.x",
    ),
    Statement(
        "E.5, f", "f is Lipschitz in x", lambda R, n, d: times(n**1.5, R, exp(6.0 * R * R)),
        _single("f"), None, "softmax.f.x",
    ),
    Statement(
        "E.5, γ and c", "γ and c are Lipschitz in x", lambda R, n, d: times(n**1.5, exp(7.0 * R * R)),
        _single("f", lambda R, n, d: R * R), None, "softmax.f.x",
    ),
)  # fmt: skip

STATEMENTS: Mapping[str, Statement] = {row.name: row for row in _ROWS}
