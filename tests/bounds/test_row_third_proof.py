"""docs/theory/row_hessian.md, part (c): the identity at an eigenvector, the moments, the exact certificates."""

import jax
import numpy as np
import pytest
from sympy import QQ, ring

from attnreg.bounds import constants
from attnreg.bounds.row_suprema import derivative_along
from tests.bounds.certificate import divided, over_box, polya

C = QQ(404, 1000)  # just below ROW_THIRD / (2√2)


def pieces(a, x, y, labelled, tk, mu, sig, m2, h):
    """`main` and the summand `(θ, p) ↦ θ L'_il + (1−θ) L'_jl` per unit of p; j is the label itself if `labelled`."""
    yk = mu - h if labelled else mu - tk * h

    def free(q, tq, th, p):
        yq, yl = mu - tq * h, mu - th * h
        return q * ((yq + yl) * (2 * (a + q + p) * h - 3 * sig) + 2 * (a * yk + q * yq + p * yl) * h - 6 * m2)

    def label(q, tq, th):
        yq = mu - tq * h
        edge = (yq + yk) * ((4 * a + 2 * q) * h - 3 * sig - h**2) + 2 * (2 * a * yk + q * yq) * h - 6 * m2
        return q * a * edge

    def to_label(th, p):
        yl = mu - th * h
        return a * ((yl + yk) * ((4 * a + 2 * p) * h - 3 * sig - h**2) + 2 * (2 * a * yk + p * yl) * h - 6 * m2)

    if labelled:
        return 2 * label(x, 0, 1), lambda th, p: th * free(x, 0, th, p) + (1 - th) * to_label(th, p)
    edge = (2 * mu - h) * (2 * (a + x + y) * h - 3 * sig) + 2 * (a * yk + x * mu + y * (mu - h)) * h - 6 * m2
    main = 2 * x * y * edge + tk * label(x, 0, tk) + (1 - tk) * label(y, 1, tk)
    return main, lambda th, p: th * free(x, 0, th, p) + (1 - th) * free(y, 1, th, p)


def quotient(f, theta, i, j):
    """Q of the proof, summed over the rest; the label is place 0, `theta[i] = 0`, `theta[j] = 1`."""
    mu, sig = f @ theta, f @ f
    m2 = (f**2) @ (mu - theta)
    labelled = j == 0
    main, summand = pieces(f[0], f[i], 0.0 if labelled else f[j], labelled, theta[0], mu, sig, m2, 1.0)
    rest = [z for z in range(len(f)) if z not in (0, i, j)]
    return main + sum(f[z] * summand(theta[z], f[z]) for z in rest)


@pytest.mark.parametrize("j", [0, 2])
def test_step_1_the_quotient_is_the_difference_of_two_lines_of_the_third_derivative(j):
    """`2ρQ (v_i − v_j) = (D³ℓ[v,v,·])_i − (D³ℓ[v,v,·])_j`, for any v, not only eigenvectors."""
    rng = np.random.default_rng(j)
    third = jax.jit(jax.grad(lambda v, s: _cubic(v, s)))
    for _ in range(5):
        f, theta = rng.dirichlet(np.ones(5)), rng.uniform(size=5)
        theta[1], theta[j] = 0.0, 1.0
        v = -theta + theta.mean()  # ρ = 1
        g = np.asarray(third(v, np.log(f))) / 3.0
        np.testing.assert_allclose(g[1] - g[j], 2.0 * quotient(f, theta, 1, j), atol=1e-13)


def _cubic(v, s):
    """`D³ℓ(s)[v, v, v]` for a v of zero sum, without the normalization of `derivative_along`."""
    size = (v @ v) ** 0.5
    return derivative_along(s, v, 0, 3) * size**3


def test_step_1_random_quotients_stay_below_the_claim():
    rng = np.random.default_rng(2)
    worst = 0.0
    for n in (2, 3, 5):
        for _ in range(2000):
            f, theta = rng.dirichlet(np.full(n, 0.4)), rng.uniform(size=n).round(rng.integers(0, 3))
            j = 0 if n == 2 else int(rng.choice([0, 2]))
            theta[1], theta[j] = 0.0, 1.0
            worst = max(worst, 2.0 * 2.0**0.5 * abs(quotient(f, theta, 1, j)))
    assert 0.9 * constants.ROW_THIRD < worst <= constants.ROW_THIRD


def forms(names, labelled):
    """The homogeneous form of Q in masses, moments and (without the label) θ_k; all as exact polynomials."""
    gens = ring(f"{names} e k1 k2 v v2 th p", QQ)[1:]
    masses, (e, k1, k2, v, v2, th, p) = gens[:-7], gens[-7:]
    a, x, r = masses[0], masses[1], masses[-1 if labelled else 3]
    y, tk = (0 * a, 1 + 0 * a) if labelled else (masses[2], masses[4])
    chi, w, gap = e * k1, e * k1 + (1 - e) * k2, v * e * (1 - e)
    h = a + x + y + r
    mu = (a if labelled else y + a * tk) + e * r
    sig = a * a + x * x + y * y + w * r * r
    yk = mu - tk * h
    m2 = x * x * mu + y * y * (mu - h) + a * a * yk + r * r * (w * mu - chi * h)
    main, summand = pieces(a, x, y, labelled, tk, mu, sig, m2, h)
    moments = {(0, 0): 1, (1, 0): e, (2, 0): e - gap, (0, 1): w * r, (1, 1): chi * r, (2, 1): (chi - v2 * gap) * r}
    place = {z: z.ring.gens.index(z) for z in (th, p)}
    average = 0 * a
    for monomial, c in summand(th, p).terms():
        powers = monomial[place[th]], monomial[place[p]]
        rest = tuple(0 if i in place.values() else n for i, n in enumerate(monomial))
        average += a.ring.from_dict({rest: c}) * moments[powers]
    box = (k1, k2, v, v2, e) if labelled else (k1, k2, v, v2, e, tk)
    return main + r * average, h, (a, x, r) if labelled else (a, x, y, r), box


def test_step_2_the_moments_reproduce_the_quotient():
    rng = np.random.default_rng(3)
    F, _, _, _ = forms("a x r", True)
    for _ in range(5):
        f, theta = rng.dirichlet(np.ones(5)), rng.uniform(size=5)
        theta[1], theta[0] = 0.0, 1.0
        r, q, z = f[2:].sum(), f[2:] / f[2:].sum(), theta[2:]
        e, chi, w, gap = q @ z, q**2 @ z, q @ q, q @ (z * (1 - z))
        k1, k2 = chi / e, (w - chi) / (1 - e)
        v, v2 = gap / (e * (1 - e)), (q**2 @ (z * (1 - z))) / gap
        assert all(-1e-12 <= k <= 1 + 1e-12 for k in (k1, k2, v, v2))
        value = sum(
            float(c) * np.prod([b**n for b, n in zip((f[0], f[1], r, e, k1, k2, v, v2, 0, 0), m, strict=True)])
            for m, c in F.terms()
        )
        np.testing.assert_allclose(value, quotient(f, theta, 1, 0), atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_step_3_certificates_with_the_label(sign):
    F, h, masses, box = forms("a x r", True)
    a, x, r = masses
    edge = 4 * a * x**2 * (4 * a**2 - 7 * a * x + x**2)  # two points: t = x, per 2√2
    R = divided(C * h**5 + sign * F - (C * (a + x) ** 5 + sign * edge), r)
    assert all(polya(form, masses) is not None for form in over_box(R, box))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_step_4_certificates_without_the_label(sign):
    F, h, masses, box = forms("a x y r tk", False)
    assert all(polya(form, masses) is not None for form in over_box(C * h**5 + sign * F, box))
