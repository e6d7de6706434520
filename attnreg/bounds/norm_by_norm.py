"""The published kind of constants: norms multiplied one by one, as arXiv 2304.13276 and 2307.02419 do.

Each constant is *proved* but makes no attempt to be good: exponentials are limited entry by entry, `α ≥ β = e^{−L}`,
every matrix product by the product of the norms, every sum over rows or keys by its number of terms (L is the largest
logit, R² on the published domain). The papers' `exp(O(R²))` factors and powers of n come out of exactly these steps.
Derivation: docs/theory/bounds.md, section 1.
"""

import math

from attnreg.bounds.domain import Norms
from attnreg.bounds.estimate import Estimate, block_norm, exp, times


class NormByNorm:
    """Estimates of every quantity when `variable` moves in the domain `norms`; attribute names are the registry's.

    >>> chain = NormByNorm(Norms.ball("softmax", 1.0, n1=1, n=4), "X")
    >>> chain.f.lip > 100 * 0.5  # the sharp constant is 1/2
    True
    """

    A1: Estimate
    A2: Estimate
    A3: Estimate
    X: Estimate
    Y: Estimate
    S: Estimate
    G: Estimate
    K: Estimate
    stack: float
    row_u: Estimate
    row_alpha: Estimate
    row_alpha_inverse: Estimate
    row_f: Estimate

    def __init__(self, norms: Norms, variable: str) -> None:
        def leaf(name: str, size: float) -> Estimate:
            return Estimate(size, 1.0 if name == variable else 0.0)

        self.norms = norms
        self.A1, self.A2, self.A3 = (leaf(n, getattr(norms, n.lower())) for n in ("A1", "A2", "A3"))
        self.X, self.Y = leaf("X", norms.x), leaf("Y", norms.y)
        self.S = self.A1 * self.X * self.A2
        self.stack = math.sqrt(norms.n1)

        # One row. exp is limited by its largest value; the sum of n entries by √n times their 2-norm.
        top, root = exp(norms.logits), math.sqrt(norms.n)
        self.row_u = Estimate(times(root, top), times(root, top, self.S.lip))
        self.row_alpha = self.row_u.scaled(root)
        self.row_alpha_inverse = Estimate(top, times(top, top, self.row_alpha.lip))
        ratio = self.row_alpha_inverse * self.row_u
        self.row_f = Estimate(1.0, ratio.lip)
        self.G = self.row_f + self.row_f * self.row_f
        self.K = self.A1 * self.A2

    # --- stacked over the rows -------------------------------------------------------------------------------

    @property
    def u(self) -> Estimate:
        """`exp S`."""
        return self.row_u.scaled(self.stack)

    @property
    def alpha(self) -> Estimate:
        """`u 1`."""
        return self.row_alpha.scaled(self.stack)

    @property
    def log_alpha(self) -> Estimate:
        """`|log α' − log α| ≤ β⁻¹ |α' − α|`."""
        return Estimate(math.inf, times(exp(self.norms.logits), self.alpha.lip))

    @property
    def alpha_inverse(self) -> Estimate:
        """`|1/α' − 1/α| ≤ β⁻² |α' − α|`."""
        return self.row_alpha_inverse.scaled(self.stack)

    @property
    def f(self) -> Estimate:
        """`α⁻¹ u`."""
        return self.row_f.scaled(self.stack)

    residual = f

    @property
    def row_rescaled(self) -> Estimate:
        """`u − α b`."""
        return self.row_u + self.row_alpha.scaled(self.norms.b)

    @property
    def residual_rescaled(self) -> Estimate:
        """`u − diag(α) B`."""
        return self.row_rescaled.scaled(self.stack)

    # --- relative changes, per unit of e^{‖ΔS‖_∞} − 1 ≥ ‖ΔS‖_∞; divide by the smallest u or α ---------------------

    @property
    def u_relative(self) -> Estimate:
        """`max |u' − u| / u`, with `u ≥ e^{−L}`."""
        return self._relative(1.0)

    @property
    def alpha_relative(self) -> Estimate:
        """`max |α' − α| / α`, with `α ≥ β`."""
        return self._relative(self.norms.n)

    @property
    def residual_rescaled_relative(self) -> Estimate:
        """`max_j ‖c' − c‖₂ / α`, by √n(1 + √n ‖b‖) entries."""
        root = math.sqrt(self.norms.n)
        return self._relative(root * (1.0 + root * self.norms.b))

    def _relative(self, factor: float) -> Estimate:
        return Estimate(math.inf, times(factor, exp(2.0 * self.norms.logits)) if self.S.lip else 0.0)

    # --- derivatives -------------------------------------------------------------------------------------------

    @property
    def gradient(self) -> Estimate:
        """`2 A1ᵀ (G_j c_j)_j A2`, `G = diag f − f fᵀ`."""
        c = self.row_f + Estimate(self.norms.b)
        return (self.A1 * (self.G * c).scaled(2.0 * self.stack)) * self.A2

    @property
    def hessian(self) -> Estimate:
        """`2 (A1⊗A2)ᵀ diag_j(GG + diag p − pfᵀ − fpᵀ) (A1⊗A2)`, `p = G c`."""
        c = self.row_f + Estimate(self.norms.b)
        return self._lifted(self.G * self.G, self.G * c)

    def _lifted(self, gauss_newton: Estimate, p: Estimate) -> Estimate:
        row = (gauss_newton + p + (p * self.row_f).scaled(2.0)).scaled(2.0)
        return self.K * row * self.K

    @property
    def gradient_rescaled(self) -> Estimate:
        """`2 A1ᵀ (u∘(r − ⟨r,b⟩1))_j A2`."""
        z = self.row_rescaled.scaled(1.0 + math.sqrt(self.norms.n) * self.norms.b)
        return (self.A1 * (self.row_u * z).scaled(2.0 * self.stack)) * self.A2

    @property
    def hessian_rescaled(self) -> Estimate:
        """`2 (A1⊗A2)ᵀ diag_j(diag(u∘(z+u)) − (u∘b)uᵀ − u(u∘b)ᵀ + ‖b‖²uuᵀ) (A1⊗A2)`."""
        b = self.norms.b
        z = self.row_rescaled.scaled(1.0 + math.sqrt(self.norms.n) * b)
        row = self.row_u * (z + self.row_u) + (self.row_u * self.row_u).scaled(2.0 * b + b * b)
        return self.K * row.scaled(2.0) * self.K

    # |cosh|, |sinh| and all their derivatives are at most e^L: the same steps give the same constants.
    u_cosh: property = u
    u_sinh: property = u
    alpha_cosh: property = alpha
    alpha_sinh: property = alpha
    residual_cosh: property = residual_rescaled
    residual_sinh: property = residual_rescaled
    gradient_cosh: property = gradient_rescaled
    gradient_sinh: property = gradient_rescaled
    hessian_cosh: property = hessian_rescaled
    hessian_sinh: property = hessian_rescaled


class OneLayerNormByNorm(NormByNorm):
    """The same for one-layer attention: `h = A3 Y`, `c = f h − b`, `q = h c`."""

    h: Estimate
    row_c: Estimate
    row_q: Estimate

    def __init__(self, norms: Norms, variable: str) -> None:
        super().__init__(norms, variable)
        self.h = self.A3 * self.Y
        self.row_c = self.row_f * self.h + Estimate(norms.b)
        self.row_q = self.h * self.row_c

    @property
    def residual(self) -> Estimate:
        """`f A3 Y − B`."""
        return self.row_c.scaled(self.stack)

    @property
    def q(self) -> Estimate:
        """`c hᵀ`."""
        return self.row_q.scaled(self.stack)

    @property
    def gradient_X(self) -> Estimate:
        """`2 A1ᵀ (G_j q_j)_j A2`."""
        return (self.A1 * (self.G * self.row_q).scaled(2.0 * self.stack)) * self.A2

    @property
    def gradient_Y(self) -> Estimate:
        """`2 A3ᵀ fᵀ c`."""
        return (self.A3 * self.f * self.residual).scaled(2.0)

    @property
    def hessian_X(self) -> Estimate:
        """The X block, norm by norm."""
        return self._lifted(self.G * self.h * self.h * self.G, self.G * self.row_q)

    @property
    def hessian_XY(self) -> Estimate:
        """The mixed block: every row adds the product of its norms."""
        first = self.K * self.G * self.h * self.row_f * self.A3
        return (first + self.K * self.G * self.A3 * self.row_c).scaled(2.0 * self.stack**2)

    @property
    def hessian(self) -> Estimate:
        """Joint Hessian in (X, Y): its three blocks."""
        XX, XY = self.hessian_X, self.hessian_XY
        YY = (self.row_f * self.A3 * self.row_f * self.A3).scaled(2.0 * self.stack**2)
        return Estimate(block_norm(XX.size, XY.size, YY.size), block_norm(XX.lip, XY.lip, YY.lip))
