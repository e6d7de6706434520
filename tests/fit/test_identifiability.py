"""What the data determine: ranks and gauge against dense ranks, and distances that the gauge cannot change."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.fit.identifiability import identifiability, logit_distance
from attnreg.problems.attention import AttentionRegression
from tests.solvers import table

RNG = np.random.default_rng(0)


def problem(A1, A2, **options):
    A1, A2 = np.atleast_3d(A1), np.atleast_3d(A2)
    return AttentionRegression(A1, A2, np.full((len(A1), A1.shape[1], A2.shape[1]), 1 / A2.shape[1]), **options)


def data(k=1, n=9, m=8, d1=4, d2=3, ones=False, rank1=None, rank2=None):
    """Data of given ranks; `ones` appends a constant key feature."""
    A1 = RNG.normal(size=(k, n, rank1 or d1)) @ RNG.normal(size=(rank1 or d1, d1))
    A2 = RNG.normal(size=(k, m, rank2 or d2)) @ RNG.normal(size=(rank2 or d2, d2))
    if ones:
        A2 = np.concatenate([A2, np.ones((k, m, 1))], axis=2)
    return A1, A2


def dense_rank(p):
    """Rank of the explicit map from x to the (row-centred) logits of all documents."""
    m = p.A2.shape[1]
    C = np.eye(m) if p.loss == "linear" else np.eye(m) - 1 / m
    return np.linalg.matrix_rank(
        np.concatenate([np.kron(a, C @ b) for a, b in zip(np.asarray(p.A1), np.asarray(p.A2), strict=True)])
    )


CASES = {
    "full rank": (data(), {}, 0),
    "constant feature": (data(ones=True), {}, 4),
    "linear loss has no gauge": (data(ones=True), dict(loss="linear"), 0),
    "few queries": (data(n=2, ones=True), {}, 2),
    "duplicated features": (data(rank1=2, rank2=2), {}, 0),
    "documents": (data(k=3, ones=True), {}, 4),
    "small documents add up": (data(k=3, n=1, m=3, d2=3), {}, 0),
    "one key": (data(m=1, d2=2), {}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_rank_and_gauge_are_those_of_the_dense_map(name):
    arrays, options, gauge = CASES[name]
    p = problem(*arrays, **options)
    found = identifiability(p)
    assert found.exact
    assert found.rank_high == dense_rank(p)
    assert found.unknowns == np.prod(p.shape)
    assert found.rank_high + found.gauge + found.missing == found.unknowns
    if gauge is not None:
        assert found.gauge == gauge
    assert f"{found.rank_high} of {found.unknowns} directions" in found.describe()


def alike(seed, dtype):
    """Data whose keys differ in r directions only, none (equal keys) in half of the draws, and their exact ranks.

    Sizes, documents, the offset that all keys share (up to a thousand times their differences) and the scale vary.
    """
    rng = np.random.default_rng(seed)
    k, d1, d2 = (int(rng.integers(1, top)) for top in (4, 5, 6))
    n, m = d1 + int(rng.integers(1, 6)), d2 + int(rng.integers(2, 8))
    r = int(rng.integers(1, d2 + 1)) if rng.random() < 0.5 else 0
    directions = np.linalg.qr(rng.normal(size=(d2, d2)))[0][:r]
    offset = 10.0 ** rng.uniform(0, 3) * rng.normal(size=(k, 1, d2))
    A2 = 10.0 ** rng.uniform(-4, 4) * (offset + rng.normal(size=(k, m, r)) @ directions)
    A1 = 10.0 ** rng.uniform(-4, 4) * rng.normal(size=(k, n, d1))
    B = np.full((k, n, m), 1 / m)
    return AttentionRegression(*(x.astype(dtype) for x in (A1, A2, B))), d1 * r


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(30, 200), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_equal_keys_determine_nothing_whatever_their_size(seeds, dtype):
    wrong = []
    for seed in seeds:
        p, rank = alike(seed, dtype)
        found = identifiability(p)
        if (found.rank_low, found.rank_high) != (rank, rank) or found.missing < 0:
            wrong.append((seed, rank, found))
    assert not wrong, f"{len(wrong)} of {len(seeds)}: {wrong[:3]}"


def test_a_weak_direction_of_the_data_is_not_taken_for_rounding():
    A1, A2 = data(d1=2, d2=2)
    A1[..., 1] *= 1e-10
    A2[..., 1] *= 1e-11
    assert identifiability(problem(A1, A2)).rank_high == 4


def test_large_unknowns_get_bounds_that_hold(monkeypatch):
    # The package exports the function under the module's name.
    monkeypatch.setattr(sys.modules[identifiability.__module__], "DENSE_UNKNOWNS", 0)
    for arrays, options, _ in CASES.values():
        p = problem(*arrays, **options)
        found = identifiability(p)
        assert found.rank_low <= dense_rank(p) <= found.rank_high


def test_the_hessian_has_the_rank_the_data_allow():
    A1, A2 = data(ones=True)
    p = AttentionRegression(A1, A2, RNG.dirichlet(np.ones(8), (1, 9)))
    H = np.asarray(table.objective(p).gauss_newton(jnp.zeros(p.shape)))
    assert np.linalg.matrix_rank(H, tol=1e-10 * np.max(np.abs(H))) == identifiability(p).rank_high


def test_distance_ignores_the_gauge_and_sees_the_rest():
    A1, A2 = data(k=2, ones=True)
    p = problem(A1, A2)
    X = RNG.normal(size=(4, 4))
    gauge = np.outer(RNG.normal(size=4), np.eye(4)[3])
    distance = jax.jit(logit_distance)
    assert float(distance(p, jnp.asarray(X + 10 * gauge), jnp.asarray(X))) <= 1e-13
    other = RNG.normal(size=(4, 4))
    S, T = (A1 @ Z @ A2.swapaxes(1, 2) for Z in (other, X))
    gap, size = (z - z.mean(axis=2, keepdims=True) for z in (S - T, T))
    expected = np.linalg.norm(gap) / np.linalg.norm(size)
    assert float(distance(p, jnp.asarray(other), jnp.asarray(X))) == pytest.approx(expected, rel=1e-12)


def test_distance_centres_over_the_allowed_keys():
    p = table.stack()["masked"]
    X, Z = RNG.normal(size=(3, 3)), RNG.normal(size=(3, 3))
    gap = table.centred_logits(p, X - Z)
    expected = np.linalg.norm(gap) / np.linalg.norm(table.centred_logits(p, Z))
    assert float(logit_distance(p, jnp.asarray(X), jnp.asarray(Z))) == pytest.approx(expected, rel=1e-12)


def test_masked_garbage_does_not_count():
    A1, A2 = data()
    mask = np.ones((9, 8), bool)
    mask[:, 3] = False
    A2 = A2.copy()
    A2[0, 3] = 1e6
    X, Z = jnp.asarray(RNG.normal(size=(4, 3))), jnp.asarray(RNG.normal(size=(4, 3)))
    kept = logit_distance(problem(A1, np.delete(A2, 3, axis=1)), X, Z)
    assert float(logit_distance(problem(A1, A2, mask=mask), X, Z)) == pytest.approx(float(kept), rel=1e-12)


def test_masked_garbage_does_not_count_for_the_linear_loss():
    A1, A2 = data()
    mask = np.ones((9, 8), bool)
    mask[:, 3] = False
    X, Z = jnp.asarray(RNG.normal(size=(4, 3))), jnp.asarray(RNG.normal(size=(4, 3)))
    kept = logit_distance(problem(A1, np.delete(A2, 3, axis=1), loss="linear"), X, Z)
    A2[0, 3] = 1e6
    found = logit_distance(problem(A1, A2, mask=mask, loss="linear"), X, Z)
    assert float(found) == pytest.approx(float(kept), rel=1e-12)
