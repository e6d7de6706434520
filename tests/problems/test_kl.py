"""The Kullback–Leibler loss end to end: solved over documents and masks, in both precisions, from noisy targets too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg import AttentionRegression, solve
from attnreg.data.synthetic import attention_instance
from attnreg.fit.identifiability import logit_distance
from attnreg.objectives.attention import AttentionObjective
from tests.oracles.rows import softmax

K, N, M, D = 2, 9, 7, 2


def masked_problem(dtype):
    """Documents under one mask whose targets are the masked softmax of the truth, each row with a weight of its own."""
    rng = np.random.default_rng(0)
    A1, A2, X = (rng.normal(size=shape) for shape in ((K, N, D), (K, M, D), (D, D)))
    mask = rng.random((N, M)) < 0.7
    mask[:, :2] = True
    S = A1 @ X @ A2.swapaxes(1, 2)
    B = np.array([[softmax(np.where(row, s, -np.inf)) for s, row in zip(k, mask, strict=True)] for k in S])
    B = B * rng.uniform(0.5, 2.0, (K, N, 1))
    return AttentionRegression(*(x.astype(dtype) for x in (A1, A2, B)), loss="kl", mask=mask), X.astype(dtype)


@pytest.mark.parametrize(("dtype", "tol", "allowed"), [(np.float64, 1e-10, 1e-8), (np.float32, 1e-4, 1e-3)])
def test_the_truth_is_found_over_documents_and_masks(dtype, tol, allowed):
    problem, truth = masked_problem(dtype)
    result = solve(AttentionObjective(problem), method="newton", tol=tol)
    assert bool(result.converged)
    assert result.params.dtype == dtype
    assert float(logit_distance(problem, result.params, jnp.asarray(truth))) <= allowed


def test_noise_is_clipped_to_targets_that_the_loss_takes_and_the_fit_is_a_minimum():
    problem, truth = attention_instance(jax.random.key(0), n=24, d=2, loss="kl", noise=0.5, dtype=jnp.float64)
    assert float(jnp.min(problem.B)) == 0  # some entries fell below 0
    objective = AttentionObjective(problem)
    result = solve(objective, method="newton", tol=1e-10)
    assert bool(result.converged)
    assert float(result.value) < float(objective.value(truth))
    # Convex in X: no direction of negative curvature anywhere.
    hessian = np.asarray(objective.hessian(result.params))
    assert np.min(np.linalg.eigvalsh(hessian)) >= -1e-12 * np.max(hessian)
