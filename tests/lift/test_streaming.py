"""Rows in blocks: every row once, in its place, whatever the block size."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.lift import streaming
from attnreg.problems.attention import AttentionRegression, Teacher

K, N, M, D = 2, 7, 7, 2


def problem(**changes):
    rng = np.random.default_rng(0)
    arrays = dict(A1=rng.normal(size=(K, N, D)), A2=rng.normal(size=(K, M, D)), B=rng.normal(size=(K, N, M)))
    return AttentionRegression(**(arrays | changes))


every_size = pytest.mark.parametrize("block_rows", [1, 2, 3, 5, 6, 7, 100, None])


@every_size
def test_every_row_is_summed_once(block_rows):
    p = problem()
    got = jax.jit(lambda p: streaming.sum_over_blocks(p, lambda b: jnp.sum(b.lift, axis=0), block_rows=block_rows))(p)
    np.testing.assert_allclose(got, np.sum(p.A1, axis=(0, 1)), rtol=0, atol=1e-14)


@every_size
def test_rows_are_gathered_in_place(block_rows):
    p = problem()

    def emit(block):
        return {"query": block.query, "b": block.b, "first": block.b[:, 0]}

    got = jax.jit(lambda p: streaming.map_over_blocks(p, emit, block_rows=block_rows))(p)
    chex.assert_trees_all_equal(got, {"query": p.A1, "b": p.B, "first": p.B[:, :, 0]})


@pytest.mark.parametrize("block_rows", [1, 3])
def test_the_body_of_the_loop_is_traced_for_its_shapes_and_once_for_all_blocks(block_rows):
    chex.clear_trace_counter()
    emit = chex.assert_max_traces(lambda block: jnp.sum(block.lift), n=2)
    jax.jit(lambda p: streaming.sum_over_blocks(p, emit, block_rows=block_rows))(problem())


@pytest.mark.parametrize("block_rows", [3, None])
def test_rows_of_reads_what_put_rows_wrote(block_rows):
    p = problem()
    whole = jnp.asarray(np.random.default_rng(1).normal(size=(K, N, 3)))

    def emit(block):
        return streaming.rows_of(block, whole)

    np.testing.assert_array_equal(streaming.map_over_blocks(p, emit, block_rows=block_rows), whole)


@pytest.mark.parametrize("shape", [(K, N, M), (1, N, M), (K, 1, M), (M,), (1, N, 1)])
def test_masks_causal_order_and_weights_follow_the_rows(shape):
    rng = np.random.default_rng(2)
    mask, weight = rng.random(shape) < 0.5, rng.normal(size=shape)
    p = problem(mask=mask, weight=weight, causal=True)

    def emit(block):
        return block.mask, jnp.broadcast_to(block.weight, block.b.shape)

    got_mask, got_weight = streaming.map_over_blocks(p, emit, block_rows=3)
    np.testing.assert_array_equal(got_mask, np.broadcast_to(mask, (K, N, M)) & np.tri(N, dtype=bool))
    np.testing.assert_array_equal(got_weight, np.broadcast_to(weight, (K, N, M)))


def test_teacher_rows_are_the_softmax_of_its_logits():
    rng = np.random.default_rng(3)
    Q, keys = rng.normal(size=(K, N, 3)), rng.normal(size=(K, M, 3))
    got = streaming.map_over_blocks(problem(B=Teacher(Q, keys), causal=True), lambda block: block.b, block_rows=3)
    e = np.where(np.tri(N, dtype=bool), np.exp(Q @ keys.swapaxes(1, 2)), 0)
    np.testing.assert_allclose(got, e / e.sum(axis=2, keepdims=True), rtol=1e-14)


def test_block_rows_fill_the_cache_and_even_out():
    for n, m in ((512, 512), (2048, 2048), (1, 10**6), (1000, 300), (5, 2**20)):
        rows = streaming.block_rows_for(n, m)
        blocks = -(-n // rows)
        assert 1 <= rows <= n
        assert rows == 1 or rows * m <= streaming.BLOCK_ENTRIES
        # Evened out: one row fewer per block would need one more block.
        assert rows == 1 or -(-n // (rows - 1)) > blocks


def test_block_rows_given_are_kept_within_the_document():
    assert streaming.block_rows_for(10, 10, 4) == 4
    assert streaming.block_rows_for(10, 10, 40) == 10
    with pytest.raises(ValueError, match="block_rows is 0; it must be at least 1"):
        streaming.block_rows_for(10, 10, 0)
