"""The table of solvers and the table of problems that every solver goes through; a new solver passes by adding a row.

All problems of `STACK` have one shape, so a solver compiles once for all of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnreg.data.synthetic import attention_instance, vector_instance
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers import LBFGS, GradientDescent, Newton, NewtonCG, Optax, Solver

K, N, M, D = 2, 12, 8, 3


class Row(NamedTuple):
    """A solver, and the tolerance it reaches in float32."""

    solver: Solver
    tol32: float


SOLVERS = {
    "newton": Row(Newton(), 1e-4),
    "newton, Gauss-Newton": Row(Newton(curvature="gauss_newton", tol=1e-7), 1e-4),
    "newton-cg": Row(NewtonCG(), 1e-4),
    "lbfgs": Row(LBFGS(), 1e-3),
    "optax lbfgs": Row(Optax(optax.lbfgs(), tol=1e-6, max_steps=500), 1e-3),
    "adam": Row(Optax(optax.adam(0.05), tol=1e-2, max_steps=2000), 1e-2),
    "gradient descent": Row(GradientDescent(tol=2e-2, max_steps=4000), 2e-2),
}


def _build(seed, *, noise=0.0, change=lambda A1, A2: (A1, A2), allowed=1.0, weight=0.0, dtype=np.float64):
    """A normalized problem of the one shape: documents, a mask (mostly True), a weight (mostly 0)."""
    rng = np.random.default_rng(seed)
    A1, A2 = change(rng.normal(size=(K, N, D)), rng.normal(size=(K, M, D)))
    mask = rng.random((K, N, M)) < allowed
    mask[..., 0] = True
    S = np.where(mask, A1 @ rng.normal(size=(D, D)) @ A2.swapaxes(1, 2), -np.inf)
    B = np.exp(S - S.max(axis=2, keepdims=True))
    B = B / B.sum(axis=2, keepdims=True) + noise * rng.normal(size=B.shape) * mask
    A1, A2, B = (x.astype(dtype) for x in (A1, A2, B))
    return AttentionRegression(A1, A2, B, mask=mask, weight=np.full((1, 1, 1), weight, dtype))


def _duplicated(A1, A2):
    """A repeated column in each: X is determined only up to what the columns share."""
    return A1[:, :, [0, 1, 1]], A2[:, :, [0, 0, 2]]


def _with_ones(A1, A2):
    """A constant key feature: the softmax gauge is exact."""
    return A1, np.concatenate([A2[:, :, :2], np.ones((K, M, 1))], axis=2)


def stack(dtype=np.float64):
    """Name → problem, all of one structure."""
    return {
        "realizable": _build(0, dtype=dtype),
        "noisy": _build(1, noise=0.02, dtype=dtype),
        "rank-deficient": _build(2, noise=0.02, change=_duplicated, dtype=dtype),
        "gauge": _build(3, noise=0.02, change=_with_ones, dtype=dtype),
        "masked": _build(4, noise=0.02, allowed=0.7, dtype=dtype),
        "regularized": _build(5, noise=0.02, weight=0.1, dtype=dtype),
    }


def _small(**options):
    return attention_instance(jax.random.key(3), n=10, d=2, m=6, dtype=jnp.float64, **options).problem


# Name → a problem with a structure of its own, made when it is called: collecting the tests compiles nothing.
OTHERS = {
    "linear": lambda: _small(loss="linear", noise=0.1),
    "rescaled": lambda: _small(loss="rescaled", logit_scale=0.5, noise=0.01),
    "single softmax": lambda: vector_instance(jax.random.key(3), n=40, d=3, noise=0.02, dtype=jnp.float64).problem,
}


def objective(problem) -> AttentionObjective:
    """The objective, in uneven blocks of rows."""
    return AttentionObjective(problem, block_rows=min(5, problem.sizes[1]))


def together(problems) -> AttentionObjective:
    """The problems of one structure as one batched objective."""
    return AttentionObjective(jax.tree.map(lambda *x: jnp.stack(x), *problems.values()), block_rows=5)


def centred_logits(problem, X):
    """Logits with the mean over the allowed keys of each row taken off: what softmax determines of X."""
    S = np.asarray(problem.A1) @ np.asarray(X) @ np.asarray(problem.A2).swapaxes(1, 2)
    mask = np.ones(S.shape, bool) if problem.mask is None else np.broadcast_to(problem.mask, S.shape)
    mean = np.sum(S * mask, axis=2, keepdims=True) / np.sum(mask, axis=2, keepdims=True)
    return np.where(mask, S - mean, 0)
