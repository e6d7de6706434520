"""The two-point suprema by interval arithmetic (mpmath) and exact algebra, independent of floating point and of JAX."""

from fractions import Fraction

import mpmath
import pytest
import sympy

from attnreg.bounds import constants

iv = mpmath.iv
FAMILIES = {
    "gradient": (lambda t: 4 * iv.sqrt(2) * t * t * (1 - t), constants.ROW_GRADIENT, 0),
    "curvature": (
        lambda t: 8 * t * t * (1 - t) * (2 - 3 * t),
        constants.ROW_CURVATURE_MAX,
        constants.ROW_CURVATURE_MIN,
    ),
    "third": (
        lambda t: 8 * iv.sqrt(2) * t * t * (1 - t) * (4 - 15 * t + 12 * t * t),
        0.5472105045303562,  # the smaller, positive extreme
        -constants.ROW_THIRD,
    ),
}


def enclose(family, sign, *, width=Fraction(1, 10**7)):
    """An interval that certainly holds the supremum of sign·family over [0, 1], by branch and bound."""
    low, boxes, kept = mpmath.mpf(0), [(Fraction(0), Fraction(1))], []
    while boxes:
        left, right = boxes.pop()
        middle = (left + right) / 2
        point = sign * family(iv.mpf(middle.numerator) / middle.denominator)
        low = max(low, point.a)
        box = iv.mpf([left.numerator, 0]) if left == right else _interval(left, right)
        # Mean value form: f(m) + f'(box)(box − m), with the derivative enclosed by differences of the polynomial.
        reach = _mean_value(family, sign, box, middle)
        if reach.b <= low:
            continue
        if right - left <= width:
            kept.append(reach.b)
        else:
            boxes += [(left, middle), (middle, right)]
    return low, max(kept, default=low)


def _interval(left, right):
    a, b = iv.mpf(left.numerator) / left.denominator, iv.mpf(right.numerator) / right.denominator
    return iv.mpf([a.a, b.b])


def _mean_value(family, sign, box, middle):
    m = iv.mpf(middle.numerator) / middle.denominator
    slope = SLOPES[family](box)
    return sign * (family(m) + slope * (box - m))


SLOPES = {
    FAMILIES["gradient"][0]: lambda t: 4 * iv.sqrt(2) * (2 * t - 3 * t * t),
    FAMILIES["curvature"][0]: lambda t: 8 * (4 * t - 15 * t * t + 12 * t**3),
    FAMILIES["third"][0]: lambda t: -8 * iv.sqrt(2) * t * (60 * t**3 - 108 * t * t + 57 * t - 8),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_constants_lie_in_interval_enclosures_of_the_suprema(name, sign):
    family, above, below = FAMILIES[name]
    low, high = enclose(family, sign)
    claimed = above if sign > 0 else -below
    assert high - low < 1e-10
    assert low - 1e-12 <= claimed <= high + 1e-12


def test_the_curvature_constants_are_exactly_algebraic():
    t = sympy.symbols("t")
    family = 8 * t**2 * (1 - t) * (2 - 3 * t)
    values = sorted(
        (sympy.radsimp(sympy.expand(family.subs(t, z))) for z in sympy.roots(sympy.diff(family, t))), key=float
    )
    root = sympy.sqrt(33)
    assert sympy.simplify(values[0] - (39 - 55 * root) / 576) == 0
    assert values[1] == 0
    assert sympy.simplify(values[2] - (39 + 55 * root) / 576) == 0


def test_the_third_derivative_is_extreme_at_a_root_of_the_stated_cubic():
    t = sympy.symbols("t")
    cubic = 60 * t**3 - 108 * t**2 + 57 * t - 8
    family = t**2 * (1 - t) * (4 - 15 * t + 12 * t**2)
    assert sympy.expand(sympy.diff(family, t) + t * cubic) == 0
    assert min(abs(float(z) - constants.THIRD_AT) for z in sympy.Poly(cubic).nroots(n=20)) < 1e-15
