"""Sketches of A1 ⊗ A2 against their dense matrices, the lengths they keep, and the costs they claim."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.experimental import sparse

from attnreg.lift.sketches import TensorSparse, TensorSRHT, kronecker_gram, sketched_gram, walsh_hadamard
from attnreg.objectives.sampled import spectral_error

N1, N2, D1, D2 = 5, 8, 3, 2
FLOAT = 8
DRAWS = {
    "srht": TensorSRHT.draw,
    "sparse, 1": functools.partial(TensorSparse.draw, blocks=1),
    "sparse, 4": functools.partial(TensorSparse.draw, blocks=4),
}


def factors(n1=N1, n2=N2, d1=D1, d2=D2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n1, d1)), rng.normal(size=(n2, d2))


def dense(sketch):
    """S over the rows (i, j) of A1 ⊗ A2, from the definitions."""
    if isinstance(sketch, TensorSRHT):
        return dense_srht(*(np.asarray(z) for z in jax.tree.leaves(sketch)))
    h1, s1, h2, s2 = (np.asarray(z) for z in (sketch.hashes1, sketch.signs1, sketch.hashes2, sketch.signs2))
    (blocks, n1), n2, b = h1.shape, h2.shape[1], sketch.buckets
    S = np.zeros((blocks * b, n1 * n2))
    for k in range(blocks):
        for i in range(n1):
            for j in range(n2):
                S[k * b + (h1[k, i] + h2[k, j]) % b, i * n2 + j] = s1[k, i] * s2[k, j] / np.sqrt(blocks)
    return S


def dense_srht(signs1, signs2, rows1, rows2):
    def mixed(signs):
        n = signs.size
        size = 2 ** int(np.ceil(np.log2(n)))
        return scipy.linalg.hadamard(size)[:, :n] * signs

    H1, H2 = mixed(signs1), mixed(signs2)
    return np.stack([np.kron(H1[a], H2[b]) for a, b in zip(rows1, rows2, strict=True)]) / np.sqrt(rows1.size)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("n", [1, 32])
def test_the_transform_is_the_hadamard_matrix(n, dtype):
    A = np.random.default_rng(n).normal(size=(n, 3)).astype(dtype)
    got = jax.jit(walsh_hadamard)(A)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, scipy.linalg.hadamard(n) @ A, rtol=0, atol=8 * n * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", DRAWS)
def test_a_sketch_is_its_dense_matrix(name, dtype):

    @jax.jit
    def drawn(key, A1, A2):
        sketch = DRAWS[name](key, N1, N2, rows=24, dtype=dtype)
        return sketch, sketch.apply(A1, A2), sketched_gram(sketch, A1, A2)

    A1, A2 = (A.astype(dtype) for A in factors())
    sketch, image, gram = drawn(jax.random.key(3), A1, A2)
    S = dense(sketch)
    want = S @ np.kron(np.float64(A1), np.float64(A2))
    tolerance = 64 * jnp.finfo(dtype).eps * np.abs(want).max()
    assert image.dtype == dtype
    assert image.shape == (24, D1 * D2)
    np.testing.assert_allclose(image, want, rtol=0, atol=tolerance)
    np.testing.assert_allclose(gram, want.T @ want, rtol=0, atol=24 * 2 * tolerance * np.abs(want).max())
    if name != "srht":
        np.testing.assert_array_equal(np.count_nonzero(S, axis=0), sketch.signs1.shape[0])


def test_stored_entries_give_what_the_dense_factors_give():
    A1, A2 = factors()
    A1 = A1 * (np.random.default_rng(1).random(A1.shape) < 0.5)

    @jax.jit
    def both(A1, A2):
        sketch = TensorSparse.draw(jax.random.key(0), N1, N2, rows=12, blocks=3)
        # More room than entries: the padding of a BCOO points outside the matrix.
        stored = sparse.BCOO.fromdense(A1, nse=A1.size), sparse.BCOO.fromdense(A2, nse=A2.size)
        return sketch.apply(*stored), sketch.apply(A1, A2)

    eps = np.finfo(np.float64).eps
    np.testing.assert_allclose(*both(A1, A2), rtol=0, atol=256 * eps)


def test_the_exact_gram_matrix_is_the_dense_one():
    A1, A2 = factors()
    product = np.kron(A1, A2)
    np.testing.assert_allclose(kronecker_gram(A1, A2), product.T @ product, rtol=0, atol=1e-12)


@functools.partial(jax.jit, static_argnames=("name", "rows"))
def embedding_errors(name, keys, A1, A2, rows):
    exact = kronecker_gram(A1, A2)

    def one(key):
        return spectral_error(sketched_gram(DRAWS[name](key, A1.shape[0], A2.shape[0], rows=rows), A1, A2), exact)

    return jax.lax.map(one, keys)


@pytest.mark.parametrize("name", ["srht", "sparse, 4"])
@pytest.mark.parametrize("heavy", [False, True], ids=["even rows", "one heavy row"])
def test_a_subspace_is_kept_with_an_error_of_root_p_over_m(name, heavy):
    """20 seeds. A heavy row is what uniform sampling of rows loses; here it costs no more rows than another."""
    A1, A2 = factors(n1=48, n2=40)
    if heavy:
        A1[7] *= 1e3
        A2[11] *= 1e3
    keys = jax.random.split(jax.random.key(1), 20)
    few, many = (embedding_errors(name, keys, A1, A2, rows) for rows in (256, 4096))
    # A row of the image is a product of two nearly normal vectors, whose length varies: hence 6 and not the usual 2.
    assert np.max(many) <= 6 * np.sqrt(D1 * D2 / 4096) < 0.25
    # Sixteen times the rows, a quarter of the error; one heavy row may be kept exactly in one direction.
    assert 2.5 <= np.median(few) / np.median(many) <= 6.5


def compiled(apply, n, d, rows, draw):
    sketch = jax.eval_shape(lambda key: draw(key, n, n, rows=rows), jax.random.key(0))
    A = jax.ShapeDtypeStruct((n, d), jnp.float64)
    return jax.jit(apply).lower(sketch, A, A).compile()


def image(sketch, A1, A2):
    return sketch.apply(A1, A2)


def test_flops_of_the_transform_and_of_the_srht():
    n, d, rows = 4096, 4, 512
    alone = jax.jit(walsh_hadamard).lower(jax.ShapeDtypeStruct((n, d), jnp.float64)).compile()
    assert alone.cost_analysis()["flops"] == pytest.approx(n * d * np.log2(n), rel=0.01)
    both = compiled(image, n, d, rows, DRAWS["srht"]).cost_analysis()["flops"]
    claimed = 2 * n * d * (np.log2(n) + 1) + rows * d * d
    assert claimed <= both * 1.01 <= claimed * 1.1


@pytest.mark.parametrize("name", ["srht", "sparse, 4"])
def test_nothing_of_size_n_squared_or_n_m_is_formed(name):
    """A thousand rows of 65536² products: the temporaries are copies of the factors and of the image."""
    n, d, rows = 65536, 4, 1024
    program = compiled(image, n, d, rows, DRAWS[name])
    used = program.memory_analysis().temp_size_in_bytes
    assert used <= (6 * n * d + 6 * rows * d * d) * FLOAT
    assert used <= n * rows * FLOAT / 30


def test_the_sparse_sketch_costs_its_stored_entries():
    """Rows of zeros that are not stored cost nothing: a factor of a million rows with 64 entries."""
    n, d, rows, stored = 2**20, 4, 256, 64
    sketch = jax.eval_shape(lambda key: TensorSparse.draw(key, n, 16, rows=rows, blocks=2), jax.random.key(0))
    A1 = jax.eval_shape(lambda: sparse.BCOO.fromdense(jnp.zeros((n, d)), nse=stored))
    A2 = jax.ShapeDtypeStruct((16, d), jnp.float64)
    program = jax.jit(image).lower(sketch, A1, A2).compile()
    # One block of hashes and signs may be copied; a dense factor would take 32 MiB.
    assert program.memory_analysis().temp_size_in_bytes < 2 * n * (FLOAT + 4)
    assert program.cost_analysis()["flops"] < 64 * (2 * stored * d + rows * d * d * np.log2(rows))
