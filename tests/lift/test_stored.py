"""Products with a sparse matrix from its stored entries, against the dense matrix, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from attnreg.lift.stored import StoredRows
from attnreg.problems.checks import ProblemError
from tests.objectives.test_costs import flops, temporaries

EPS = float(np.finfo(np.float64).eps)
N, D = 30, 7


def uneven(seed=0):
    """Rows of 0 to D entries, one of them full."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, D)) * (rng.random((N, D)) < rng.random((N, 1)))
    A[3], A[4] = 0, rng.normal(size=D)
    return A


def random_rows(n, d, s):
    """A BCOO (n, d) with s entries a row."""
    rng = np.random.default_rng(0)
    columns = rng.permuted(np.tile(np.arange(d), (n, 1)), axis=1)[:, :s]
    places = np.stack([np.repeat(np.arange(n), s), columns.ravel()], axis=1)
    return sparse.BCOO((jnp.asarray(rng.normal(size=n * s)), jnp.asarray(places)), shape=(n, d))


def test_products_are_those_of_the_dense_matrix():
    A, rng = uneven(), np.random.default_rng(1)
    rows = StoredRows.of(sparse.BCOO.fromdense(jnp.asarray(A), nse=A.size))  # more room than entries
    x, v, w = (jnp.asarray(rng.normal(size=size)) for size in (D, N, N))
    have = jax.jit(lambda rows: (rows.times(x), rows.transposed_times(v), rows.gram(w)))(rows)
    for result, want in zip(have, (A @ np.asarray(x), A.T @ np.asarray(v), A.T @ np.diag(w) @ A), strict=True):
        np.testing.assert_allclose(result, want, rtol=0, atol=64 * EPS * N)
    assert np.count_nonzero(A) <= rows.stored < 2 * np.count_nonzero(A)


def test_entries_in_any_order_and_twice_at_one_place_are_added():
    indices = np.array([[2, 1], [0, 0], [2, 0], [2, 1], [0, 2], [0, 2]])
    A = sparse.BCOO((jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, -5.0]), jnp.asarray(indices)), shape=(3, 3))
    dense = np.array([[2.0, 0, 0], [0, 0, 0], [3, 5, 0]])
    np.testing.assert_array_equal(StoredRows.of(A).gram(jnp.ones(3)), dense.T @ dense)
    assert StoredRows.of(A).stored == 3


@pytest.mark.parametrize("columns", [64, 4096])
def test_a_gram_matrix_costs_the_pairs_of_a_row_and_not_the_columns(columns):
    """Read off the compiled program: at most 8 operations a pair, and 4 an entry of the result."""
    n, s = 512, 6
    rows = StoredRows.of(random_rows(n, columns, s))
    assert rows.pairs == n * s * (s + 1) // 2
    program = jax.jit(lambda rows, w: rows.gram(w)).lower(rows, jnp.ones(n)).compile()
    assert flops(program) <= 8 * rows.pairs + 4 * columns**2
    assert temporaries(program) <= 8 * (4 * rows.pairs + 3 * columns**2)
    dense = jax.jit(lambda A, w: (A * w[:, None]).T @ A).lower(jnp.ones((n, columns)), jnp.ones(n)).compile()
    assert flops(dense) >= 2 * n * columns**2


def test_what_is_no_sparse_matrix_is_refused():
    with pytest.raises(ProblemError, match=r"A is a ndarray of shape \(30, 7\); it must be a BCOO matrix"):
        StoredRows.of(uneven())
    with pytest.raises(ProblemError, match=r"A of shape \(2, 2\) has no entry that is not zero"):
        StoredRows.of(sparse.BCOO.fromdense(jnp.zeros((2, 2))))
