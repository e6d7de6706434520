"""Sharp constants: the exact row constants of `constants`, lifted to the unknowns and the data by one product rule.

Row constants depend on n and R only through `largest_probability`: on a small domain f cannot be peaked, and each
constant is the smaller of the dimension-free one and the one this gives. Every line is proved in
docs/theory/bounds.md (sections 2 to 5) and docs/theory/row_hessian.md.
"""

import math

from attnreg.bounds import constants
from attnreg.bounds.domain import Norms
from attnreg.bounds.estimate import Estimate, block_norm, exp, times
from attnreg.bounds.hyperbolic import HyperbolicSharp


def largest_probability(n: int, L: float) -> float:
    """`max f_1` over ‖s‖₂ ≤ L: `1 / (1 + (n−1) exp(−L √(n/(n−1))))`, at one logit up and n−1 equal ones down.

    >>> largest_probability(4, 0.0)
    0.25
    """
    if n == 1:
        return 1.0
    return 1.0 / (1.0 + (n - 1) * math.exp(-L * math.sqrt(n / (n - 1))))


def exponential_sum(n: int, L: float) -> float:
    """`Σ e^{s_i} ≤ n + √n L + (e^L − 1 − L)` over ‖s‖₂ ≤ L, because `(e^t − 1 − t)/t²` increases.

    >>> exponential_sum(3, 0.0)
    3.0
    """
    if math.isinf(exp(L)):
        return math.inf
    return n + math.sqrt(n) * L + (math.expm1(L) - L)


def root_exponential_sum(n: int, L: float) -> float:
    """`√exponential_sum(n, 2L)`, the largest `‖e^s‖₂` over ‖s‖₂ ≤ L, also where `e^{2L}` overflows and `e^L` does not.

    >>> root_exponential_sum(4, 0.0), root_exponential_sum(1, 400.0) == math.exp(400.0)
    (2.0, True)
    """
    rest = times(math.exp(-2.0 * L), n - 1 + 2.0 * L * (math.sqrt(n) - 1.0))
    return times(exp(L), math.sqrt(1.0 + rest))


class Sharp(HyperbolicSharp):
    """Estimates of every quantity when `variable` moves in the domain `norms`; attribute names are the registry's.

    Targets are in the simplex (rows of B), as in the published statements.

    >>> round(Sharp(Norms.ball("softmax", 3.0, n1=1, n=4), "X").f.lip, 6)  # R/2
    1.5
    """

    A1: Estimate
    A2: Estimate
    A3: Estimate
    X: Estimate
    Y: Estimate
    S: Estimate
    K: Estimate
    stack: float
    peak: float
    top: float
    sum1: float
    sum2: float
    jacobian: float
    second: float
    third: float

    def __init__(self, norms: Norms, variable: str) -> None:
        def leaf(name: str, size: float) -> Estimate:
            return Estimate(size, 1.0 if name == variable else 0.0)

        self.norms = norms
        self.A1, self.A2, self.A3 = (leaf(n, getattr(norms, n.lower())) for n in ("A1", "A2", "A3"))
        self.X, self.Y = leaf("X", norms.x), leaf("Y", norms.y)
        self.S, self.K = self.A1 * self.X * self.A2, self.A1 * self.A2
        self.stack = math.sqrt(norms.n1)

        n, L = norms.n, norms.logits
        self.peak = largest_probability(n, L)
        self.top, self.sum1, self.sum2 = exp(L), exponential_sum(n, L), root_exponential_sum(n, L)
        self.jacobian = min(constants.JACOBIAN, self.peak)
        self.second = min(constants.SECOND_DERIVATIVE, math.sqrt(2.0) * self.jacobian)
        self.third = min(constants.THIRD_DERIVATIVE, 2.0 * self.jacobian)

    # --- blocks --------------------------------------------------------------------------------------------------

    @property
    def u(self) -> Estimate:
        """`‖Δu‖_F ≤ e^L ‖ΔS‖_F`."""
        return Estimate(math.inf, times(self.top, self.S.lip))

    @property
    def alpha(self) -> Estimate:
        """`|Δα_j| ≤ max ‖u_j‖₂ ‖Δs_j‖₂`."""
        return Estimate(times(self.stack, self.sum1), times(self.sum2, self.S.lip))

    @property
    def log_alpha(self) -> Estimate:
        """`|Δ log α_j| ≤ max ‖f_j‖₂ ‖Δs_j‖₂ ≤ √peak ‖Δs_j‖₂`."""
        return Estimate(math.inf, times(math.sqrt(self.peak), self.S.lip))

    @property
    def alpha_inverse(self) -> Estimate:
        """`|Δ 1/α_j| ≤ max ‖f_j‖₂/α_j ‖Δs_j‖₂` with `α ≥ n e^{−L/√n}` (Jensen)."""
        largest = exp(self.norms.logits / math.sqrt(self.norms.n)) / self.norms.n
        return Estimate(times(self.stack, largest), times(math.sqrt(self.peak), largest, self.S.lip))

    @property
    def f(self) -> Estimate:
        """`‖ΔF‖_F ≤ ½ ‖ΔS‖_F`; `‖F‖₂ ≤ √(n1 peak)`."""
        return Estimate(self.stack * math.sqrt(self.peak), times(self.jacobian, self.S.lip))

    residual = f

    @property
    def residual_rescaled(self) -> Estimate:
        """`c = Σ_i u_i (e_i − b)`, so `‖Dc‖ ≤ √2 ‖u‖₂`."""
        root = math.sqrt(2.0)
        return Estimate(times(self.stack, root, self.sum1), times(root, self.sum2, self.S.lip))

    # --- relative changes, per unit of e^{‖ΔS‖_∞} − 1: free of n and R ------------------------------------------------

    @property
    def u_relative(self) -> Estimate:
        """`|Δu_i| ≤ u_i (e^{|Δs_i|} − 1)`."""
        return Estimate(math.inf, 1.0 if self.S.lip else 0.0)

    alpha_relative = u_relative

    @property
    def residual_rescaled_relative(self) -> Estimate:
        """`‖Δc‖ ≤ Σ_i |Δu_i| ‖e_i − b‖ ≤ √2 α (e^{‖Δs‖_∞} − 1)`."""
        return Estimate(math.inf, math.sqrt(2.0) if self.S.lip else 0.0)

    # --- derivatives: (row gradient, row curvature, row third derivative) lifted --------------------------------------

    def _gradient(self, slope: float, curvature: float) -> Estimate:
        return self.A1 * Estimate(times(self.stack, slope), times(curvature, self.S.lip)) * self.A2

    def _hessian(self, curvature: float, third: float) -> Estimate:
        return self.K * Estimate(curvature, times(third, self.S.lip)) * self.K

    @property
    def row_constants(self) -> tuple[float, float, float]:
        """Normalized row: largest gradient, curvature and third derivative on this domain."""
        far = math.sqrt(1.0 + self.peak)  # ‖f − b‖₂
        slope = min(constants.ROW_GRADIENT, 2.0 * self.jacobian * far)
        above = self.jacobian * (3.0 * self.peak - 1.0 / self.norms.n)
        below = self.jacobian * self.peak + (1.0 + self.peak) / 12.0
        curvature = min(constants.ROW_CURVATURE_MAX, 2.0 * max(above, below))
        third = 2.0 * (3.0 * self.jacobian * self.second + far * self.third)
        return slope, curvature, min(constants.ROW_THIRD, third)

    @property
    def rescaled_row_constants(self) -> tuple[float, float, float]:
        """Rescaled row, from `c = Σ u_i(e_i − b)`: `‖c‖ ≤ √2α`, `‖Dc‖ ≤ √2‖u‖`, `‖D²c‖, ‖D³c‖ ≤ √2 max u`."""
        slope = times(4.0, self.sum2, self.sum1)
        curvature = 4.0 * (times(self.sum2, self.sum2) + times(self.top, self.sum1))
        return slope, curvature, times(4.0, self.top, 3.0 * self.sum2 + self.sum1)

    @property
    def gradient(self) -> Estimate:
        """`A1ᵀ Γ A2` with the rows of Γ the row gradients."""
        return self._gradient(*self.row_constants[:2])

    @property
    def hessian(self) -> Estimate:
        """`(A1⊗A2)ᵀ blockdiag(H_j) (A1⊗A2)`, whose norm is at most `‖A1‖²‖A2‖² max_j ‖H_j‖`."""
        return self._hessian(*self.row_constants[1:])

    @property
    def gradient_rescaled(self) -> Estimate:
        """As `gradient`, with the rescaled row."""
        return self._gradient(*self.rescaled_row_constants[:2])

    @property
    def hessian_rescaled(self) -> Estimate:
        """As `hessian`, with the rescaled row."""
        return self._hessian(*self.rescaled_row_constants[1:])


class OneLayerSharp(Sharp):
    """One-layer attention, any targets with rows of norm at most `norms.b` (docs/theory/bounds.md, section 4)."""

    h: Estimate
    row_f: Estimate
    row_c: Estimate
    C: Estimate
    DF: Estimate
    D2F: Estimate

    def __init__(self, norms: Norms, variable: str) -> None:
        super().__init__(norms, variable)
        self.h = self.A3 * self.Y
        self.row_f = Estimate(math.sqrt(self.peak), times(self.jacobian, self.S.lip))
        self.row_c = self.row_f * self.h + Estimate(norms.b)
        self.C = self.f * self.h + Estimate(times(self.stack, norms.b))
        # V ↦ DF[A1 V A2ᵀ] and V ↦ D²F[·, ·] as multilinear maps of the direction, row by row.
        self.DF = Estimate(self.jacobian, times(self.second, self.S.lip)) * self.K
        self.D2F = Estimate(self.second, times(self.third, self.S.lip)) * self.K * self.K

    @property
    def residual(self) -> Estimate:
        """`C = F A3 Y − B`: `½‖A3Y‖` per unit of ΔS, `‖F A3‖` in Y, `‖F‖‖Y‖` in A3."""
        return self.C

    @property
    def q(self) -> Estimate:
        """`Q = C (A3 Y)ᵀ`."""
        return self.C * self.h

    @property
    def hessian_X(self) -> Estimate:
        """`2[⟨DF h, DF h⟩ + ⟨C, D²F h⟩]`, row by row."""
        return (self.DF * self.h * self.DF * self.h + self.D2F * self.h * self.row_c).scaled(2.0)

    @property
    def gradient_X(self) -> Estimate:
        """`A1ᵀ Γ A2`, `Γ_j = 2 G_j q_j`; moving S changes Γ by the row curvature, moving A3 or Y by `2‖G‖‖ΔQ‖_F`."""
        slope = times(2.0, self.jacobian, self.h.size, self.row_c.size)
        row = times(self.jacobian, self.jacobian, self.h.size) + times(self.second, self.row_c.size)
        curvature = times(2.0, row, self.h.size)
        values = 0.0 if self.S.lip else times(2.0, self.jacobian, self.q.lip)
        return self.A1 * Estimate(times(self.stack, slope), times(curvature, self.S.lip) + values) * self.A2

    @property
    def gradient_Y(self) -> Estimate:
        """`2 (F A3)ᵀ C`."""
        return (self.f * self.A3 * self.C).scaled(2.0)

    @property
    def hessian_XY(self) -> Estimate:
        """`2[⟨DF h, F A3⟩ + ⟨C, DF A3⟩]`."""
        return (self.DF * self.h * self.f * self.A3 + self.DF * self.A3 * self.C).scaled(2.0)

    @property
    def hessian(self) -> Estimate:
        """Joint Hessian in (X, Y): the two blocks above, and YY `2 (F A3)ᵀ(F A3)`."""
        Z = self.f * self.A3
        XX, XY, YY = self.hessian_X, self.hessian_XY, (Z * Z).scaled(2.0)
        return Estimate(block_norm(XX.size, XY.size, YY.size), block_norm(XX.lip, XY.lip, YY.lip))
