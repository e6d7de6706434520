"""K.1 and K.3 as conditions on a problem and a start: Newton is run from inside and from outside."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.bounds.layer_curvature import joint_weights
from attnreg.bounds.layer_region import (
    contraction,
    good_start,
    hessian_lipschitz,
    kantorovich,
    one_layer_loss,
    printed_lipschitz,
    sizes_near,
)
from attnreg.problems.checks import ProblemError
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from tests.oracles import one_layer as oracle

N, D = 6, 2


def problem_of(seed=0, scale=1.0, ridge=0.1):
    rng = np.random.default_rng(seed)
    data = [jnp.asarray(scale * rng.normal(size=s) / D**0.5) for s in ((N, D), (N, D), (N, D), (N, D))]
    return OneLayerRegression(*data, ridge=ridge, ridge_y=ridge, weight=0.5)


def flat(problem):
    """The loss over one vector."""

    def loss(v):
        return one_layer_loss(problem, Unknowns(v[: D * D].reshape(D, D), v[D * D :].reshape(D, D)))

    return loss


def unknowns(v) -> Unknowns:
    return Unknowns(jnp.asarray(v[: D * D]).reshape(D, D), jnp.asarray(v[D * D :]).reshape(D, D))


@jax.jit
def hessians(problem, points):
    """The Hessian at every point (points, p)."""
    return jax.lax.map(jax.hessian(flat(problem)), points)


@jax.jit
def slopes(problem, points):
    """Value and gradient at every point (points, p)."""
    return jax.lax.map(jax.value_and_grad(flat(problem)), points)


@functools.partial(jax.jit, static_argnames="steps")
def newton(problem, starts, *, steps):
    """Plain undamped Newton from all starts, (starts, p): every point on the way, (steps + 1, starts, p)."""
    loss = flat(problem)

    def step(v, _):
        move = jnp.linalg.solve(jax.hessian(loss)(v), jax.grad(loss)(v))
        return v - move, v

    end, path = jax.lax.scan(jax.vmap(step, (0, None)), starts, None, length=steps)
    return jnp.concatenate([path, end[None]])


@pytest.fixture(scope="module")
def solved():
    """A problem, and its minimiser by damped steps from many starts."""
    problem = problem_of()
    starts = jnp.asarray(np.random.default_rng(1).normal(size=(24, 2 * D * D)) * 0.3)
    ends = newton(problem, starts, steps=40)[-1]
    values, gradients = slopes(problem, ends)
    values = jnp.where(jnp.linalg.norm(gradients, axis=1) < 1e-11, values, jnp.inf)
    return problem, np.asarray(ends[jnp.argmin(values)])


def test_the_loss_is_the_one_of_numpy():
    problem = problem_of(3)
    v = np.random.default_rng(4).normal(size=2 * D * D)
    arrays = [np.asarray(z) for z in (*unknowns(v), problem.A1, problem.A2, problem.A3, problem.B)]
    want = oracle.loss(*arrays, weight=np.asarray(problem.weight), ridge=0.1, ridge_y=0.1)
    np.testing.assert_allclose(float(one_layer_loss(problem, unknowns(v))), want, rtol=1e-13)


def test_newton_contracts_from_everywhere_inside_and_not_from_outside(solved):
    problem, star = solved
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(32, star.size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = edge(problem, star, directions[0])
    assert radius > 2e-5
    path = np.asarray(newton(problem, jnp.asarray(star + 0.999 * radius * directions), steps=8))
    errors = np.linalg.norm(path - star, axis=2)
    region = good_start(problem, unknowns(path[0][0]), unknowns(star))
    assert region.inside
    assert (errors[1] <= errors[0]).all()
    assert errors[-1].max() < 1e-12
    promised = region.lipschitz * errors[0] ** 2 / (2 * (region.curvature - region.lipschitz * errors[0]))
    assert (errors[1] <= promised).all()
    far = np.asarray(newton(problem, jnp.asarray(star + 8.0 * directions), steps=30))[-1]
    lost = ~(np.linalg.norm(far - star, axis=1) < 1e-6)
    assert lost.any()
    for v in star + 8.0 * directions[lost]:
        assert not good_start(problem, unknowns(v), unknowns(star)).inside
        assert not kantorovich(problem, unknowns(v)).inside


def edge(problem, star, direction):
    """The largest distance along a direction that `good_start` still calls inside."""
    low, high = 1e-9, 1.0
    for _ in range(14):
        middle = (low * high) ** 0.5
        inside = good_start(problem, unknowns(star + middle * direction), unknowns(star)).inside
        low, high = (middle, high) if inside else (low, middle)
    return low


def test_the_printed_condition_implies_the_sharp_one_and_is_far_smaller(solved):
    problem, star = solved
    near = unknowns(star + 1e-40)
    printed, sharp = (good_start(problem, near, unknowns(star), kind=k) for k in ("published", "sharp"))
    assert printed.inside
    assert sharp.inside
    assert printed.limit < 1e-6 * sharp.limit
    off = unknowns(star + 0.1 * sharp.limit / star.size)
    assert good_start(problem, off, unknowns(star)).inside
    assert not good_start(problem, off, unknowns(star), kind="published").inside
    with pytest.raises(ProblemError, match="kind is 'best'; it must be one of 'sharp', 'published'"):
        good_start(problem, near, near, kind="best")


def test_kantorovich_promises_a_limit_within_twice_the_first_step(solved):
    problem, star = solved
    moves = np.random.default_rng(6).normal(size=(32, star.size)) * np.geomspace(1e-6, 1.0, 32)[:, None]
    starts = star + moves / star.size**0.5
    ends = np.asarray(newton(problem, jnp.asarray(starts), steps=8))[-1]
    found = [kantorovich(problem, unknowns(v)) for v in starts]
    kept = [z.inside for z in found]
    assert 2 <= sum(kept) < 32
    for z, v, end in zip(found, starts, ends, strict=True):
        if z.inside:
            assert np.linalg.norm(end - v) <= 2 * z.distance * (1 + 1e-9)
            np.testing.assert_allclose(end, star, atol=1e-10)
    saddle = kantorovich(problem_of(ridge=0.0), unknowns(np.zeros_like(star)))
    assert not saddle.inside


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_the_local_lipschitz_constant_holds_and_uses_the_point(solved, radius):
    problem, star = solved
    rng, M = np.random.default_rng(7), hessian_lipschitz(problem, unknowns(star), radius)
    moves = rng.normal(size=(64, star.size))
    moves *= radius * rng.uniform(0.1, 1, (64, 1)) / np.linalg.norm(moves, axis=1, keepdims=True)
    change = np.asarray(hessians(problem, jnp.asarray(star + moves))) - np.asarray(
        hessians(problem, jnp.asarray(star[None]))
    )
    ratios = np.linalg.norm(change, 2, axis=(1, 2)) / np.linalg.norm(moves, axis=1)
    assert 1e-3 * M < ratios.max() <= M
    assert printed_lipschitz(problem, unknowns(star)) > 1e6 * M


def test_k3_as_printed_fails_in_the_two_norm_and_the_sharp_factor_holds_in_the_hessians():
    """A quadratic (M = 0): H̃ = H^½ (I + E) H^½ is within ε of H, and the step multiplies the 2-norm by 0.1 √cond."""
    epsilon, condition = 0.09, 1e4
    half = np.diag([1.0, condition**0.5])
    E = epsilon * np.array([[0.0, 1.0], [1.0, 0.0]])
    H, sampled = half @ half, half @ (np.eye(2) + E) @ half
    e = np.array([0.0, 1.0])
    after = e - np.linalg.solve(sampled, H @ e)
    assert np.linalg.norm(after) > 5 * contraction(1.0, 1.0, 0.0, epsilon, kind="published") * np.linalg.norm(e)
    of = [math.sqrt(z @ H @ z) for z in (e, after)]
    assert of[1] <= contraction(1.0, 1.0, 0.0, epsilon) * of[0]
    with pytest.raises(ProblemError, match=r"epsilon is 1\.0"):
        contraction(1.0, 1.0, 1.0, 1.0)
    assert contraction(1.0, 1.0, 1.0, 0.01) == math.inf


def test_a_step_with_a_sampled_hessian_contracts_as_k3_says_in_the_hessians_norm(solved):
    problem, star = solved
    rng, M = np.random.default_rng(8), hessian_lipschitz(problem, unknowns(star), 0.02)
    l = np.linalg.eigvalsh(np.asarray(hessians(problem, jnp.asarray(star[None])))[0])[0]
    for epsilon in (0.0, 0.05, 0.3):
        v = rng.normal(size=star.size)
        v = star + 1e-3 * v / np.linalg.norm(v)
        H, g = (
            np.asarray(z)[0]
            for z in (hessians(problem, jnp.asarray(v[None])), slopes(problem, jnp.asarray(v[None]))[1])
        )
        L, E = np.linalg.cholesky(H), rng.normal(size=H.shape)
        E = epsilon * (E + E.T) / max(np.linalg.norm(E + E.T, 2), 1e-300)
        after = v - np.linalg.solve(L @ (np.eye(len(v)) + E) @ L.T, g)
        before, behind = (np.linalg.norm(L.T @ (z - star)) for z in (v, after))
        assert behind <= contraction(1e-3, l, M, epsilon) * before
    # K.4's arithmetic: ε = 0.01 and M r ≤ 0.1 l.
    assert contraction(0.1, 1.0, 1.0, 0.01, kind="published") <= 0.4


def test_the_two_weights_make_the_librarys_loss_convex_at_a_point_where_it_was_not():
    """`joint_weights` in a `OneLayerRegression`: squared weights are twice those of a loss with ½, and so is l."""
    rng = np.random.default_rng(11)
    data = [jnp.asarray(rng.normal(size=s)) for s in ((N, D), (N, D), (N, D), (N, D))]
    v, l = rng.normal(size=2 * D * D), 0.3
    low = [np.linalg.svd(np.asarray(z), compute_uv=False)[-1] for z in data[:3]]
    bare = OneLayerRegression(*data, weight=0.0, value_weight=0.0)
    w2, v2 = joint_weights(sizes_near(bare, unknowns(v), 0.0), l, low[0] * low[1], low[2])
    weighted = OneLayerRegression(*data, weight=float((2 * w2) ** 0.5), value_weight=float((2 * v2) ** 0.5))
    at = jnp.asarray(v[None])
    before, after = (np.linalg.eigvalsh(np.asarray(hessians(z, at))[0])[0] for z in (bare, weighted))
    assert before < 0
    assert after >= 2 * l
