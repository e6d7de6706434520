"""The tensor trick against explicit Kronecker products, with one block of keys and with several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.lift import tensor_trick as tt
from attnreg.rows.curvature import Curvature, RankTwo

EPS = float(np.finfo(np.float64).eps)
N, M, D1, D2 = 6, 7, 3, 4


def arrays(seed=0, n=N):
    rng = np.random.default_rng(seed)
    A1, A2, X, gamma = (rng.normal(size=s) for s in ((n, D1), (M, D2), (D1, D2), (n, M)))
    diag, *low = (jnp.asarray(rng.normal(size=s)) for s in ((n, M), (n, M), (n, M), (n,), (n,)))
    curvature = Curvature(diag, RankTwo(*low))
    return A1, A2, X, gamma, curvature


def dense_hessian(A1, A2, curvature):
    """`Σ_j A_[j]ᵀ H_j A_[j]` with every A_[j] = a_j ⊗ A2 written out."""
    blocks = [np.kron(a[None], A2) for a in A1]
    return sum(A.T @ np.asarray(H) @ A for A, H in zip(blocks, curvature.dense(), strict=True))


def same(got, expected, terms=64):
    np.testing.assert_allclose(got, expected, rtol=0, atol=terms * EPS * np.max(np.abs(expected)))


@pytest.fixture(params=["one block of keys", "blocks of keys"])
def keys_in_blocks(request, monkeypatch):
    """Both sides of the memory limit, at sizes a test can afford."""
    if request.param == "blocks of keys":
        monkeypatch.setattr(tt, "SQUARE_ENTRIES", 32)


def test_logits_are_the_vectorised_product():
    for n in (N, M + 2):
        A1, A2, X, _, _ = arrays(n=n)
        same(tt.logits(A1, X, A2).ravel(), np.kron(A1, A2) @ X.ravel())


def test_lift_gradient_is_the_transposed_kronecker_product():
    A1, A2, _, gamma, _ = arrays()
    same(tt.lift_gradient(A1, gamma, A2).ravel(), np.kron(A1, A2).T @ gamma.ravel())


def test_khatri_rao_square_is_the_packed_outer_product():
    A1, *_ = arrays()
    square = tt.unpack_blocks(tt.khatri_rao_square(A1), D1)
    np.testing.assert_array_equal(square, np.einsum("ib,ic->ibc", A1, A1))


@pytest.mark.parametrize("n", [tt.FEW_ROWS, N])
@pytest.mark.parametrize("diagonal_only", [False, True])
def test_every_lifting_of_the_hessian(keys_in_blocks, n, diagonal_only):
    A1, A2, X, _, curvature = arrays(n=n)
    curvature = Curvature(curvature.diag) if diagonal_only else curvature
    dense = dense_hessian(A1, A2, curvature)
    each = np.einsum("mb,jmk,kc->jbc", A2, curvature.dense(), A2)
    weights = np.linspace(-1, 2, n)

    @jax.jit
    def lifted(A1, curvature, A2, X, weights):
        blocks = tt.curvature_blocks(curvature, A2)
        return {
            "blocks": tt.unpack_blocks(blocks, D2),
            "hessian": tt.unpack_hessian(tt.lift_blocks(tt.khatri_rao_square(A1), blocks), D1, D2),
            "hvp": tt.lift_hvp(A1, curvature, A2, X).ravel(),
            "diagonal": tt.lift_diagonal(A1, curvature, A2).ravel(),
            "traces": tt.block_traces(curvature, A2),
            "weighted": tt.weighted_block_sum(curvature, A2, weights),
        }

    got = lifted(A1, curvature, A2, X, weights)
    same(got["blocks"], each)
    same(got["hessian"], dense)
    same(got["hvp"], dense @ X.ravel())
    same(got["diagonal"], np.diag(dense))
    same(got["traces"], np.trace(each, axis1=1, axis2=2))
    same(got["weighted"], np.einsum("j,jbc->bc", weights, each))


@pytest.mark.parametrize(("m", "block"), [(1, 1), (7, 8), (8, 8), (9, 8), (9, 4), (8, 4), (9, 1), (7, 100)])
def test_over_keys_counts_every_key_once(m, block):
    numbers = jnp.arange(1.0, m + 1)

    def step(start, fresh):
        part = jax.lax.dynamic_slice_in_dim(numbers, start, fresh.shape[0])
        return jnp.sum(jnp.where(fresh, part, 0.0)), jnp.sum(jnp.asarray(fresh, jnp.int32), dtype=jnp.int32)

    total, count = tt.over_keys(step, (jnp.zeros(()), jnp.zeros((), jnp.int32)), m, block)
    assert float(total) == m * (m + 1) / 2
    assert int(count) == m


def test_unpacking_is_symmetric_and_row_major():
    packed = jnp.arange(3.0)[None]
    np.testing.assert_array_equal(tt.unpack_blocks(packed, 2)[0], [[0, 1], [1, 2]])
    hessian = tt.unpack_hessian(jnp.arange(9.0).reshape(3, 3), 2, 2)
    np.testing.assert_array_equal(hessian, hessian.T)
    # vec is row-major: entry ((0, 1), (1, 0)) pairs a_0 a_1 (packed row 1) with the keys' 1, 0 (packed column 1).
    assert float(hessian[1, 2]) == 4.0


def test_float32_stays_float32():
    A1, A2, X, gamma, curvature = jax.tree.map(functools.partial(jnp.asarray, dtype=jnp.float32), arrays())
    assert tt.logits(A1, X, A2).dtype == jnp.float32
    assert tt.lift_gradient(A1, gamma, A2).dtype == jnp.float32
    assert tt.curvature_blocks(curvature, A2).dtype == jnp.float32
