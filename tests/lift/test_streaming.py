"""Rows in blocks: every row once, in its place, whatever the block size."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.lift import streaming
from attnreg.lift.streaming import BlockRule
from attnreg.problems.attention import AttentionRegression, Teacher

K, N, M, D = 3, 7, 7, 2


def problem(**changes):
    rng = np.random.default_rng(0)
    arrays = dict(A1=rng.normal(size=(K, N, D)), A2=rng.normal(size=(K, M, D)), B=rng.normal(size=(K, N, M)))
    return AttentionRegression(**(arrays | changes))


# Of the rules: all documents at once, the last two of three documents where one is seen again, rows of one document.
RULES = [BlockRule(10**6, together=True), BlockRule(2 * N * M, together=True), BlockRule(3 * M, together=True)]
CPU = streaming.RULES["cpu"]
every_size = pytest.mark.parametrize("block_rows", [1, 2, 3, 5, 6, 7, 100, None, *RULES])


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


@pytest.mark.parametrize("block_rows", [3, None, RULES[1]])
def test_rows_of_reads_the_rows_of_a_block(block_rows):
    p = problem()
    whole = jnp.asarray(np.random.default_rng(1).normal(size=(K, N, 3)))

    def emit(block):
        return streaming.rows_of(block, whole)

    np.testing.assert_array_equal(streaming.map_over_blocks(p, emit, block_rows=block_rows), whole)


@every_size
def test_documents_get_the_sums_of_their_own_rows(block_rows):
    p = problem()

    def emit(block):
        return streaming.Parts(jnp.sum(block.lift), block.b, jnp.sum(block.lift, axis=0))

    got = jax.jit(lambda p: streaming.stream(p, emit, block_rows=block_rows))(p)
    np.testing.assert_allclose(got.total, np.sum(p.A1), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(got.rows, p.B)
    np.testing.assert_allclose(got.documents, np.sum(p.A1, axis=1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("block_rows", [3, *RULES])
@pytest.mark.parametrize("shape", [(K, N, M), (1, N, M), (K, 1, M), (M,), (1, N, 1)])
def test_masks_causal_order_and_weights_follow_the_rows(shape, block_rows):
    rng = np.random.default_rng(2)
    mask, weight = rng.random(shape) < 0.5, rng.normal(size=shape)
    p = problem(mask=mask, weight=weight, causal=True)

    def emit(block):
        return block.mask, jnp.broadcast_to(block.weight, block.b.shape)

    got_mask, got_weight = streaming.map_over_blocks(p, emit, block_rows=block_rows)
    np.testing.assert_array_equal(got_mask, np.broadcast_to(mask, (K, N, M)) & np.tri(N, dtype=bool))
    np.testing.assert_array_equal(got_weight, np.broadcast_to(weight, (K, N, M)))


@pytest.mark.parametrize("block_rows", [3, *RULES])
def test_teacher_rows_are_the_softmax_of_its_logits(block_rows):
    rng = np.random.default_rng(3)
    Q, keys = rng.normal(size=(K, N, 3)), rng.normal(size=(K, M, 3))
    got = streaming.map_over_blocks(
        problem(B=Teacher(Q, keys), causal=True), lambda block: block.b, block_rows=block_rows
    )
    e = np.where(np.tri(N, dtype=bool), np.exp(Q @ keys.swapaxes(1, 2)), 0)
    np.testing.assert_allclose(got, e / e.sum(axis=2, keepdims=True), rtol=1e-14)


def test_block_rows_fill_the_cache_and_even_out():
    for n, m in ((512, 512), (2048, 2048), (1, 10**6), (1000, 300), (5, 2**20)):
        rows = streaming.cut(1, n, m, CPU).rows
        blocks = -(-n // rows)
        assert 1 <= rows <= n
        assert rows == 1 or rows * m <= CPU.entries
        # Evened out: one row fewer per block would need one more block.
        assert rows == 1 or -(-n // (rows - 1)) > blocks


def test_block_rows_given_are_kept_within_the_document():
    assert streaming.cut(2, 10, 10, 4) == (4, 1, 3, 6)
    assert streaming.cut(2, 10, 10, 40) == (10, 1, 1, 2)
    with pytest.raises(ValueError, match="block_rows is 0; it must be at least 1"):
        streaming.cut(2, 10, 10, 0)
