"""docs/theory/row_hessian.md, line by line: representation, edge lemma, relaxations, exact certificates."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sympy import QQ, ring

from attnreg.bounds import constants
from attnreg.bounds.quantities import row_loss
from tests.bounds.certificate import divided, over_box, polya
from tests.bounds.edge_lemma import edge_bounds, edge_weights

UPPER, LOWER = QQ(3081, 10000), QQ(2404, 10000)  # just below half of the claimed 0.616234… and 0.480817…


def random_rows(n, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n, 0.5), size=count)


def test_the_rational_stand_ins_are_below_the_claims():
    assert Fraction(3081, 10000) < constants.ROW_CURVATURE_MAX / 2
    assert Fraction(2404, 10000) < -constants.ROW_CURVATURE_MIN / 2


@pytest.mark.parametrize("n", [2, 3, 6])
def test_step_1_the_row_hessian_is_twice_a_signed_laplacian(n):
    for f in random_rows(n, 5):
        L = np.asarray(edge_weights(jnp.asarray(f), 0))
        M = np.diag(L.sum(1)) - L
        b = jnp.zeros(n).at[0].set(1.0)
        H = jax.hessian(row_loss)(jnp.log(jnp.asarray(f)), b)
        np.testing.assert_allclose(2 * M, H, atol=64 * np.finfo(float).eps)


def test_step_2_the_edge_lemma_holds_for_weights_of_any_sign():
    rng = np.random.default_rng(1)
    for n in (2, 3, 5, 9):
        for _ in range(30):
            L = rng.normal(size=(n, n))
            L = np.triu(L, 1) + np.triu(L, 1).T
            values, vectors = np.linalg.eigh(np.diag(L.sum(1)) - L)
            nonzero = np.abs(vectors.sum(0)) < 1e-6  # drop the eigenvector of ones
            low, high = edge_bounds(jnp.asarray(L))
            assert low - 1e-12 <= values[nonzero].min()
            assert values[nonzero].max() <= high + 1e-12


def test_step_3_every_support_stays_within_the_two_point_constants():
    for n in (2, 3, 4, 7):
        low, high = jax.vmap(lambda f: edge_bounds(edge_weights(f, 0)))(jnp.asarray(random_rows(n, 400, n)))
        assert float(high.max()) <= constants.ROW_CURVATURE_MAX / 2 + 1e-12
        assert float(low.min()) >= constants.ROW_CURVATURE_MIN / 2 - 1e-12


def with_label(a, t, r, w=None):
    """Forms of the pair (i, label): `bound = main + r·branch` in barycentric a = f_k, t = f_i, r = the rest."""
    h, s0 = a + t + r, a * a + t * t
    if w is None:  # upper: every rest atom p has 2p − 3p² ≤ 1/3
        x, y = 2 * (a + t) * h - 3 * s0 + h**2 / 3, 4 * a * h - h**2 - 3 * s0 + h**2 / 3
        return 2 * t * a * ((4 * a + 2 * t) * h - h**2 - 3 * s0), (t * x, a * y)
    s = s0 + w * r * r  # lower: Σ p² = w r², and the concave branch lies above its chord
    x, y = 2 * (a + t) * h - 3 * s, 4 * a * h - h**2 - 3 * s
    main = 2 * t * a * (y + 2 * t * h)
    return main, (t * x, a * y), (t * (x + 2 * r * h), a * (y + 2 * r * h))


def test_step_4_relaxation_for_pairs_with_the_label():
    rng = np.random.default_rng(4)
    for n in (3, 5):
        for f in random_rows(n, 200, 11 * n):
            L = np.asarray(edge_weights(jnp.asarray(f), 0))
            i = int(rng.integers(1, n))
            a, t, rest = f[0], f[i], np.delete(f, [0, i])
            r, w = rest.sum(), (rest**2).sum() / rest.sum() ** 2
            others = [j for j in range(1, n) if j != i]
            main, branches = with_label(a, t, r)
            upper = 2 * L[0, i] + np.maximum(L[i, others], L[0, others]).sum()
            assert upper <= main + r * max(branches) + 1e-13
            main, at_0, at_r = with_label(a, t, r, w)
            lower = 2 * L[0, i] + np.minimum(L[i, others], L[0, others]).sum()
            assert lower >= main + r * ((1 - w) * min(at_0) + w * min(at_r)) - 1e-13


def two_points(a, t):
    """`2t·a·(...)` at r = 0: half of 8t²(1−t)(2−3t), homogeneous."""
    g = a + t
    return 2 * t * a * ((4 * a + 2 * t) * g - g**2 - 3 * (a * a + t * t))


def test_step_5_upper_certificate_with_the_label():
    """C h⁴ − bound = [C g⁴ − two points] + r·R, and R is nonnegative: certified in rational arithmetic."""
    _, a, t, r = ring("a t r", QQ)
    main, branches = with_label(a, t, r)
    for branch in branches:
        whole = UPPER * (a + t + r) ** 4 - main - r * branch
        R = divided(whole - (UPPER * (a + t) ** 4 - two_points(a, t)), r)
        assert polya(R, (a, t, r)) is not None


def test_step_6_lower_certificate_with_the_label():
    """The same below: R on the cone a ≥ t/20, the whole form on the cone a ≤ t/20."""
    _, a, t, r, w = ring("a t r w", QQ)
    main, at_0, at_r = with_label(a, t, r, w)
    for zero, one in itertools.product(at_0, at_r):
        whole = LOWER * (a + t + r) ** 4 + main + r * ((1 - w) * zero + w * one)
        R = divided(whole - (LOWER * (a + t) ** 4 + two_points(a, t)), r)
        for form in over_box(R.compose(a, a + t / 20), (w,)):
            assert polya(form, (a, t, r)) is not None
        for form in over_box(whole.compose(t, t + 20 * a), (w,)):
            assert polya(form, (a, t, r)) is not None


def without_label(a, x, y, r, w=None):
    """Forms of the pair (i, j) of atoms x, y that are not the label: main with its choices, and the rest's branches."""
    h, s = a + x + y + r, a * a + x * x + y * y
    s = s if w is None else s + w * r * r
    main = 2 * x * y * (2 * (a + x + y) * h - 3 * s)
    label = tuple(q * a * ((4 * a + 2 * q) * h - h**2 - 3 * s) for q in (x, y))
    extra = (h**2 / 3,) if w is None else (0 * h, 2 * r * h)
    return main, label, tuple(tuple(q * ((2 * a + 2 * q) * h - 3 * s + e) for q in (x, y)) for e in extra)


def test_step_7_relaxation_for_pairs_without_the_label():
    for n in (3, 4, 6):
        for f in random_rows(n, 200, 7 * n):
            L = np.asarray(edge_weights(jnp.asarray(f), 0))
            rest = f[3:]
            r, w = rest.sum(), (rest**2).sum() / rest.sum() ** 2 if n > 3 else 0.0
            others = [0, *range(3, n)]
            main, label, (branch,) = without_label(f[0], f[1], f[2], r)
            upper = 2 * L[1, 2] + np.maximum(L[1, others], L[2, others]).sum()
            assert upper <= main + max(label) + r * max(branch) + 1e-13
            main, label, (at_0, at_r) = without_label(f[0], f[1], f[2], r, w)
            lower = 2 * L[1, 2] + np.minimum(L[1, others], L[2, others]).sum()
            assert lower >= main + min(label) + r * ((1 - w) * min(at_0) + w * min(at_r)) - 1e-13


def test_step_8_certificates_without_the_label():
    """By the symmetry of i and j the label's choice is fixed to the first."""
    _, a, x, y, r, w = ring("a x y r w", QQ)
    h4, simplex = (a + x + y + r) ** 4, (a, x, y, r)
    main, label, (branch,) = without_label(a, x, y, r)
    for b in branch:
        assert polya(UPPER * h4 - main - label[0] - r * b, simplex) is not None
    main, label, (at_0, at_r) = without_label(a, x, y, r, w)
    for zero, one in itertools.product(at_0, at_r):
        whole = LOWER * h4 + main + label[0] + r * ((1 - w) * zero + w * one)
        for form in over_box(whole, (w,)):
            assert polya(form, simplex) is not None
