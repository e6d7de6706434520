"""Constants in the tokens: never beaten, nearly reached, and the local one between the truth and the ball's."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.bounds.joint_tokens import TOKEN_BOUNDS, TokenLimits, heaviest_key, local_output, output


def softmax(S):
    e = np.exp(S - S.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def values(name, Z, X, Y, c):
    F = softmax(Z @ X @ Z.T + (Z @ c)[None, :])
    return F if name == "map" else F @ Z @ Y


def derivative(name, Z, X, Y, c, h=1e-6):
    """The Jacobian in the tokens by central differences, (values, entries of Z)."""
    columns = []
    for i, k in itertools.product(*map(range, Z.shape)):
        E = np.zeros_like(Z)
        E[i, k] = h
        columns.append(((values(name, Z + E, X, Y, c) - values(name, Z - E, X, Y, c)) / (2 * h)).ravel())
    return np.array(columns).T


def drawn(seed, n=5, d=3, r=1.2, x=2.0, y=0.7, shift=0.5):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, d))
    Z *= r / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), r / 3)
    Z *= np.minimum(1.0, r / np.linalg.norm(Z, axis=1, keepdims=True))
    X, Y, c = rng.normal(size=(d, d)), rng.normal(size=(d, 2)), rng.normal(size=d)
    return (Z, x * X / np.linalg.norm(X, 2), y * Y / np.linalg.norm(Y, 2), shift * c / np.linalg.norm(c)), TokenLimits(
        n, r, x, y, shift
    )


@pytest.mark.parametrize("name", TOKEN_BOUNDS)
@pytest.mark.parametrize("seed", range(6))
def test_no_document_moves_further(name, seed):
    point, limits = drawn(seed)
    bound = TOKEN_BOUNDS[name]
    norm = np.linalg.norm(derivative(name, *point), 2)
    assert norm <= bound.sharp(limits) <= bound.product(limits)
    np.testing.assert_allclose(bound.value(*map(jnp.asarray, point)), values(name, *point), rtol=1e-12)


def three_terms(Z, X, Y):
    """The derivative of the output without a bias as three Jacobians: dz_i averaged, own token, logits of keys."""
    (n, d), k = Z.shape, Y.shape[1]
    F = softmax(Z @ X @ Z.T)
    parts = np.zeros((3, n, k, n, d))
    for j in range(n):
        centred = Z - F[j] @ Z
        parts[1, j, :, j] = Y.T @ (centred.T * F[j]) @ centred @ X.T
        for i in range(n):
            parts[0, j, :, i] = F[j, i] * Y.T
            parts[2, j, :, i] = F[j, i] * np.outer(Y.T @ centred[i], X.T @ Z[j])
    return parts.reshape(3, n * k, n * d)


@pytest.mark.parametrize("seed", range(6))
def test_the_attributed_formula_is_three_terms_each_within_its_share(seed):
    """`√3 ‖Y‖ (‖X‖²r⁴(4n + 1) + n)^½`: the shares n, ‖X‖²r⁴ and 4n‖X‖²r⁴ of `‖Y‖²`, and 3 for three summands."""
    (Z, X, Y, _), limits = drawn(seed, shift=0.0)
    parts = three_terms(Z, X, Y)
    whole = derivative("output", Z, X, Y, np.zeros(Z.shape[1]))
    np.testing.assert_allclose(parts.sum(axis=0), whole, rtol=0, atol=1e-8)
    a2 = (limits.x * limits.r**2) ** 2
    shares = limits.y**2 * np.array([limits.n, a2, 4 * limits.n * a2])
    norms = np.linalg.norm(parts, 2, axis=(1, 2)) ** 2
    assert (norms <= shares).all()
    want = np.sqrt(3 * shares.sum())
    np.testing.assert_allclose(TOKEN_BOUNDS["output"].published(limits), want, rtol=1e-14)
    assert np.linalg.norm(whole, 2) <= np.sqrt(3 * norms.sum()) <= want


@pytest.mark.parametrize("seed", range(6))
def test_the_limit_at_a_document_is_between_the_derivative_and_the_ball(seed):
    point, limits = drawn(seed)
    local = float(local_output(*map(jnp.asarray, point)))
    assert np.linalg.norm(derivative("output", *point), 2) <= local <= TOKEN_BOUNDS["output"].sharp(limits)


def test_the_published_constant_is_larger_everywhere_and_grows_alike():
    bound = TOKEN_BOUNDS["output"]
    assert bound.published is not None
    for n, a in itertools.product((1, 2, 10, 1000), (0.0, 0.1, 1.0, 100.0)):
        limits = TokenLimits(n, 1.0, a, 1.0)
        assert bound.sharp(limits) < bound.published(limits)
    far = TokenLimits(10**8, 1.0, 1e3, 1.0)
    assert math.isclose(bound.published(far) / bound.sharp(far), math.sqrt(12 / (16 / 27)), rel_tol=1e-2)


@pytest.mark.parametrize(("name", "share"), [("map", 0.9), ("output", 0.83)])
def test_the_root_of_n_is_reached(name, share):
    """All queries q halve their attention between u and −u, which move along and against `b = Xᵀq`, q at −b/a."""
    n, a = 400, 12.0
    u, v = np.eye(2)
    X = a * np.outer(-v, v)  # Xᵀq = a v for q = −v, and the queries themselves have logits −a
    Z = np.vstack([np.tile(-v, (n - 2, 1)), u, -u])
    move = np.zeros_like(Z)
    move[-2:] = [u + a * v, u - a * v] if name == "output" else [v, -v]
    move *= 1e-6 / np.linalg.norm(move)
    point = (X, np.eye(2), np.zeros(2))
    reached = np.linalg.norm(values(name, Z + move, *point) - values(name, Z - move, *point)) / 2e-6
    sharp = TOKEN_BOUNDS[name].sharp(TokenLimits(n, 1.0, a, 1.0))
    assert share * sharp < reached <= sharp


@pytest.mark.parametrize("a", [0.0, 0.3, 0.7, 2.0, 30.0])
@pytest.mark.parametrize("peak", [0.1, 0.5, 0.8, 1.0])
def test_heaviest_key_is_the_maximum_over_weights(a, peak):
    p = np.linspace(0.0, peak, 20001)
    variance = np.where(p <= 0.5, 1.0, 4 * p * (1 - p))
    assert math.isclose(heaviest_key(a * a, peak), float(np.max(p * (1 + a * a * variance))), rel_tol=1e-6)


def test_a_weight_limits_the_variance_of_points_in_a_ball():
    """v(p): no distribution on [−1, 1] with an atom of weight p has more variance than min(1, 4p(1−p)) beyond ½."""
    rng = np.random.default_rng(0)
    for p in (0.2, 0.5, 0.6, 0.75, 0.9):
        for _ in range(2000):
            at, rest = rng.uniform(-1, 1), rng.choice([-1.0, 1.0, rng.uniform(-1, 1)], size=4)
            weights = np.concatenate([[p], (1 - p) * rng.dirichlet(0.3 * np.ones(4))])
            points = np.concatenate([[rng.choice([at, 1.0])], rest])
            variance = weights @ points**2 - (weights @ points) ** 2
            assert variance <= (1.0 if p <= 0.5 else 4 * p * (1 - p)) + 1e-12


def test_overflow_is_infinite():
    huge = TokenLimits(3, 1e120, 1e120, 1.0)
    assert TOKEN_BOUNDS["output"].sharp(huge) == math.inf
    assert jax.numpy.isfinite(output(jnp.ones((2, 2)), jnp.eye(2), jnp.eye(2), jnp.zeros(2))).all()
