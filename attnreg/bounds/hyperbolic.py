"""Sharp constants of the rescaled residual with cosh or sinh in the place of exp (arXiv 2305.00660).

For targets in the simplex `c = Σ_i g_i (e_i − b)` with `‖e_i − b‖ ≤ √2`, whatever the entrywise function g is. So all
constants follow from four numbers on `‖s‖₂ ≤ L`: `Σ|g|`, `‖g'‖₂`, and the largest `|g''|` and `|g'''|`
(docs/theory/bounds.md, section 5).
"""

import abc
import math
from typing import NamedTuple

from attnreg.bounds.domain import Norms
from attnreg.bounds.estimate import Estimate, exp, times
from attnreg.problems.checks import check_choice

# ∇²‖g − αb‖² ≽ −depth · (Σ|g|)² for b in the simplex: 4/27 where g > 0 (cosh, as for exp), 1/6 for any signs (sinh).
DEPTH = {"cosh": 4.0 / 27.0, "sinh": 1.0 / 6.0}


class Entrywise(NamedTuple):
    """Limits on ‖s‖₂ ≤ L, scalars: `Σ|g|`, `‖g'‖₂`, `max|g'|`, `max|g''|`, `max|g'''|`."""

    total: float
    root: float
    first: float
    second: float
    third: float

    @property
    def row(self) -> tuple[float, float, float]:
        """Largest gradient, curvature and third derivative of `‖c‖²` in the logits of one row, scalars."""
        slope = times(4.0, self.total, self.root)
        curvature = 4.0 * (times(self.root, self.root) + times(self.total, self.second))
        return slope, curvature, 4.0 * (times(3.0, self.root, self.second) + times(self.total, self.third))


def entrywise(activation: str, n: int, L: float) -> Entrywise:
    """The limits for "cosh" or "sinh" and n keys, each attained or the sum of what is, on ‖s‖₂ ≤ L.

    Raises:
        ProblemError: for another activation.

    >>> entrywise("cosh", 3, 0.0).total, round(entrywise("sinh", 3, 0.0).root, 6)
    (3.0, 1.732051)
    """
    check_choice("activation", activation, DEPTH)
    cosh, sinh = (exp(L) + exp(-L)) / 2.0, math.sinh(L) if L < 700.0 else exp(L) / 2.0
    if activation == "cosh":
        return Entrywise(n - 1 + cosh, sinh, sinh, cosh, sinh)
    total = math.inf if math.isinf(sinh) else math.sqrt(n) * L + (sinh - L)
    return Entrywise(total, math.hypot(math.sqrt(n - 1), cosh), cosh, sinh, cosh)


def hyperbolic_weight(activation: str, l: float, sigma_min: float, *, n: int, L: float) -> float:
    """The least `w²` that guarantees `∇² ≽ l` where `‖s‖₂ ≤ L`, for targets in the simplex, a scalar.

    Args:
        activation: "cosh" or "sinh". l: wanted curvature. sigma_min: smallest singular value of A, or of A1 ⊗ A2.
        n: keys. L: largest norm of a row of logits, `Norms.logits`.

    Raises:
        ProblemError: for another activation.

    >>> round(hyperbolic_weight("cosh", 0.1, 1.0, n=2, L=0.0), 4)
    0.6926
    """
    total = entrywise(activation, n, L).total
    return times(DEPTH[activation], total, total) + l / sigma_min**2


class HyperbolicSharp(abc.ABC):
    """Properties of `attnreg.bounds.sharp.Sharp`, one a quantity and activation; names are the registry's."""

    norms: Norms
    S: Estimate
    stack: float

    @abc.abstractmethod
    def _gradient(self, slope: float, curvature: float) -> Estimate:
        """Of the gradient in X, from those in a row of logits."""

    @abc.abstractmethod
    def _hessian(self, curvature: float, third: float) -> Estimate:
        """Of the Hessian in X, from those in a row of logits."""

    def _entrywise(self, activation: str) -> Entrywise:
        return entrywise(activation, self.norms.n, self.norms.logits)

    def _u(self, activation: str) -> Estimate:
        return Estimate(math.inf, times(self._entrywise(activation).first, self.S.lip))

    def _sum(self, activation: str, factor: float = 1.0) -> Estimate:
        e = self._entrywise(activation)
        return Estimate(times(self.stack, factor, e.total), times(factor, e.root, self.S.lip))

    @property
    def u_cosh(self) -> Estimate:
        """`‖Δ cosh S‖_F ≤ sinh L ‖ΔS‖_F`."""
        return self._u("cosh")

    @property
    def u_sinh(self) -> Estimate:
        """`‖Δ sinh S‖_F ≤ cosh L ‖ΔS‖_F`."""
        return self._u("sinh")

    @property
    def alpha_cosh(self) -> Estimate:
        """`|Δα| ≤ ‖sinh s‖₂ ‖Δs‖₂ ≤ sinh L ‖Δs‖₂`."""
        return self._sum("cosh")

    @property
    def alpha_sinh(self) -> Estimate:
        """`|Δα| ≤ ‖cosh s‖₂ ‖Δs‖₂`, `‖cosh s‖₂² ≤ n − 1 + cosh² L`."""
        return self._sum("sinh")

    @property
    def residual_cosh(self) -> Estimate:
        """`‖Dc‖ ≤ √2 ‖sinh s‖₂`."""
        return self._sum("cosh", math.sqrt(2.0))

    @property
    def residual_sinh(self) -> Estimate:
        """`‖Dc‖ ≤ √2 ‖cosh s‖₂`."""
        return self._sum("sinh", math.sqrt(2.0))

    @property
    def gradient_cosh(self) -> Estimate:
        """As `gradient`, with the cosh row."""
        return self._gradient(*self._entrywise("cosh").row[:2])

    @property
    def gradient_sinh(self) -> Estimate:
        """As `gradient`, with the sinh row."""
        return self._gradient(*self._entrywise("sinh").row[:2])

    @property
    def hessian_cosh(self) -> Estimate:
        """As `hessian`, with the cosh row."""
        return self._hessian(*self._entrywise("cosh").row[1:])

    @property
    def hessian_sinh(self) -> Estimate:
        """As `hessian`, with the sinh row."""
        return self._hessian(*self._entrywise("sinh").row[1:])
