"""Row functions against 50-digit arithmetic where float64 is hardest, and their algebraic structure."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from attnreg.problems import find_loss, loss_names
from attnreg.rows import logit_regularizer, softmax
from attnreg.rows.curvature import Curvature
from tests.oracles import rows

EPS = float(np.finfo(np.float64).eps)
ALLOWED = 8.0

# Logits and targets where a careless formula loses everything: name -> (s, b).
HARD = {
    "one dominant key": ([0.0, 40.0, -3.0], [0.0, 1.0, 0.0]),
    "two keys tied": ([5.0, 5.0, -200.0], [0.5, 0.5, 0.0]),
    "nearly tied": ([1.0, 1.0 + 1e-9, 1.0 - 1e-9], [1 / 3, 1 / 3, 1 / 3]),
    "tiny logits": ([1e-9, -2e-9, 3e-9], [0.2, 0.3, 0.5]),
    "zero logits": ([0.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
    "spread beyond underflow": ([-160.0, 0.0, 160.0], [0.1, 0.2, 0.7]),
    "wrong by everything": ([100.0, -100.0, 0.0], [0.0, 1.0, 0.0]),
    "targets of any size": ([0.5, -1.5, 2.0], [1e6, -1e6, 1e-6]),
    "one key": ([3.0], [1.0]),
}
# One compilation per loss and shape instead of one per operation.
COMPILED = {name: jax.jit(find_loss(name).row) for name in loss_names()}
dense = jax.jit(Curvature.dense)

every_loss = pytest.mark.parametrize("loss", loss_names())
hard = pytest.mark.parametrize("name", HARD)


def mp(x):
    return np.array([mpmath.mpf(float(y)) for y in x])


def allowed(loss, b):
    """Targets that the loss takes."""
    return np.abs(b) if find_loss(loss).targets == "nonnegative" else b


def row_of(loss, name):
    """Logits and targets of a hard case."""
    s, b = (np.array(x) for x in HARD[name])
    return s, allowed(loss, b)


def magnitudes(loss, s, b):
    """The row's quantities with every term in absolute value, in 50 digits."""
    b = np.abs(b)
    if loss == "linear":
        r, eye = np.abs(s) + b, mp(np.ones(len(s)))
        return rows.Row(r.dot(r), 2 * r, 2 * np.diag(eye), 2 * np.diag(eye))
    if loss == "kl":
        return rows.kl(s, b, rows.mp_exp, sign=1)
    if loss == "normalized":
        return rows.assemble(*rows.softmax_residual(rows.softmax(s, rows.mp_exp), b, sign=1))
    g = [np.abs(x) for x in rows.activation(loss, s, rows.mp_exp)]
    return rows.assemble(*rows.rescaled_residual(*g, b, sign=1))


def close(got, expected, unit, condition):
    """Every entry within ALLOWED·eps·condition of its magnitude; entries eps² below the largest are not resolved."""
    expected, unit = np.atleast_1d(expected), np.atleast_1d(unit)
    floor = EPS**2 * np.max(unit)
    error = np.abs(np.array([mpmath.mpf(float(x)) for x in np.ravel(got)]) - expected.ravel())
    bad = error > ALLOWED * EPS * condition * (unit.ravel() + floor)
    assert not np.any(bad), (got, expected)


@every_loss
@hard
def test_rows_against_fifty_digits(loss, name):
    with mpmath.workdps(50):
        s, b = row_of(loss, name)
        expected = rows.naive(loss, mp(s), mp(b), rows.mp_exp)
        unit = magnitudes(loss, mp(s), mp(b))
        # The logits are exact here, so only the range reduction of exp, |s|, can amplify rounding.
        condition = 1 + float(np.max(np.abs(s)))
        got = COMPILED[loss](jnp.asarray(s), jnp.asarray(b))
        for have, want, size in (
            (got.value, expected.value, unit.value),
            (got.gradient, expected.gradient, unit.gradient),
            (dense(got.hessian), expected.hessian, unit.hessian),
            (dense(got.gauss_newton), expected.gauss_newton, unit.gauss_newton),
        ):
            close(have, want, size, condition)


def test_sinh_keeps_relative_accuracy_near_zero():
    s, b = np.array([1e-12, -3e-12]), np.zeros(2)
    value = float(COMPILED["sinh_rescaled"](jnp.asarray(s), jnp.asarray(b)).value)
    assert value == pytest.approx(1e-23, rel=4 * EPS)


@every_loss
@hard
def test_gauss_newton_is_positive_semidefinite(loss, name):
    s, b = row_of(loss, name)
    curvature = COMPILED[loss](s, b).gauss_newton
    # The terms of diagonal plus rank two cancel: rounding is relative to their sizes, not to what is left.
    size = np.max(dense(jax.tree.map(jnp.abs, curvature)))
    assert np.min(np.linalg.eigvalsh(dense(curvature))) >= -4 * len(s) * EPS * size


@every_loss
def test_gauss_newton_is_the_hessian_at_zero_residual(loss):
    s = np.array([0.3, -0.7, 1.1])
    g = rows.softmax(s) if loss in ("normalized", "kl") else rows.activation(loss, s)[0] if loss != "linear" else s
    b = s if loss == "linear" else g / np.sum(g)
    terms = COMPILED[loss](jnp.asarray(s), jnp.asarray(b))
    unit = np.max(np.abs(dense(terms.hessian)))
    np.testing.assert_allclose(dense(terms.hessian), dense(terms.gauss_newton), rtol=0, atol=16 * EPS * unit)


@every_loss
def test_masked_keys_do_not_exist(loss):
    rng = np.random.default_rng(0)
    s, b = rng.normal(size=(4, 6)), allowed(loss, rng.normal(size=(4, 6)))
    mask = rng.random((4, 6)) < 0.5
    # Whatever stands at a masked key, even garbage that would overflow, changes nothing.
    got = COMPILED[loss](jnp.asarray(np.where(mask, s, 1e6)), jnp.asarray(np.where(mask, b, 1e6)), jnp.asarray(mask))
    for j in range(4):
        expected = rows.row(loss, s[j], b[j], mask[j])
        np.testing.assert_allclose(got.value[j], expected.value, rtol=64 * EPS)
        np.testing.assert_allclose(got.gradient[j], expected.gradient, rtol=64 * EPS, atol=64 * EPS)
        np.testing.assert_allclose(dense(got.hessian)[j], expected.hessian, rtol=64 * EPS, atol=256 * EPS)
        assert not np.any(np.asarray(got.gradient[j])[~mask[j]])


@every_loss
def test_a_row_without_keys_is_zero(loss):
    terms = COMPILED[loss](jnp.ones((1, 3)), jnp.ones((1, 3)), jnp.zeros((1, 3), bool))
    assert float(terms.value[0]) == 0
    assert not np.any(terms.gradient)
    assert not np.any(dense(terms.hessian))


def test_softmax_survives_the_extremes():
    s = jnp.asarray([[1e308, -1e308, 0.0], [-1e308, -1e308, -1e308], [1e-308, 0.0, 0.0]])
    f = np.asarray(softmax(s))
    np.testing.assert_allclose(f, [[1, 0, 0], [1 / 3] * 3, [1 / 3] * 3], rtol=4 * EPS)


def test_softmax_rows_sum_to_one_and_the_gauge_is_free():
    s = np.random.default_rng(1).normal(size=(5, 7)) * 10
    f = np.asarray(softmax(jnp.asarray(s)))
    np.testing.assert_allclose(f.sum(axis=1), 1, rtol=0, atol=8 * EPS)
    np.testing.assert_allclose(softmax(jnp.asarray(s + 512.0)), f, rtol=1e3 * EPS)


@pytest.mark.parametrize("loss", ["normalized", "kl"])
def test_gradient_and_hessian_of_a_function_of_the_softmax_kill_constants(loss):
    rng = np.random.default_rng(2)
    s, b = rng.normal(size=(3, 5)), allowed(loss, rng.normal(size=(3, 5)))
    terms = COMPILED[loss](s, b)
    np.testing.assert_allclose(np.sum(terms.gradient, axis=1), 0, atol=16 * EPS)
    np.testing.assert_allclose(np.sum(dense(terms.hessian), axis=2), 0, atol=16 * EPS)


def test_kl_is_the_divergence_and_a_sum_of_targets_is_a_weight():
    s, b = np.array([[0.3, -1.2, 0.7]]), np.array([[0.2, 0.0, 0.8]])
    f = np.exp(s) / np.sum(np.exp(s))
    divergence = 0.2 * np.log(0.2 / f[0, 0]) + 0.8 * np.log(0.8 / f[0, 2])
    for weight in (1.0, 3.0, 1e-9):
        np.testing.assert_allclose(COMPILED["kl"](s, weight * b).value, weight * divergence, rtol=32 * EPS)
    nothing = COMPILED["kl"](s, 0 * b)
    assert not any(np.any(x) for x in (nothing.value, nothing.gradient, dense(nothing.hessian)))


def test_kl_near_a_perfect_fit_keeps_its_relative_accuracy():
    s = np.array([0.3, -1.2, 0.7])
    with mpmath.workdps(50):
        for step in (1e-3, 1e-6, 1e-9):
            b = np.exp(s) / np.sum(np.exp(s)) + step * np.array([1.0, -2.0, 1.0])
            expected = rows.naive("kl", mp(s), mp(b), rows.mp_exp)
            # An error of eps in f is one of eps·step in the value, which is of size step².
            assert abs(COMPILED["kl"](s, b).value - float(expected.value)) <= 16 * EPS * (step + EPS)


def test_kl_of_logits_further_apart_than_the_largest_float():
    s = np.array([[1e308, -1e308, 0.0]] * 3)
    terms = COMPILED["kl"](s, np.eye(3))
    np.testing.assert_array_equal(terms.value, [0, np.inf, 1e308])
    assert not any(np.any(np.isnan(x)) for x in (terms.gradient, dense(terms.hessian)))


def test_regularizer_row():
    rng = np.random.default_rng(3)
    s, w = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    terms = logit_regularizer(jnp.asarray(s), jnp.asarray(w))
    np.testing.assert_allclose(terms.value, np.sum((w * s) ** 2, axis=1) / 2, rtol=8 * EPS)
    np.testing.assert_allclose(terms.gradient, w * w * s, rtol=8 * EPS)
    np.testing.assert_allclose(terms.hessian.diag, w * w, rtol=8 * EPS)


@every_loss
def test_curvature_apply_is_its_dense_matrix(loss):
    rng = np.random.default_rng(4)
    s, b, t = (rng.normal(size=(3, 5)) for _ in range(3))
    curvature = COMPILED[loss](s, allowed(loss, b)).hessian
    matrix = np.asarray(dense(curvature))
    unit = np.einsum("jab,jb->ja", np.abs(matrix), np.abs(t))
    error = np.abs(jax.jit(Curvature.apply)(curvature, t) - np.einsum("jab,jb->ja", matrix, t))
    assert np.all(error <= 32 * EPS * (unit + np.max(unit)))
