"""docs/theory/one_layer_convexity.md in NumPy: the joint Hessian of one layer from its kernels, and its limits."""

import math

import numpy as np
import pytest

from attnreg.bounds import constants
from attnreg.bounds.layer_curvature import (
    LayerSizes,
    greedy_contraction,
    greedy_weight,
    joint_curvature,
    joint_weights,
    largest_cubic,
    sandwich_weight,
    sizes_from_zero,
    smallest_of_blocks,
    squared_value_weight,
    squared_weight,
    zero_start_weight,
)
from tests.bounds.test_statements import ball, entries
from tests.oracles import published as P

N, D = 4, 2


def sizes_of(p) -> LayerSizes:
    """Limits that hold at one point, measured."""
    F = np.array([row[0].f for row in entries(p)])
    values = p["A3"] @ p["Y"]
    C, norm = F @ values - p["B"], np.linalg.norm
    block = norm(p["A1"], axis=1).max() * norm(p["A2"], 2)
    lift = norm(p["A1"], 2) * norm(p["A2"], 2)
    columns, rows = norm(values, axis=0).max(), norm(C, axis=1).max()
    a3, residual = norm(p["A3"], 2), norm(C, 2)
    return LayerSizes(N, C.shape[1], block, lift, a3, norm(values, 2), columns, rows, np.abs(C).max(), residual)


def joint_hessian(p, w2=0.0, v2=0.0):
    """`½‖C‖²` over (x, y_1, …, y_c) plus `½w²‖S‖² + ½v²‖A3Y‖²`, block by block from the kernels."""
    rows = list(entries(p))
    c, d = len(rows[0]), p["A3"].shape[1]
    xx = sum(e.A.T @ (P.kernel_xx(e) + w2 / c * np.eye(len(e.f))) @ e.A for r in rows for e in r)
    xy = [sum(r[i].A.T @ P.kernel_xy(r[i]) @ r[i].A3 for r in rows) for i in range(c)]
    yy = sum(r[0].A3.T @ P.kernel_yy(r[0]) @ r[0].A3 for r in rows) + v2 * p["A3"].T @ p["A3"]
    xy = np.hstack(xy)
    return np.block([[xx, xy], [xy.T, np.kron(np.eye(c), yy)]]), len(xx), d


def smallest_singular(p):
    low = [np.linalg.svd(p[name], compute_uv=False)[-1] for name in ("A1", "A2", "A3")]
    return low[0] * low[1], low[2]


@pytest.mark.parametrize("R", [0.5, 1.0, 2.0])
def test_the_blocks_and_the_joint_hessian_stay_within_their_limits(R):
    rng = np.random.default_rng(int(2 * R))
    tight = []
    for _ in range(60):
        p = ball(rng, R, N, D)
        sizes, (sigma, sigma3) = sizes_of(p), smallest_singular(p)
        w2, v2 = rng.uniform(0, 3, 2) * R**4
        H, px, _ = joint_hessian(p, w2, v2)
        assert np.linalg.norm(H[:px, px:], 2) <= sizes.mixed * (1 + 1e-12)
        low = np.linalg.eigvalsh(H)[0]
        proved = joint_curvature(sizes, w2, v2, sigma, sigma3)
        assert proved <= low + 1e-12 * np.abs(H).max()
        tight.append(low - proved)
    assert min(tight) >= 0


def test_the_weights_make_every_point_convex_where_most_were_not():
    rng, R, l = np.random.default_rng(3), 1.0, 0.05
    broken = 0
    for _ in range(60):
        p = ball(rng, R, N, D)
        sigma, sigma3 = smallest_singular(p)
        w2, v2 = joint_weights(sizes_of(p), l, sigma, sigma3)
        assert np.linalg.eigvalsh(joint_hessian(p, w2, v2)[0])[0] >= l * (1 - 1e-10)
        broken += np.linalg.eigvalsh(joint_hessian(p, 0.0, 0.0)[0])[0] < 0
    assert broken > 30
    assert squared_weight(LayerSizes.ball(R, n=N, d=D), l, 1.0) < 30 * D
    assert squared_value_weight(l, 0.0) == math.inf


def test_g1_is_exact():
    """With f one-hot where A3 is zero, H_yy is `v² A3ᵀA3` and nothing else: the weight cannot be smaller."""
    A3 = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 2.0]])
    f = np.array([1.0, 0.0, 0.0])
    H = A3.T @ np.outer(f, f) @ A3 + squared_value_weight(0.3, 0.5) * A3.T @ A3
    assert math.isclose(np.linalg.eigvalsh(H)[0], 0.3, rel_tol=1e-12)


def test_the_row_depth_is_attained_as_the_residual_grows():
    """κ c̄ η with κ = √6/9: two points, the values along the move, and a residual much larger than the values."""
    t = 0.5 * (1 - 1 / math.sqrt(3))
    f, v = np.array([t, 1 - t]), np.array([1.0, -1.0]) / math.sqrt(2)
    gamma = f @ v
    for c, close in ((1.0, 0.3), (1e4, 0.9999)):
        e = P.Entry(np.eye(2), np.eye(2), f, 1.0, f, v, gamma, c, f * v)
        lows = [np.linalg.eigvalsh(P.kernel_xx(e._replace(c=sign * c)))[0] for sign in (1, -1)]
        assert close * constants.SECOND_DERIVATIVE * c <= -min(lows) <= constants.SECOND_DERIVATIVE * c


def test_the_sandwich_weight_keeps_the_regularizer_within_a_tenth():
    rng = np.random.default_rng(7)
    for _ in range(40):
        p = ball(rng, 1.0, N, D)
        w2 = sandwich_weight(sizes_of(p))
        for row in entries(p):
            values = np.linalg.eigvalsh(sum(P.kernel_xx(e) for e in row))
            assert (1.1 * (values + w2) >= w2 - 1e-12).all()
            assert (w2 >= 0.9 * (values + w2) - 1e-12).all()


def test_the_rest_of_the_hessian_is_within_the_greedy_rate_of_the_regularizer():
    """`‖G^{-½} N G^{-½}‖` at points of the published domain; the rate is a supremum, but not an idle one."""
    rng, tight = np.random.default_rng(11), []
    for _ in range(60):
        p = ball(rng, 1.0, N, D)
        w2, v2 = rng.uniform(0.5, 3, 2)
        rest = joint_hessian(p)[0]
        factor = np.linalg.cholesky(joint_hessian(p, w2, v2)[0] - rest)
        half = np.linalg.solve(factor, rest)
        found = np.abs(np.linalg.eigvalsh(np.linalg.solve(factor, half.T))).max()
        tight.append(found / greedy_contraction(sizes_of(p), w2, v2))
    assert 0.1 < max(tight) <= 1
    w2 = greedy_weight(sizes_of(p), 0.3)
    assert math.isclose(greedy_contraction(sizes_of(p), w2, w2), 0.3)
    assert greedy_contraction(sizes_of(p), 0.0, 1.0) == math.inf


def test_the_limits_from_zero_hold_wherever_the_loss_is_no_worse_than_at_zero():
    """Points of the convex set, its edge included: values, rows, residual, column sums of F, and the rate itself."""
    rng = np.random.default_rng(12)
    for _ in range(60):
        p = ball(rng, 1.0, N, D)
        b, row = np.linalg.norm(p["B"]), np.linalg.norm(p["B"], axis=1).max()
        w2 = zero_start_weight(b, row, rng.uniform(0.2, 0.9), queries=N, keys=N)
        for name, image in (("X", p["A1"] @ p["X"] @ p["A2"].T), ("Y", p["A3"] @ p["Y"])):
            p[name] = p[name] * b / math.sqrt(w2) / np.linalg.norm(image)
        sizes, attended = sizes_from_zero(b, row, w2, queries=N, keys=N)
        F, own, slack = np.array([r[0].f for r in entries(p)]), sizes_of(p), 1 + 1e-12
        assert np.linalg.norm(F, 2) ** 2 <= attended * slack
        assert own.values <= sizes.values * slack
        assert own.row <= sizes.row * slack
        assert own.residual <= sizes.residual * slack
        rest = joint_hessian(p)[0]
        factor = np.linalg.cholesky(joint_hessian(p, w2, w2)[0] - rest)
        found = np.linalg.norm(np.linalg.solve(factor, np.linalg.solve(factor, rest).T), 2)
        assert found <= greedy_contraction(sizes, w2, w2, attended=attended) <= 0.9 * slack


def test_the_rate_is_attained_by_a_layer_whose_queries_attend_to_one_key():
    """X plays no part where all values are 0, and FᵀF is n at the first key: the rate is n/v² exactly."""
    p = {"A1": np.ones((N, 1)), "A2": np.array([[60.0], [0.0]]), "A3": np.eye(2), "X": np.ones((1, 1))}
    p |= {"Y": np.zeros((2, 1)), "B": np.zeros((N, 1))}
    rest = joint_hessian(p)[0]
    assert math.isclose(np.linalg.eigvalsh(rest)[-1] / 3.0, greedy_contraction(sizes_of(p), 2.0, 3.0), rel_tol=1e-12)


def test_c1_is_a_lower_limit_of_the_exact_two_by_two():
    rng = np.random.default_rng(8)
    for a1, a2, cross in rng.uniform(-1, 3, (50, 3)):
        exact = np.linalg.eigvalsh([[a1, cross], [cross, a2]])[0]
        assert math.isclose(smallest_of_blocks(a1, a2, cross), exact, rel_tol=1e-12, abs_tol=1e-12)
        assert min(a1, a2) - abs(cross) <= exact + 1e-12


def test_largest_cubic_is_the_maximum_on_the_circle():
    angle = np.linspace(0, np.pi / 2, 20001)
    x, y = np.cos(angle), np.sin(angle)
    for a, b, c in np.random.default_rng(9).uniform(0, 1, (30, 3)) ** 3:
        on_grid = np.max(a * x**3 + 3 * b * x**2 * y + 3 * c * x * y**2)
        assert on_grid <= largest_cubic(a, b, c) * (1 + 1e-12) <= on_grid * (1 + 1e-6)
    assert largest_cubic(0.0, 0.0, 0.0) == 0.0
    assert largest_cubic(1.0, math.inf, 0.0) == math.inf
