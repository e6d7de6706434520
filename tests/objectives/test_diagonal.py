"""The diagonal part of the Hessian against the dense sum, and what its constants claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.bounds import constants
from attnreg.bounds.newton_region import approximation_weight, required_weight
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.diagonal import diagonal_hessian, diagonal_sampler
from attnreg.objectives.sampled import spectral_error
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError
from attnreg.solvers.sketched import SketchedNewton
from tests.oracles import published as P

N, M, D = 5, 4, 2


def problem(weight=None):
    rng = np.random.default_rng(0)
    A1, A2, B = rng.normal(size=(N, D)), rng.normal(size=(M, D)), rng.dirichlet(np.ones(M), N)
    return AttentionRegression(A1, A2, B, weight=weight, ridge=0.2)


def diagonal_of_row(f, b):
    """D̃ of `‖f − b‖²`: twice the `diag(ŵ)` of the printed Hessian, whose other terms are of rank two."""
    return 2 * (f * f + P.normalized_gradient(f, b))


def test_it_is_the_dense_sum_of_the_diagonals():
    data, X = problem(weight=0.7), np.random.default_rng(1).normal(size=(D, D))
    A1, A2, B = (np.asarray(z)[0] for z in (data.A1, data.A2, data.B))
    want = 0.2 * np.eye(D * D)
    for a, b in zip(A1, B, strict=True):
        block = np.kron(a[None], A2)
        u = np.exp(block @ X.ravel())
        want += block.T @ np.diag(diagonal_of_row(u / u.sum(), b) + 0.7**2) @ block
    have = jax.jit(diagonal_hessian)(AttentionObjective(data, block_rows=2), jnp.asarray(X))
    np.testing.assert_allclose(have, want, rtol=1e-12, atol=1e-12)
    with pytest.raises(ProblemError, match="takes an AttentionObjective, not a AttentionRegression"):
        diagonal_hessian(data, jnp.asarray(X))


def rows(count=4000):
    """Random rows with one-hot targets, and two-point ones that reach the extremes."""
    rng = np.random.default_rng(2)
    for n in (2, 3, 6):
        for f in rng.dirichlet(np.full(n, 0.3), count // 3):
            yield f, np.eye(n)[rng.integers(n)]
    for a in np.linspace(0, 1, 201):
        yield np.array([a, 1 - a]), np.array([1.0, 0.0])


def test_the_diagonal_stays_in_its_range_and_reaches_both_ends():
    entries = np.array([[d.min(), d.max()] for d in (diagonal_of_row(f, b) for f, b in rows())])
    assert entries[:, 0].min() >= constants.DIAGONAL_MIN - 1e-14
    assert entries[:, 0].min() <= 0.999 * constants.DIAGONAL_MIN
    assert entries[:, 1].max() <= constants.DIAGONAL_MAX + 1e-14
    assert entries[:, 1].max() >= 0.999 * constants.DIAGONAL_MAX
    sigma, l = 0.5, 0.1
    assert (
        required_weight(l, sigma, kind="diagonal")
        < required_weight(l, sigma)
        < required_weight(l, sigma, kind="published")
    )


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_what_is_kept_is_within_epsilon_from_the_weight_on_and_the_diagonal_needs_more(epsilon):
    """`λ` such that `kept − λ`-pencils stay in [1−ε, 1+ε], row by row; less weight breaks it."""
    regularizer = approximation_weight(epsilon)
    diagonal = approximation_weight(epsilon, keep="diagonal")
    worst = {"regularizer": 0.0, "diagonal": 0.0, "less": 0.0, "one hot": 0.0}
    for f, b in (*rows(300), (np.eye(3)[0] * (1 - 2e-9) + 1e-9, np.eye(3)[0])):
        H, D_ = 2 * P.normalized_hessian(f, b), np.diag(diagonal_of_row(f, b))
        for name, kept, w2 in (
            ("regularizer", 0 * H, regularizer),
            ("diagonal", D_, diagonal),
            ("less", 0 * H, 0.98 * regularizer),
            ("one hot", D_, 0.98 * constants.DIAGONAL_MAX / epsilon),
        ):
            eye = w2 * np.eye(len(f))
            ratios = np.linalg.eigvals(np.linalg.solve(H + eye, kept + eye)).real
            worst[name] = max(worst[name], np.abs(ratios - 1).max())
    assert worst["regularizer"] <= epsilon + 1e-12
    assert worst["diagonal"] <= epsilon + 1e-12
    assert worst["less"] > epsilon
    assert worst["one hot"] > epsilon
    with pytest.raises(ProblemError, match="keep is 'rows'; it must be one of 'regularizer', 'diagonal'"):
        approximation_weight(epsilon, keep="rows")


@pytest.mark.slow
def test_newton_with_the_diagonal_alone_reaches_the_exact_minimum():
    """From the weight on the matrix is within a tenth of the Hessian, so fourteen steps leave 1e-12 of the gradient."""
    objective = AttentionObjective(problem(weight=approximation_weight(0.1, keep="diagonal") ** 0.5))
    start = 0.1 * jnp.ones((D, D))
    exact, kept = objective.hessian(start), diagonal_hessian(objective, start)
    assert float(spectral_error(kept, exact)) <= 0.1
    result = SketchedNewton(diagonal_sampler, 1, safeguard=False, max_steps=14, tol=0.0).run(objective, start)
    slopes = [float(jnp.linalg.norm(objective.value_and_grad(X)[1])) for X in (start, result.params)]
    assert slopes[1] < 1e-11 * slopes[0]
