"""The statements of arXiv 2309.07418 in NumPy: sharp constants hold, printed ones fail exactly where the table says."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.bounds import BOUNDS, Point
from attnreg.bounds.statements import STATEMENTS, printed_c0
from tests.oracles import published as P

N, D = 3, 2
RADII = (0.3, 1.0, 2.0)


def ball(rng, R, n=N, d=D) -> dict[str, np.ndarray]:
    """A point on the edge of the published domain: A1, A2, A3, X, Y, B."""
    A1, A2, A3, X, Y = (rng.normal(size=s) for s in ((n, d), (n, d), (n, d), (d, d), (d, d)))
    A1 *= rng.uniform(0.3, 1, (n, 1)) / np.linalg.norm(A1, axis=1, keepdims=True)
    A1, A2 = A1 / np.linalg.norm(A1, axis=1).max(), R * A2 / np.linalg.norm(A2, 2)
    A3, X = R * A3 / np.linalg.norm(A3, 2), R * X / np.linalg.norm(X)
    Y = R * Y / np.linalg.norm(Y, axis=0)
    return dict(A1=A1, A2=A2, X=X, B=R * R * rng.uniform(-1, 1, (n, d)), A3=A3, Y=Y)


def entries(p):
    """Every (j, i) of a point, as `tests.oracles.published.Entry`s, by query."""
    for j, a in enumerate(p["A1"]):
        block = np.kron(a[None], p["A2"])
        outputs = range(p["Y"].shape[1])
        yield [P.entry(block, p["A3"], p["X"].ravel(), p["Y"][:, i], p["B"][j, i]) for i in outputs]


def extremes(p) -> dict[str, float]:
    """What every statement limits, from the kernels and NumPy's eigenvalues."""
    rows = list(entries(p))
    kernels = [P.kernel_xx(e) for row in rows for e in row]
    summed = [sum(P.kernel_xx(e) for e in row) for row in rows]
    low, high = (np.array([np.linalg.eigvalsh(K)[q] for K in kernels]) for q in (0, -1))
    row_low, row_high = (np.array([np.linalg.eigvalsh(K)[q] for K in summed]) for q in (0, -1))
    F = np.array([row[0].f for row in rows])
    lifted = [np.linalg.norm(e.A.T @ K @ e.A, 2) for row in rows for e in row for K in [P.kernel_xx(e)]]
    mixed = np.hstack([sum(r[i].A.T @ P.kernel_xy(r[i]) @ r[i].A3 for r in rows) for i in range(len(rows[0]))])
    return {
        "F.1 (1), above": high.max(),
        "F.1 (1), below": -low.min(),
        "F.1 (2)": max(lifted),
        "F.1 (3, 5)": -row_low.min(),
        "F.1 (4, 6)": max(9 * row_high.max(), -11 * row_low.min()),
        "G.1 (4)": 9 * np.linalg.norm(F, 2) ** 2,
        "I.9": np.linalg.norm(mixed, 2),
    }


def as_point(p) -> Point:
    return Point(**{name: jnp.asarray(z) for name, z in p.items()})


@pytest.mark.parametrize("R", RADII)
def test_no_sharp_constant_is_beaten(R):
    rng = np.random.default_rng(int(10 * R))
    worst = dict.fromkeys(extremes(ball(rng, R)), 0.0)
    for _ in range(150):
        for name, value in extremes(ball(rng, R)).items():
            worst[name] = max(worst[name], value / STATEMENTS[name].sharp(R, N, D))
    assert max(worst.values()) <= 1 + 1e-12
    assert min(worst.values()) > 0.02  # none is vacuous


def test_the_table_measures_what_it_says():
    """`measure` along an extreme eigenvector is the NumPy eigenvalue; along any other direction it is less."""
    rng = np.random.default_rng(5)
    p = ball(rng, 1.3)
    row = next(iter(entries(p)))
    first, summed = P.kernel_xx(row[0]), sum(P.kernel_xx(e) for e in row)
    q = as_point(p)
    for name, K, sign in (
        ("F.1 (1), above", first, 1),
        ("F.1 (1), below", first, -1),
        ("F.1 (3, 5)", summed, -1),
    ):
        values, vectors = np.linalg.eigh(K)
        best, z = (values[-1], vectors[:, -1]) if sign > 0 else (-values[0], vectors[:, 0])
        np.testing.assert_allclose(float(STATEMENTS[name].measure(q, {"z": jnp.asarray(z)})), best, rtol=1e-11)
    z = rng.normal(size=N)
    z /= np.linalg.norm(z)
    form = max(9 * z @ summed @ z, -11 * z @ summed @ z)
    np.testing.assert_allclose(float(STATEMENTS["F.1 (4, 6)"].measure(q, {"z": jnp.asarray(z)})), form, rtol=1e-11)
    spread = 9 * np.sum((np.array([r[0].f for r in entries(p)]) @ z) ** 2)
    np.testing.assert_allclose(float(STATEMENTS["G.1 (4)"].measure(q, {"z": jnp.asarray(z)})), spread, rtol=1e-12)
    V, W = rng.normal(size=(D, D)), rng.normal(size=(D, D))
    block = row[0].A
    lifted = V.ravel() @ block.T @ first @ block @ V.ravel()
    np.testing.assert_allclose(float(STATEMENTS["F.1 (2)"].measure(q, {"X": jnp.asarray(V)})), lifted, rtol=1e-11)
    mixed = sum(V.ravel() @ e.A.T @ P.kernel_xy(e) @ e.A3 @ W[:, i] for r in entries(p) for i, e in enumerate(r))
    got = float(STATEMENTS["I.9"].measure(q, {"X": jnp.asarray(V), "Y": jnp.asarray(W)}))
    np.testing.assert_allclose(got, 2 * abs(mixed), rtol=1e-11)


def two_keys(R, b=0.0):
    """One query between two keys at x = 0, with the values R²(1, −1)/√2: f = (½, ½)."""
    half = np.array([[1.0], [-1.0]]) / math.sqrt(2)
    return dict(
        A1=np.ones((2, 1)), A2=R * half, X=np.zeros((1, 1)), B=np.full((2, 1), b), A3=R * half, Y=np.array([[R]])
    )


def test_f1_as_printed_fails_at_small_r_and_holds_where_the_verdict_says():
    for R in (0.1, 0.29):
        assert extremes(two_keys(R))["F.1 (1), above"] > printed_c0(R)
        assert extremes(two_keys(R))["F.1 (2)"] > STATEMENTS["F.1 (2)"].published(R, 2, 1)
    for R in (0.41, 1.0, 3.0):
        for name, at_least in (("F.1 (1), above", 0.41), ("F.1 (1), below", 0.37), ("F.1 (2)", 0.41)):
            assert at_least <= R
            assert STATEMENTS[name].sharp(R, N, D) <= STATEMENTS[name].published(R, N, D)
    for name, R in (("F.1 (3, 5)", 0.37), ("F.1 (4, 6)", 0.23), ("F.1 (1), below", 0.37)):
        assert STATEMENTS[name].sharp(R, N, D) <= STATEMENTS[name].published(R, N, D)


def test_i9_as_printed_fails_at_large_r_and_holds_with_the_fourth_power():
    R = 4.5
    found = extremes(two_keys(R, b=R * R))["I.9"]
    printed = STATEMENTS["I.9"].published(R, 2, 1)
    assert found > printed
    assert found <= printed * R * R


def test_f1_3_as_printed_is_void_for_more_than_one_feature():
    """No weight makes the Hessian of one (j, i) positive definite: A_[j] has rank at most d, of d² columns."""
    e = next(iter(entries(ball(np.random.default_rng(0), 1.0))))[0]
    heavy = e.A.T @ (P.kernel_xx(e) + 1e6 * np.eye(N)) @ e.A
    assert abs(np.linalg.eigvalsh(heavy)[0]) < 1e-7
    assert np.linalg.svd(e.A, compute_uv=True, full_matrices=True)[2].shape[0] - np.linalg.matrix_rank(e.A) >= D * D - D


def test_f1_3_needs_the_square_of_w():
    """At `w = C0 + l/σ²` below 1 the regularizer's curvature w²σ² is less than l; one key has no other."""
    R, l, sigma = 0.5, 0.02, 0.5
    w = printed_c0(R) + l / sigma**2
    assert w < 1
    assert w * w * sigma**2 < l <= w * sigma**2


@pytest.mark.parametrize("R", [0.1, 0.5, 1.0, 2.0])
def test_lipschitz_statements_are_ordered_and_tied_to_a_measured_bound(R):
    for name in ("E.1", "I.1", "E.5, u", "E.5, α⁻¹", "E.5, f", "E.5, γ and c"):
        row = STATEMENTS[name]
        assert 0 < row.sharp(R, N, D) <= row.published(R, N, D), name
        assert row.bound in BOUNDS
        assert row.measure is None
