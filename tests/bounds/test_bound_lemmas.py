"""docs/theory/bounds.md, lemma by lemma, in NumPy on random distributions: each inequality, and that it is reached."""

import math

import numpy as np
import pytest

from attnreg.bounds import Norms, constants
from attnreg.bounds.newton_region import hessian_lipschitz, newton_radius, required_weight


def distributions(n, count=400, seed=0):
    rng = np.random.default_rng(seed)
    f = rng.dirichlet(np.full(n, 0.4), size=count)
    v = rng.normal(size=(count, n))
    v -= v.mean(1, keepdims=True)
    return f, v / np.linalg.norm(v, axis=1, keepdims=True)


def cumulants(f, v):
    y = v - np.sum(f * v, axis=-1, keepdims=True)
    second, third, fourth = (np.sum(f * y**k, axis=-1) for k in (2, 3, 4))
    return second, third, fourth - 3 * second**2


@pytest.mark.parametrize("n", [2, 3, 8])
def test_section_2_cumulants_of_unit_directions(n):
    limits = (constants.JACOBIAN, constants.SECOND_DERIVATIVE, constants.THIRD_DERIVATIVE)
    for value, limit in zip(cumulants(*distributions(n)), limits, strict=True):
        assert np.abs(value).max() <= limit + 1e-14


def test_section_2_cumulants_are_attained_on_two_points():
    t = np.linspace(0, 1, 20001)[:, None]
    f, v = np.hstack([t, 1 - t]), np.full((20001, 2), [1.0, -1.0]) / math.sqrt(2)
    limits = (constants.JACOBIAN, constants.SECOND_DERIVATIVE, constants.THIRD_DERIVATIVE)
    for value, limit in zip(cumulants(f, v), limits, strict=True):
        assert math.isclose(np.abs(value).max(), limit, rel_tol=1e-7)


def test_section_2_peak_and_small_domain_curvature():
    rng = np.random.default_rng(1)
    for n, L in ((3, 0.3), (6, 1.0), (4, 3.0)):
        s = rng.normal(size=(2000, n))
        s *= L * rng.uniform(size=(2000, 1)) / np.linalg.norm(s, axis=1, keepdims=True)
        f = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        peak = 1 / (1 + (n - 1) * math.exp(-L * math.sqrt(n / (n - 1))))
        assert f.max() <= peak
        lam, sigma, a = min(0.5, peak), np.sum(f * f, axis=1), f[:, 0]
        _, v = distributions(n, 2000, 2)
        y = v - np.sum(f * v, axis=1, keepdims=True)
        V = np.sum(f * y * y, axis=1)
        half = 2 * np.sum(f * f * y * y, axis=1) + (a - sigma) * V - a * y[:, 0] ** 2
        assert half.max() <= lam * (3 * peak - 1 / n)
        assert half.min() >= -(peak * lam + (1 + peak) / 12)


def test_part_a_gradient_of_the_row():
    worst = 0.0
    for n in (2, 3, 6):
        f, _ = distributions(n, 4000, n)
        c = f.copy()
        c[:, 0] -= 1
        p = f * (c - np.sum(f * c, axis=1, keepdims=True))
        worst = max(worst, 2 * np.linalg.norm(p, axis=1).max())
        positive = np.maximum(p, 0)
        assert np.allclose(positive.sum(1), -np.minimum(p, 0).sum(1), atol=1e-15)
        assert positive.sum(1).max() <= 8 / 27 + 1e-15
    assert 0.999 * constants.ROW_GRADIENT < worst <= constants.ROW_GRADIENT + 1e-15


def test_section_5_rescaled_curvature_is_above_minus_four_27ths():
    rng = np.random.default_rng(3)
    deepest = 0.0
    for n in (2, 3, 5):
        f, b = rng.dirichlet(np.full(n, 0.4), size=4000), rng.dirichlet(np.full(n, 0.4), size=4000)
        i = rng.integers(0, n, 4000)
        e = np.eye(n)[i]
        b[:2000] = (e[:2000] + f[:2000]) / 2  # the worst targets for place i
        along = np.sum((f - b) * (e - b), axis=1)
        completed = np.sum((b - (e + f) / 2) ** 2, axis=1) - np.sum((e - f) ** 2, axis=1) / 4
        np.testing.assert_allclose(along, completed, atol=1e-14)
        deepest = min(deepest, (2 * f[np.arange(4000), i] * along).min())
        for row, target in zip(f[:200], b[:200], strict=True):
            J = np.diag(row) - np.outer(target, row)
            c = row - target
            H = 2 * (J.T @ J + np.diag(row * (c - c @ target)))
            assert np.linalg.eigvalsh(H)[0] >= constants.RESCALED_CURVATURE_MIN - 1e-14
    assert constants.RESCALED_CURVATURE_MIN <= deepest <= 0.99 * constants.RESCALED_CURVATURE_MIN


def test_section_6_the_weight_makes_instances_convex_and_the_published_one_is_larger():
    rng = np.random.default_rng(4)
    l = 0.1
    for _ in range(50):
        A = rng.normal(size=(5, 2)) * 3
        sigma = np.linalg.svd(A, compute_uv=False)[-1]
        s = A @ rng.normal(size=2)
        f = np.exp(s - s.max())
        f /= f.sum()
        c = f - np.eye(5)[rng.integers(5)]
        G, p = np.diag(f) - np.outer(f, f), f * (c - f @ c)
        H = 2 * (G @ G + np.diag(p) - np.outer(p, f) - np.outer(f, p))
        w2 = required_weight(l, sigma)
        assert np.linalg.eigvalsh(A.T @ (H + w2 * np.eye(5)) @ A)[0] >= l * (1 - 1e-12)
        assert w2 < required_weight(l, sigma, kind="published")
    with pytest.raises(ValueError, match="kind is 'sharpest'"):
        required_weight(l, 1.0, kind="sharpest")


def test_section_6_newton_contracts_inside_the_radius():
    """The contraction `e' ≤ M e²/(2(l − M e)) < e` holds up to the radius, and not just outside."""
    l, M = 0.3, 2.0
    radius = newton_radius(l, M)
    for e, inside in ((0.999 * radius, True), (1.001 * radius, False)):
        step = M * e**2 / (2 * (l - M * e))
        assert (step < e) == inside
    norms = Norms.ball("softmax", 2.0, n1=1, n=6)
    assert hessian_lipschitz(norms) < hessian_lipschitz(norms, kind="published")
    assert hessian_lipschitz(norms._replace(x=1e4), kind="published") == math.inf
