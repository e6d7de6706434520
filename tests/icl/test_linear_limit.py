"""The limit is the published one, and the exact loss of a fit is that of documents drawn without the library."""

import math

import jax
import numpy as np
import pytest

from attnreg.icl.linear_limit import Proportions, fit_linear_attention, limiting_loss, loss_of, wishart_transform
from attnreg.problems.checks import ProblemError

PUBLISHED = {10.0: (0.6616, 0.2127, 0.1394, 0.1150), 1.0: (1.2738, 1.0379, 0.6964, 0.5826)}


@pytest.mark.parametrize("alpha", PUBLISHED)
def test_the_eight_published_numbers(alpha):
    found = [round(limiting_loss(Proportions(tau, alpha, 0.01, 10.0)), 4) for tau in (0.5, 2.0, 4.0, 10.0)]
    assert found == list(PUBLISHED[alpha])


def test_the_transform_is_that_of_random_matrices():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(600, 400))
    found = np.mean(1.0 / (np.linalg.eigvalsh(W.T @ W / 600) + 0.7))
    assert math.isclose(wishart_transform(0.7, 1.5), found, rel_tol=0.01)


def test_the_loss_of_a_fit_is_that_of_fresh_documents():
    z = Proportions(3.0, 2.0, 0.2, 5.0)
    gamma = fit_linear_attention(jax.random.key(1), z, dimension=5)
    rng, d, rows, count = np.random.default_rng(2), 5, 10, 40000
    w = rng.normal(size=(count, d))
    w *= math.sqrt(d) / np.linalg.norm(w, axis=1, keepdims=True)
    x = rng.normal(size=(count, rows + 1, d)) / math.sqrt(d)
    y = np.einsum("nid,nd->ni", x, w) + math.sqrt(z.rho) * rng.normal(size=(count, rows + 1))
    h = np.concatenate(
        [d / rows * np.einsum("ni,nid->nd", y[:, :-1], x[:, :-1]), (y[:, :-1] ** 2).mean(1, keepdims=True)], axis=1
    )
    errors = (np.einsum("nd,de,ne->n", x[:, -1], np.asarray(gamma), h) - y[:, -1]) ** 2
    assert abs(float(loss_of(gamma, z)) - errors.mean()) < 5 * errors.std() / math.sqrt(count)


@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_a_simulation_comes_nearer_to_its_limit_with_the_dimension(tau):
    z, gaps = Proportions(tau, 10.0, 0.01, 10.0), []
    for d in (4, 12):
        losses = [float(loss_of(fit_linear_attention(jax.random.key(i), z, dimension=d), z)) for i in range(6)]
        gaps.append(abs(np.mean(losses) / limiting_loss(z) - 1.0))
    assert gaps[1] < min(0.5, gaps[0])


def test_wrong_calls_are_refused():
    with pytest.raises(ProblemError, match="tau is 1"):
        limiting_loss(Proportions(1.0, 1.0, 0.1, 1.0))
    with pytest.raises(ProblemError, match="kappa"):
        limiting_loss(Proportions(2.0, 1.0, 0.1, 0.0))
    with pytest.raises(ProblemError, match="dimension"):
        fit_linear_attention(jax.random.key(0), Proportions(2.0, 1.0, 0.1, 1.0), dimension=0)
