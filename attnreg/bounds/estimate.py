"""The calculus both columns of the table are computed with: how large a quantity is, and how fast it can change.

An `Estimate(size, lip)` claims, for a quantity Q on a domain, `‖Q‖ ≤ size` and `‖Q(z') − Q(z)‖ ≤ lip · ‖z' − z‖_F`
for all pairs in it. Sums and products of estimates follow from the triangle inequality and from
`Q'P' − QP = (Q' − Q)P' + Q(P' − P)`; nothing about convexity or differentiability is needed.

>>> A, x = Estimate(2.0), Estimate(3.0, 1.0)
>>> (A * x).lip, (A * x * x).lip
(2.0, 12.0)

An infinite limit stands for a number that no float holds. So a product with 0 is 0, and nothing here raises or is NaN.
"""

import math
from typing import NamedTuple


def times(*factors: float) -> float:
    """The product of limits: 0 if one is 0, whatever the others are, and infinite where it overflows.

    >>> times(0.0, math.inf), times(1e200, 1e200)
    (0.0, inf)
    """
    return 0.0 if 0.0 in factors else math.prod(factors)


def exp(x: float) -> float:
    """`e^x`, infinite where it overflows.

    >>> exp(0.0), exp(1e3)
    (1.0, inf)
    """
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


class Estimate(NamedTuple):
    """`size` limits a norm of the quantity, `lip` its Lipschitz constant in the chosen variable."""

    size: float
    lip: float = 0.0

    def __mul__(self, other: "Estimate") -> "Estimate":  # type: ignore[override]
        """A bilinear product `P(Q, R)` with `‖P(Q, R)‖ ≤ ‖Q‖ ‖R‖`."""
        return Estimate(times(self.size, other.size), times(self.lip, other.size) + times(self.size, other.lip))

    def __add__(self, other: "Estimate") -> "Estimate":  # type: ignore[override]
        """A sum (or a difference: signs do not matter)."""
        return Estimate(self.size + other.size, self.lip + other.lip)

    def scaled(self, factor: float) -> "Estimate":
        """The quantity times a constant of absolute value at most `factor`."""
        return Estimate(times(factor, self.size), times(factor, self.lip))


def block_norm(XX: float, XY: float, YY: float) -> float:
    """Spectral norm of `[[XX, XY], [XY, YY]]`: limits a block matrix whose blocks have these norms.

    >>> block_norm(3.0, 0.0, 4.0)
    4.0
    """
    if math.inf in (XX, XY, YY):
        return math.inf
    return XX / 2.0 + YY / 2.0 + math.hypot(XX / 2.0 - YY / 2.0, XY)
