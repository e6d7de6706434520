"""Lemmas C.1, G.1 (3) and K.3 of arXiv 2309.07418 on regularized one-layer problems."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from attnreg.bounds.layer_curvature import squared_value_weight
from attnreg.bounds.layer_region import contraction, hessian_lipschitz, one_layer_loss
from attnreg.problems.one_layer import OneLayerRegression, Unknowns


def lemmas(solved: list[tuple[OneLayerRegression, np.ndarray]], config: Any) -> dict[str, float]:
    """What was found over problems with their minimisers.

    "C.1, broken": points where `λ_min(H) < min(α1, α2) − α3`. "C.1, lost": by how much of α3 it undershoots, least.
    "G.1 (3), least": the least eigenvalue of H_yy over the l that the weight is for. "K.3, printed" and "K.3, sharp":
    a step's contraction over the factor, largest, in the 2-norm and in the Hessian's.
    """
    blocks = [row for i, (problem, star) in enumerate(solved) for row in of_points(problem, star, i, config)]
    broken, lost, values = np.array(blocks).T
    steps = np.array([one_step(problem, star, config) for problem, star in solved])
    return {
        "C.1, broken": float(broken.sum()),
        "C.1, lost": float(lost.min()),
        "G.1 (3), least": float(values.min()),
        "K.3, printed": float(steps[:, 0].max()),
        "K.3, sharp": float(steps[:, 1].max()),
    }


def of_points(problem: OneLayerRegression, star: np.ndarray, seed: int, config: Any) -> list[tuple[float, ...]]:
    """Whether C.1 fails, what it loses, and G.1's quotient, at points around a minimiser."""
    half, l = config.d**2, 0.1
    points = star + np.random.default_rng(seed).normal(size=(config.points, 2 * half))
    sigma = float(np.linalg.svd(np.asarray(problem.A3[0]), compute_uv=False)[-1])
    v = np.sqrt(2.0 * squared_value_weight(l, sigma))  # the library's squared weights are twice the paper's
    weighed = OneLayerRegression(problem.A1[0], problem.A2[0], problem.A3[0], problem.B[0], value_weight=float(v))
    found = []
    for H, H_values in zip(np.asarray(hessians(problem, points)), np.asarray(hessians(weighed, points)), strict=True):
        a1, a2 = (float(np.linalg.eigvalsh(block)[0]) for block in (H[:half, :half], H[half:, half:]))
        a3, least = float(np.linalg.norm(H[:half, half:], 2)), float(np.linalg.eigvalsh(H)[0])
        gap = least - (min(a1, a2) - a3)
        found.append((float(gap < -1e-9), gap / a3, float(np.linalg.eigvalsh(H_values[half:, half:])[0]) / l))
    return found


def one_step(problem: OneLayerRegression, star: np.ndarray, config: Any) -> tuple[float, float]:
    """The worst direction's step with `(1−ε)H ≼ H̃ ≼ (1+ε)H`, over K.3's factor: printed and sharp.

    The error of H̃ couples the flattest and the steepest direction of H, and the start lies in the steepest.
    """
    unravel, l = _unravel(config), float(np.linalg.eigvalsh(np.asarray(hessians(problem, star[None])[0]))[0])
    r = 1e-3 * l / (hessian_lipschitz(problem, unravel(jnp.asarray(star)), 0.0) / 2.0)
    Q = np.linalg.eigh(np.asarray(hessians(problem, star[None])[0]))[1]
    point = star + r * Q[:, -1]
    H, slope = (np.asarray(z[0]) for z in (hessians(problem, point[None]), slopes(problem, point[None])))
    values, Q = np.linalg.eigh(H)
    root = Q * np.sqrt(values) @ Q.T
    E = config.epsilon * (np.outer(Q[:, 0], Q[:, -1]) + np.outer(Q[:, -1], Q[:, 0]))
    after = point - np.linalg.solve(root @ (np.eye(len(H)) + E) @ root, slope) - star
    M = hessian_lipschitz(problem, unravel(jnp.asarray(star)), r) / 2.0
    printed, sharp = (contraction(r, l, M, config.epsilon, kind=kind) for kind in ("published", "sharp"))
    before = point - star
    in_h = np.sqrt((after @ H @ after) / (before @ H @ before))
    return float(np.linalg.norm(after) / np.linalg.norm(before) / printed), float(in_h / sharp)


def _unravel(config: Any) -> Any:
    d = config.d
    return ravel_pytree(Unknowns(jnp.zeros((d, d)), jnp.zeros((d, d))))[1]


def _loss(problem: OneLayerRegression, v: jax.Array) -> jax.Array:
    """The paper's units: half of the library's loss."""
    d = problem.A1.shape[2]
    return one_layer_loss(problem, Unknowns(v[: d * d].reshape(d, d), v[d * d :].reshape(d, d))) / 2.0


@jax.jit
def hessians(problem: OneLayerRegression, points: jax.Array) -> jax.Array:
    """(points, p, p)."""
    return jax.vmap(jax.hessian(lambda v: _loss(problem, v)))(points)


@jax.jit
def slopes(problem: OneLayerRegression, points: jax.Array) -> jax.Array:
    """(points, p)."""
    return jax.vmap(jax.grad(lambda v: _loss(problem, v)))(points)
