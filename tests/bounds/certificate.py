"""Exact nonnegativity certificates: a form is nonnegative on the simplex if some (Σ z)^N times it has no negative term.

Everything is rational arithmetic (sympy's sparse polynomial rings), so a certificate found is a proof.
"""

from math import comb

from sympy import QQ


def polya(form, variables, largest: int = 45) -> int | None:
    """The least N with `(Σ variables)^N · form` free of negative coefficients; None if none up to `largest`."""
    total = sum(variables)
    for power in range(largest + 1):
        if all(c >= 0 for c in form.coeffs()):
            return power
        form = form * total
    return None


def bernstein(form, parameter) -> list:
    """Bernstein coefficients of `form` in `parameter` over [0, 1]: if all are ≥ 0, so is the form for every value."""
    powers = coefficients(form, parameter)
    n = len(powers) - 1
    return [sum((powers[k] * QQ(comb(i, k), comb(n, k)) for k in range(i + 1)), form.ring.zero) for i in range(n + 1)]


def coefficients(form, parameter) -> list:
    """`form` as a list of coefficients of the powers of `parameter`."""
    ring, index = form.ring, form.ring.gens.index(parameter)
    parts: dict[int, dict] = {}
    for monomial, c in form.terms():
        rest = tuple(0 if i == index else e for i, e in enumerate(monomial))
        parts.setdefault(monomial[index], {})[rest] = c
    return [ring.from_dict(parts.get(k, {})) for k in range(max(parts, default=0) + 1)]


def over_box(form, parameters) -> list:
    """All Bernstein coefficients of `form` over the unit box of `parameters` (vertices where it is affine)."""
    forms = [form]
    for parameter in parameters:
        forms = [piece for f in forms for piece in bernstein(f, parameter)]
    return forms


def divided(form, variable):
    """`form / variable`, which must divide exactly."""
    parts = coefficients(form, variable)
    assert parts[0] == 0, "the form does not vanish where the variable does"
    return sum((c * variable**k for k, c in enumerate(parts[1:])), form.ring.zero)
