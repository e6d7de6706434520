"""The table of bounds: complete, ordered (sharp ≤ norm by norm), and true on random pairs computed with NumPy."""

import math

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from attnreg.bounds import BOUNDS, Norms, Point, softmax_point
from attnreg.bounds import quantities as Q
from attnreg.bounds.domain import contains, spectral_ceiling
from attnreg.bounds.registry import published_shift
from attnreg.bounds.sharp import exponential_sum, largest_probability

# theory.md, section 4: every quantity of every problem in every variable it depends on.
BLOCKS = ("u", "alpha", "log_alpha", "alpha_inverse", "f", "residual", "residual_rescaled")
RELATIVE = ("u_relative", "alpha_relative", "residual_rescaled_relative")
HYPERBOLIC = tuple(f"{q}_{g}" for q in ("u", "alpha", "residual", "gradient", "hessian") for g in ("cosh", "sinh"))
ROW_QUANTITIES = (*BLOCKS, *RELATIVE, "gradient", "gradient_rescaled", "hessian", "hessian_rescaled", *HYPERBOLIC)
EXPECTED = (
    {f"softmax.{q}.{v}" for q in ROW_QUANTITIES for v in ("x", "A")}
    | {f"attention.{q}.{v}" for q in ROW_QUANTITIES for v in ("X", "A1", "A2")}
    | {f"one_layer.h.{v}" for v in ("Y", "A3")}
    | {
        f"one_layer.{q}.{v}"
        for q in ("residual", "q", "gradient_X", "gradient_Y", "hessian_X", "hessian_XY", "hessian")
        for v in ("X", "Y", "A1", "A2", "A3")
    }
)


def test_every_quantity_is_there_in_every_variable():
    assert set(BOUNDS) == EXPECTED


@pytest.mark.parametrize("R", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("n", [2, 7])
def test_sharp_never_exceeds_norm_by_norm(R, n):
    for bound in BOUNDS.values():
        norms = Norms.ball(bound.family, R, n1=3, n=n)
        assert 0 < bound.sharp(norms) <= bound.norm_by_norm(norms) * (1 + 1e-12), bound.name


def test_constants_grow_with_the_domain():
    for bound in BOUNDS.values():
        for column in ("sharp", "norm_by_norm"):
            values = [getattr(bound, column)(Norms.ball(bound.family, R, n1=2, n=4)) for R in (0.5, 1.0, 2.0)]
            assert values == sorted(values), (bound.name, column)


# Sharp constants that need no exponential: those of the normalized problem and of one layer.
EXPONENTIAL = (
    *("u", "alpha", "alpha_inverse", "residual_rescaled", "gradient_rescaled", "hessian_rescaled"),
    *HYPERBOLIC,
)
BEYOND = (18.85, 20.0, 26.65, 40.0, 200.0, 1e5)  # R; logits to R²: exp(2L) overflows at 355, exp(L) at 710


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_beyond_the_range_of_exp_a_constant_is_infinite_or_right_and_never_nan(bound):
    for column in ("sharp", "norm_by_norm"):
        values = [getattr(bound, column)(Norms.ball(bound.family, R, n1=3, n=4)) for R in (1.0, *BEYOND)]
        assert all(value > 0 for value in values), (column, values)  # NaN is not
        assert values == sorted(values), column
    for R in BEYOND:
        norms = Norms.ball(bound.family, R, n1=3, n=4)
        assert bound.sharp(norms) <= bound.norm_by_norm(norms)
        if bound.quantity not in EXPONENTIAL:
            assert math.isfinite(bound.sharp(norms)), R


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_norms_whose_products_overflow_give_no_nan(bound):
    for R in (1e160, 1e300):
        norms = Norms.ball(bound.family, R, n1=3, n=4)
        for value in (bound.sharp(norms), bound.norm_by_norm(norms)):
            assert value >= 0, (R, value)


def test_values_just_below_the_overflow_of_exp_are_exact():
    norms = Norms(1, 4, 1.0, 1.0, 400.0)  # exp(400) fits, exp(800) does not
    with mpmath.workdps(40):
        top = mpmath.exp(400)
        second = mpmath.sqrt(4 + 2 * 800 + mpmath.exp(800) - 1 - 800)
        for quantity, want in (
            ("u", top),
            ("alpha", second),
            ("residual_rescaled", mpmath.sqrt(2) * second),
            ("alpha_inverse", mpmath.exp(200) / 4),
        ):
            got = BOUNDS[f"softmax.{quantity}.x"].sharp(norms)
            assert abs(got / want - 1) < 1e-12, quantity
    assert BOUNDS["softmax.gradient_rescaled.x"].sharp(norms) == math.inf
    assert published_shift(4, 1e3) == math.inf


def test_largest_probability_and_exponential_sum_are_attained_or_above():
    rng = np.random.default_rng(0)
    for n, L in ((2, 0.5), (5, 1.0), (5, 4.0)):
        s = rng.normal(size=(20000, n))
        s *= L / np.linalg.norm(s, axis=1, keepdims=True)
        e = np.exp(s)
        p = (e / e.sum(1, keepdims=True)).max()
        assert 0.9 * largest_probability(n, L) < p <= largest_probability(n, L)
        assert 0.8 * exponential_sum(n, L) < e.sum(1).max() <= exponential_sum(n, L)


def test_spectral_ceiling_is_a_tight_upper_bound():
    rng = np.random.default_rng(1)
    for shape in ((4, 1), (4, 2), (3, 5), (6, 4)):
        A = rng.normal(size=shape)
        exact = np.linalg.norm(A, 2)
        assert exact <= float(spectral_ceiling(jnp.asarray(A))) * (1 + 1e-14) <= exact * 1.004


def test_quantities_against_numpy():
    rng = np.random.default_rng(2)
    A1, A2, A3, X, Y, B = (rng.normal(size=s) for s in ((3, 2), (4, 2), (4, 2), (2, 2), (2, 5), (3, 5)))
    p = Point(*map(jnp.asarray, (A1, A2, X, B, A3, Y)))
    u = np.exp(A1 @ X @ A2.T)
    alpha = u.sum(1)
    f = u / alpha[:, None]
    c = f @ A3 @ Y - B
    for got, want in (
        (Q.u(p), u),
        (Q.alpha(p), alpha),
        (Q.log_alpha(p), np.log(alpha)),
        (Q.alpha_inverse(p), 1 / alpha),
        (Q.f(p), f),
        (Q.h(p), A3 @ Y),
        (Q.residual_one_layer(p), c),
        (Q.q(p), c @ (A3 @ Y).T),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)
    square = p._replace(B=jnp.asarray(f))
    np.testing.assert_allclose(Q.residual(square), 0, atol=1e-15)
    np.testing.assert_allclose(Q.residual_rescaled(square), 0, atol=1e-14)


def test_curvature_is_the_quadratic_form_of_the_hessian():
    rng = np.random.default_rng(3)
    A, x, b = rng.normal(size=(4, 3)), rng.normal(size=3), rng.dirichlet(np.ones(4))
    p = softmax_point(jnp.asarray(A), jnp.asarray(x), jnp.asarray(b))
    w, step = rng.normal(size=3), 1e-4
    loss = [float(np.sum((np.exp(A @ z) / np.exp(A @ z).sum() - b) ** 2)) for z in (x - step * w, x, x + step * w)]
    difference = (loss[0] - 2 * loss[1] + loss[2]) / step**2
    np.testing.assert_allclose(float(Q.curvature(p, {"X": jnp.asarray(w[None])}, "softmax")), difference, rtol=1e-5)


def test_the_domain_predicate_refuses_what_is_outside():
    norms = Norms.ball("softmax", 1.0, n1=1, n=2)
    p = softmax_point(jnp.eye(2), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    assert contains(norms, p, simplex=True)
    assert not contains(norms, p._replace(X=2 * p.X), simplex=True)
    assert not contains(norms, p._replace(B=jnp.array([[0.5, 0.6]])), simplex=True)
    assert not contains(norms, p._replace(B=jnp.array([[-0.1, 1.1]])), simplex=True)


def test_norms_of_measures_what_it_says():
    p = softmax_point(jnp.diag(jnp.array([3.0, 1.0])), jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8]))
    norms = Norms.of(p)
    assert (norms.a2, norms.x, norms.b, norms.n) == (3.0, 5.0, 1.0, 2)
    assert math.isclose(norms.logits, 15.0)
