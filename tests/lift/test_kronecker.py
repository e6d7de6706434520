"""The Kronecker preconditioner against its dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.lift.kronecker import Kronecker

EPS = float(np.finfo(np.float64).eps)


def factors(seed=0, rank=None):
    rng = np.random.default_rng(seed)
    S, M, V = rng.normal(size=(3, rank or 3)), rng.normal(size=(4, rank or 4)), rng.normal(size=(3, 4))
    return S @ S.T, M @ M.T, V


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_apply_and_solve_are_the_dense_matrix(damping):
    S, M, V = factors()
    K = Kronecker.of(jnp.asarray(S), jnp.asarray(M), shift=0.2)
    dense = np.kron(S, M) + (0.2 + damping) * np.eye(12)
    np.testing.assert_allclose(np.ravel(K.shifted(V, damping)), dense @ V.ravel(), rtol=1e3 * EPS)
    expected = np.linalg.solve(dense, V.ravel())
    tolerance = 16 * EPS * np.linalg.cond(dense) * np.max(np.abs(expected))
    np.testing.assert_allclose(np.ravel(K.shifted_solve(V, damping)), expected, rtol=0, atol=tolerance)


def test_scale_and_largest_are_those_of_the_spectrum():
    S, M, _ = factors()
    K = Kronecker.of(jnp.asarray(S), jnp.asarray(M), shift=0.2)
    spectrum = np.linalg.eigvalsh(np.kron(S, M)) + 0.2
    assert float(K.scale()) == pytest.approx(np.mean(spectrum), rel=64 * EPS)
    assert float(K.largest()) == pytest.approx(np.max(spectrum), rel=64 * EPS)


def test_singular_factors_solve_in_their_range_and_stay_finite():
    S, M, V = factors(rank=2)
    K = Kronecker.of(jnp.asarray(S), jnp.asarray(M))
    target = S @ V @ M
    solved = np.asarray(K.solve(target))
    assert np.all(np.isfinite(solved))
    np.testing.assert_allclose(S @ solved @ M, target, rtol=0, atol=1e-6 * np.max(np.abs(target)))


def test_zero_matrix_is_finite():
    K = Kronecker.of(jnp.zeros((2, 2)), jnp.zeros((3, 3)))
    assert np.all(np.isfinite(K.solve(jnp.zeros((2, 3)))))


def test_negative_eigenvalues_from_rounding_are_dropped():
    S = np.diag([1.0, -1e-17])
    K = Kronecker.of(jnp.asarray(S), jnp.eye(2))
    assert float(jnp.min(K.eigenvalues)) == 0.0


def test_blocks_of_many_heads_are_factored_one_after_the_other():
    # Two batched factorisations in one program, 12 matrices of 384 columns each, never end on two cores.
    S, M = jnp.ones((5, 3, 3)), jnp.ones((5, 4, 4))
    program = jax.jit(jax.vmap(Kronecker.of)).lower(S, M).compile().as_text()
    calls = [line for line in program.splitlines() if "syevd" in line and "custom-call(" in line]
    assert calls
    assert not [line for line in calls if "[5," in line]
