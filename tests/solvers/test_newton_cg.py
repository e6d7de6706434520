"""The trust-region subproblem against dense algebra: inside, on the boundary, with negative curvature, singular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.solvers.newton_cg import steihaug

P = 6
EPS = float(np.finfo(np.float64).eps)
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(P, P)))[0]
G = RNG.normal(size=P)
# A preconditioner that is nothing special: symmetric positive definite.
PRECONDITIONER = np.diag(np.linspace(0.5, 3, P)) + 0.2 * np.ones((P, P))


def with_spectrum(values):
    return (BASIS * np.asarray(values)) @ BASIS.T


@jax.jit
def solve(H, inverse, g, radius, eta):
    return steihaug(lambda v: H @ v, lambda v: inverse @ v, g, radius, eta, 4 * P)


def run(H, g=G, *, preconditioner=PRECONDITIONER, radius=1e6, eta=1e-12):
    inverse = np.linalg.inv(preconditioner)
    return solve(H, inverse, jnp.asarray(g), jnp.asarray(radius), jnp.asarray(eta))


def model(H, s, g=G):
    return g @ s + s @ H @ s / 2


def length(s, preconditioner=PRECONDITIONER):
    return float(np.sqrt(s @ preconditioner @ s))


CONVEX, INDEFINITE = with_spectrum([0.1, 0.5, 1, 2, 5, 10]), with_spectrum([-2, -0.1, 0.3, 1, 2, 5])


def test_inside_the_region_it_is_the_newton_step():
    out = run(CONVEX)
    expected = -np.linalg.solve(CONVEX, G)
    np.testing.assert_allclose(out.s, expected, rtol=0, atol=1e-9)
    assert float(out.predicted) == pytest.approx(-model(CONVEX, expected), rel=1e-9)
    assert float(out.length) == pytest.approx(length(expected), rel=1e-9)
    assert int(out.products) <= 2 * P


def test_the_exact_inverse_as_preconditioner_needs_one_product():
    out = run(CONVEX, preconditioner=CONVEX, eta=1e-6)
    assert int(out.products) == 1
    np.testing.assert_allclose(out.s, -np.linalg.solve(CONVEX, G), rtol=0, atol=1e-9)


@pytest.mark.parametrize("H", [CONVEX, INDEFINITE], ids=["convex", "indefinite"])
@pytest.mark.parametrize("radius", [1e-3, 0.3, 1.0, 3.0])
def test_steps_end_on_the_boundary_and_beat_the_cauchy_point(H, radius):
    out = run(H, radius=radius)
    s = np.asarray(out.s)
    assert length(s) <= radius * (1 + 64 * EPS)
    if float(out.length) >= radius * 0.999:
        assert length(s) == pytest.approx(radius, rel=1e-10)
    # The best point along the preconditioned gradient: Steihaug's method can only improve on it.
    d = -np.linalg.solve(PRECONDITIONER, G)
    curvature = d @ H @ d
    reach = radius / length(d)
    tau = reach if curvature <= 0 else min(reach, -(G @ d) / curvature)
    assert model(H, s) <= model(H, tau * d) + 64 * EPS
    assert float(out.predicted) == pytest.approx(-model(H, s), rel=1e-8)


def test_negative_curvature_runs_to_the_boundary():
    out = run(INDEFINITE, radius=100.0)
    assert length(np.asarray(out.s)) == pytest.approx(100.0, rel=1e-10)
    assert float(out.predicted) > 0


def test_a_negative_definite_hessian_stops_after_one_product():
    out = run(-CONVEX, radius=2.0)
    assert int(out.products) == 1
    assert length(np.asarray(out.s)) == pytest.approx(2.0, rel=1e-10)


def test_singular_hessians_are_solved_in_their_range():
    H = with_spectrum([0, 0, 1, 2, 3, 4])
    g = H @ RNG.normal(size=P)
    out = run(H, g, preconditioner=np.eye(P))
    np.testing.assert_allclose(H @ np.asarray(out.s), -g, rtol=0, atol=1e-9)
    null = BASIS[:, :2]
    np.testing.assert_allclose(null.T @ np.asarray(out.s), 0, atol=1e-9)


def test_no_gradient_no_step():
    out = run(CONVEX, np.zeros(P))
    assert int(out.products) == 0
    assert not np.any(out.s)
    assert float(out.predicted) == 0


@pytest.mark.parametrize("eta", [0.5, 0.1, 1e-3])
def test_the_residual_falls_by_the_forcing_term(eta):
    out = run(CONVEX, eta=eta)
    r = G + CONVEX @ np.asarray(out.s)
    inverse = np.linalg.inv(PRECONDITIONER)
    assert np.sqrt(r @ inverse @ r) <= eta * np.sqrt(G @ inverse @ G)
    assert int(out.products) <= int(run(CONVEX).products)


def test_vmap_over_radii():
    radii = jnp.asarray([0.1, 1.0, 1e6])
    inverse = jnp.asarray(np.linalg.inv(PRECONDITIONER))
    many = jax.vmap(lambda r: solve(CONVEX, inverse, jnp.asarray(G), r, jnp.asarray(1e-12)))(radii)
    for i, radius in enumerate(radii):
        np.testing.assert_allclose(many.s[i], run(CONVEX, radius=float(radius)).s, rtol=0, atol=1e-10)
