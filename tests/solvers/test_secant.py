"""The two-loop recursion against the dense BFGS update of the matrix."""

import jax.numpy as jnp
import numpy as np

from attnreg.solvers.secant import corrected_solve, no_pairs, push

P = 5


def dense_bfgs(H, s, y):
    """The BFGS update of a matrix, from its formula."""
    Hs = H @ s
    return H - np.outer(Hs, Hs) / (s @ Hs) + np.outer(y, y) / (y @ s)


def test_it_is_the_inverse_of_the_updated_matrix():
    rng = np.random.default_rng(0)
    root, curvature = rng.normal(size=(2, P, P))
    H, C = root @ root.T + np.eye(P), curvature @ curvature.T + np.eye(P)
    pairs, updated = no_pairs(4, jnp.zeros(P)), H

    def solve(v):
        return jnp.linalg.solve(H, v)

    for s in rng.normal(size=(3, P)):
        y = C @ s
        pairs, updated = push(pairs, jnp.asarray(s), jnp.asarray(y)), dense_bfgs(updated, s, y)
        np.testing.assert_allclose(corrected_solve(pairs, solve, jnp.asarray(y)), s, rtol=1e-9)
    g = rng.normal(size=P)
    np.testing.assert_allclose(corrected_solve(pairs, solve, jnp.asarray(g)), np.linalg.solve(updated, g), rtol=1e-9)


def test_the_oldest_pair_is_dropped_and_negative_curvature_is_not_kept():
    one = jnp.ones(2)
    pairs = no_pairs(2, one)
    for k in (1.0, 2.0, 3.0):
        pairs = push(pairs, k * one, one)
    np.testing.assert_array_equal(np.sort(pairs.S[:, 0]), [2.0, 3.0])
    # ⟨s, y⟩/⟨y, y⟩ of the newest.
    assert float(pairs.scale) == 3.0
    kept = push(pairs, one, -one)
    np.testing.assert_array_equal(kept.S, pairs.S)


def test_a_memory_that_has_gone_round_is_that_of_its_last_pairs():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(P, P))
    C = root @ root.T + np.eye(P)
    steps, g = rng.normal(size=(7, P)), jnp.asarray(rng.normal(size=P))
    long, short = no_pairs(3, g), no_pairs(3, g)
    for s in steps:
        long = push(long, jnp.asarray(s), jnp.asarray(C @ s))
    for s in steps[-3:]:
        short = push(short, jnp.asarray(s), jnp.asarray(C @ s))
    both = [corrected_solve(pairs, lambda v: 2 * v, g) for pairs in (long, short)]
    np.testing.assert_allclose(*both, rtol=1e-10)
