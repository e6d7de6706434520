"""Curvature of one-layer attention with ‖A3 Y‖ explicit: the blocks' limits, and the weights that make it convex.

Units of arXiv 2309.07418: `L = ½‖C‖² + ½‖w∘S‖² + ½‖v∘(A3 Y)‖²`, `C = F A3 Y − B`, `S = A1 X A2ᵀ`, v one number a key.
The library's loss is `‖C‖² + …`, so that its squared weights are twice these. Every line is proved in
docs/theory/one_layer_convexity.md.
"""

import math
from typing import NamedTuple

import numpy as np

from attnreg.bounds import constants
from attnreg.bounds.estimate import exp, times


class LayerSizes(NamedTuple):
    """Upper limits on one layer at one point, or on a domain of them; scalars.

    Args:
        queries: n, rows of A1; outputs: c, columns of Y.
        block: `max_j ‖A_[j]‖ = max_j ‖a_j‖ ‖A2‖`; lift: `‖A1 ⊗ A2‖`.
        a3: `‖A3‖`. values: `‖A3 Y‖₂`. column: the largest `‖A3 Y_{*,i}‖`.
        row: the largest `‖c_j‖`. entry: the largest `|c_{j,i}|`. residual: `‖C‖₂`.
    """

    queries: int
    outputs: int
    block: float
    lift: float
    a3: float
    values: float
    column: float
    row: float
    entry: float
    residual: float

    @classmethod
    def ball(cls, R: float, *, n: int, d: int) -> "LayerSizes":
        """The published domain: `‖A_[j]‖ ≤ R`, `‖A3‖ ≤ R`, `‖Y_{*,i}‖ ≤ R`, `|b| ≤ R²`, with n queries and d outputs.

        >>> LayerSizes.ball(2.0, n=4, d=1).residual
        16.0
        """
        root = math.sqrt(d)
        c = times(2.0, R, R)
        return cls(
            n, d, R, math.sqrt(n) * R, R, times(root, R, R), times(R, R), root * c, c, times(math.sqrt(n), root, c)
        )

    @property
    def entry_above(self) -> float:
        """`K ≼ ¼‖v‖² + κ|c| ‖v‖` for the kernel of one (j, i), a scalar; κ = √6/9."""
        return 0.25 * times(self.column, self.column) + self.entry_below

    @property
    def entry_below(self) -> float:
        """`K ≽ −κ|c| ‖v‖`, its absolute value, a scalar."""
        return times(constants.SECOND_DERIVATIVE, self.entry, self.column)

    @property
    def row_above(self) -> float:
        """`K_j ≼ ¼‖A3Y‖² + κ‖c_j‖ ‖A3Y‖` for the kernel of one query, summed over its outputs, a scalar."""
        return 0.25 * times(self.values, self.values) + self.row_below

    @property
    def row_below(self) -> float:
        """`K_j ≽ −κ‖c_j‖ ‖A3Y‖`, its absolute value, a scalar."""
        return times(constants.SECOND_DERIVATIVE, self.row, self.values)

    @property
    def mixed(self) -> float:
        """`‖H_xy‖ ≤ ½‖A1⊗A2‖ ‖A3‖ (√n ‖A3Y‖ + ‖C‖)`, a scalar."""
        return times(0.5, self.lift, self.a3, math.sqrt(self.queries) * self.values + self.residual)

    @property
    def mixed_residual(self) -> float:
        """The part of H_xy that is not Gauss–Newton: at most `½‖A1⊗A2‖ ‖A3‖ ‖C‖`, a scalar."""
        return times(0.5, self.lift, self.a3, self.residual)

    @property
    def third(self) -> tuple[float, float, float]:
        """Norms of the blocks XXX, XXY, XYY of the third derivative in (X, Y), scalars; YYY is 0."""
        kappa, eta, c = constants.SECOND_DERIVATIVE, self.values, self.row
        square = times(self.lift, self.lift)
        xxx = times(square, self.block, 1.5 * times(kappa, eta, eta) + 0.5 * times(eta, c))
        xxy = times(square, self.a3, (kappa + 0.5) * eta + kappa * c)
        return xxx, xxy, times(math.sqrt(self.queries), self.lift, self.a3, self.a3)

    @property
    def hessian_lipschitz(self) -> float:
        """M of the joint Hessian: the largest `D³L[z, z, z]` over unit z = (V, W) that `third` allows, a scalar."""
        return largest_cubic(*self.third)


def largest_cubic(a: float, b: float, c: float) -> float:
    """`max a x³ + 3b x²y + 3c xy²` over x² + y² = 1, for a, b, c ≥ 0, a scalar.

    >>> largest_cubic(2.0, 0.0, 0.0)
    2.0
    """
    if math.inf in (a, b, c):
        return math.inf
    scale = max(a, b, c)
    if scale == 0.0:
        return 0.0
    a, b, c = a / scale, b / scale, c / scale
    # Stationary in t = y/x; beside the roots only t = 0, as the value at t = ∞ is 0.
    roots = np.roots([-c, -2.0 * b, 2.0 * c - a, b])
    t = np.append(roots.real[np.abs(roots.imag) < 1e-6 * (1.0 + np.abs(roots.real))], 0.0)
    return scale * float(np.max((a + 3.0 * b * t + 3.0 * c * t * t) / (1.0 + t * t) ** 1.5))


def squared_weight(sizes: LayerSizes, l: float, sigma: float) -> float:
    """The least `min w²` that guarantees `H_xx ≽ l`: `κ max‖c_j‖ ‖A3Y‖ + l/σ²`, a scalar.

    sigma: the smallest singular value of A1 ⊗ A2, the product of those of A1 and A2. Infinite at 0.

    >>> round(squared_weight(LayerSizes.ball(1.0, n=2, d=1), 0.1, 1.0), 4)
    0.6443
    """
    return sizes.row_below + _over(l, sigma)


def squared_value_weight(l: float, sigma3: float) -> float:
    """The least `min v²` that guarantees `H_yy ≽ l`: `l/σ_min(A3)²`, a scalar (Lemma G.1, which is exact)."""
    return _over(l, sigma3)


def joint_weights(sizes: LayerSizes, l: float, sigma: float, sigma3: float) -> tuple[float, float]:
    """`(min w², min v²)` that guarantee the joint Hessian ≽ l in (X, Y), scalars.

    The Gauss–Newton part is positive semidefinite over (X, Y) together, so only `mixed_residual` couples the blocks.
    Both blocks are given `l + mixed_residual`; any pair with `(α1 − l)(α2 − l) ≥ mixed_residual²` would do.

    >>> joint_weights(LayerSizes.ball(1.0, n=1, d=1), 0.5, 1.0, 1.0)[1]
    1.5
    """
    wanted = l + sizes.mixed_residual
    return squared_weight(sizes, wanted, sigma), squared_value_weight(wanted, sigma3)


def joint_curvature(sizes: LayerSizes, w2: float, v2: float, sigma: float, sigma3: float) -> float:
    """The largest l that this page proves for given `min w²` and `min v²`, a scalar: λ_min of `[[α1, β], [β, α2]]`.

    `α1 = (w² − κ‖c‖‖A3Y‖) σ²` (or times ‖A1⊗A2‖² where negative), `α2 = v² σ_min(A3)²`, `β = mixed_residual`.
    """
    depth = w2 - sizes.row_below
    a1 = depth * (sigma**2 if depth > 0 else sizes.lift**2)
    return smallest_of_blocks(a1, v2 * sigma3**2, sizes.mixed_residual)


def smallest_of_blocks(a1: float, a2: float, cross: float) -> float:
    """`λ_min [[a1, cross], [cross, a2]]`, a scalar: what C.1's `min(a1, a2) − cross` is a lower limit of.

    >>> smallest_of_blocks(3.0, 0.0, 2.0) > min(3.0, 0.0) - 2.0
    True
    """
    return (a1 + a2) / 2.0 - math.hypot((a1 - a2) / 2.0, cross)


def sandwich_weight(sizes: LayerSizes) -> float:
    """The least w² with `1.1(K_j + w²) ≽ w² ≽ 0.9(K_j + w²)`, guaranteed: 11 times below, 9 times above, a scalar."""
    return max(11.0 * sizes.row_below, 9.0 * sizes.row_above)


def _over(l: float, sigma: float) -> float:
    return math.inf if sigma == 0.0 else l / sigma**2


def greedy_contraction(sizes: LayerSizes, w2: float, v2: float, *, attended: float | None = None) -> float:
    """The rate at which Newton with the regularizer's Hessian G in place of the Hessian contracts in ‖·‖_G, a scalar.

    It is `sup ‖G^{-½} N G^{-½}‖`, N the rest of the Hessian, over the domain of `sizes`; with a G̃ within ε of G the
    rate is at most `(ε + this)/(1 − ε)`. Infinite where a weight is 0.

    Args:
        sizes: the domain, which must be convex. w2, v2: `min w²` and `min v²`, scalars.
        attended: a limit on `λ_max(FᵀF)`, a scalar; None takes n, all queries at one key.

    Source: docs/theory/greedy_newton.md.

    >>> round(greedy_contraction(LayerSizes.ball(0.5, n=2, d=1), 10.0, 10.0), 4)
    0.2387
    """
    if w2 <= 0.0 or v2 <= 0.0:
        return math.inf
    reached = float(sizes.queries) if attended is None else attended
    curved, crossed = times(sizes.row_below, 1.0 / w2), 0.5 * sizes.residual / math.sqrt(w2 * v2)
    positive = times(sizes.values, sizes.values) / (4.0 * w2) + reached / v2
    return positive + curved / 2.0 + math.hypot(curved / 2.0, crossed)


def greedy_weight(sizes: LayerSizes, rate: float) -> float:
    """The least w² = v² with which `greedy_contraction` is at most `rate`, a scalar: it falls as 1/w².

    >>> round(greedy_weight(LayerSizes.ball(0.5, n=2, d=1), 0.4), 3)
    5.966
    """
    return greedy_contraction(sizes, 1.0, 1.0) / rate


def sizes_from_zero(b: float, row: float, w2: float, *, queries: int, keys: int) -> tuple[LayerSizes, float]:
    """Limits where `‖A3Y‖ ≤ ‖B‖/w` and `‖A1XA2ᵀ‖ ≤ ‖B‖/w` (Frobenius), and the limit on `λ_max(FᵀF)` there.

    With w² = v² = w2 every point no worse than X = 0, Y = 0 is in this set, and it is convex: so is Algorithm 1 started
    at zero, as long as its rate there is below 1.

    Args:
        b: `‖B‖_F`. row: the largest `‖b_j‖`. w2: the squared weight; scalars. queries, keys: n and m.
    """
    values = b / math.sqrt(w2)
    residual = math.sqrt(queries) * values + b
    # A softmax entry is at most e^(s_i − mean s)/m, and FᵀF at most its largest column sum.
    attended = min(float(queries), times(queries / keys, exp(values)))
    sizes = LayerSizes(queries, 0, 0.0, 0.0, 0.0, values, values, values + row, values + row, residual)
    return sizes, attended


def zero_start_weight(b: float, row: float, rate: float, *, queries: int, keys: int) -> float:
    """The least w² = v² with which Algorithm 1 from X = 0, Y = 0 is guaranteed to contract by `rate`, a scalar.

    b, row: as in `sizes_from_zero`.

    >>> zero_start_weight(1.0, 1.0, 0.4, queries=4, keys=4) < 10.0
    True
    """

    def enough(w2: float) -> bool:
        sizes, attended = sizes_from_zero(b, row, w2, queries=queries, keys=keys)
        return greedy_contraction(sizes, w2, w2, attended=attended) <= rate

    low, high = 1e-12, 1.0
    while not enough(high):
        low, high = high, 4.0 * high
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
