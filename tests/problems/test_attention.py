"""Problems: what they accept. What they refuse, and in which words, is in tests/contract/wrong_calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives import AttentionObjective
from attnreg.problems import AttentionRegression, LinearRegression, SoftmaxRegression, Teacher
from attnreg.problems.checks import ProblemError

A1, A2, B = np.ones((4, 3)), np.ones((5, 2)), np.full((4, 5), 0.2)


def build(**changes):
    return AttentionRegression(**(dict(A1=A1, A2=A2, B=B) | changes))


def test_sizes_shape_and_dtype():
    problem = build()
    assert problem.sizes == (1, 4, 5, 3, 2)
    assert problem.shape == (3, 2)
    assert problem.dtype == np.float64
    assert build(A1=A1.astype("f4"), A2=A2.astype("f4"), B=B.astype("f4")).ridge.dtype == np.float32


def test_a_problem_keeps_its_own_copy_of_numpy_arrays():
    """On a CPU JAX would go on reading the caller's memory, where its alignment allows that."""
    raw = np.zeros(4 * 5 + 8)
    ours = raw[(-raw.ctypes.data % 64) // 8 :][:20].reshape(4, 5)
    ours[:] = B
    problem = build(B=ours)
    ours[:] = 7
    np.testing.assert_array_equal(problem.B[0], B)


def test_making_and_checking_a_problem_compiles_nothing(caplog):
    """A program for each check and shape took a third of a second of a process's first call."""
    rng = np.random.default_rng(0)
    fresh = {name: rng.random(shape) for name, shape in dict(A1=(7, 13, 3), A2=(7, 11, 2), B=(7, 13, 11)).items()}
    with jax.log_compiles(), caplog.at_level("WARNING"):
        objective = AttentionObjective(AttentionRegression(**fresh, loss="kl", ridge=0.1))
        start = objective.start()
    assert start.shape == (3, 2)
    assert not [record for record in caplog.records if "compil" in record.getMessage().lower()]


def many(**options):
    """Documents on two leading axes, each with its own number in B."""
    B = np.broadcast_to(np.arange(6.0).reshape(2, 3, 1, 1), (2, 3, 4, 5))
    return AttentionRegression(np.ones((2, 3, 4, 3)), np.ones((2, 3, 5, 2)), B, **options)


def test_leading_axes_are_documents():
    assert many().sizes == (6, 4, 5, 3, 2)
    np.testing.assert_array_equal(many().B[:, 0, 0], np.arange(6))


def test_one_document_may_have_axes_of_one():
    assert build(B=B[None], A2=A2[None, None]).sizes == build().sizes


@pytest.mark.parametrize(
    ("lead", "documents"), [((2, 3), 6), ((3,), 6), ((1, 3), 6), ((2, 1), 6), ((1, 1), 1), ((), 1)]
)
def test_masks_and_weights_broadcast_over_leading_axes_as_in_numpy(lead, documents):
    weight = np.random.default_rng(0).normal(size=(*lead, 1, 5))
    problem = many(weight=weight, mask=weight > 0)
    assert problem.weight.shape == problem.mask.shape == (documents, 1, 5)
    want = np.broadcast_to(weight, (2, 3, 1, 5)).reshape(6, 1, 5)
    np.testing.assert_array_equal(np.broadcast_to(problem.weight, (6, 1, 5)), want)


def test_a_teacher_has_the_documents_of_its_problem():
    Q = np.broadcast_to(np.arange(6.0).reshape(2, 3, 1, 1), (2, 3, 4, 2))
    assert Teacher(Q, np.ones((2, 3, 5, 2))).shape == (2, 3, 4, 5)
    assert Teacher(np.ones((4, 2)), np.ones((5, 2))).shape == (1, 4, 5)
    problem = AttentionRegression(np.ones((2, 3, 4, 3)), np.ones((2, 3, 5, 2)), Teacher(Q, np.ones((2, 3, 5, 2))))
    np.testing.assert_array_equal(problem.B.Q[:, 0, 0], np.arange(6))


def test_numbers_without_a_precision_take_jax_s():
    lists = [[1.0, 2.0], [3, 4.0]]
    assert AttentionRegression(lists, lists, lists).dtype == np.float64
    jax.config.update("jax_enable_x64", False)
    try:
        problem = AttentionRegression(
            lists, lists, lists, weight=[[1.0], [2.0]], ridge=np.float64(0.5), mask=[True, False]
        )
        assert problem.dtype == problem.ridge.dtype == problem.weight.dtype == np.float32
        with pytest.raises(ProblemError, match="A1 has dtype float64, but JAX computes in float32"):
            AttentionRegression([np.ones(2), np.ones(2)], lists, lists)  # NumPy's numbers inside a list have one
    finally:
        jax.config.update("jax_enable_x64", True)


def test_any_byte_order_and_memory_order_is_read():
    swapped = np.asfortranarray(np.arange(12.0).reshape(4, 3)).astype(">f8")
    np.testing.assert_array_equal(build(A1=swapped).A1[0], np.arange(12.0).reshape(4, 3))


@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (4, 1), (5,), (1, 1, 1)])
def test_masks_and_weights_broadcast(shape):
    problem = build(mask=np.ones(shape, bool), weight=np.ones(shape))
    assert problem.mask.ndim == problem.weight.ndim == 3


def test_a_vector_problem_is_the_one_row_problem():
    problem = SoftmaxRegression(np.ones((4, 2)), np.full(4, 0.25), weight=np.arange(4.0), ridge=0.5)
    assert problem.sizes == (1, 1, 4, 1, 2)
    assert problem.weight.shape == (1, 1, 4)
    assert problem.loss == "normalized"
    assert LinearRegression(np.ones((3, 4, 2)), np.ones((3, 4))).sizes == (3, 1, 4, 1, 2)


def test_problems_pass_through_transformations():
    problem = build(mask=np.ones((4, 5), bool))
    leaves, tree = jax.tree.flatten(problem)
    assert jax.tree.unflatten(tree, leaves).loss == "normalized"
    assert jax.jit(lambda p: jnp.sum(p.A1))(problem) == 12
    batched = jax.tree.map(lambda x: jnp.stack([x, x]), problem)
    assert jax.vmap(lambda p: jnp.sum(p.A1))(batched).shape == (2,)
    # Finiteness is a check on concrete data: building inside jit does not fail on tracers.
    assert jax.jit(lambda a: AttentionRegression(a, A2, B).sizes[1] * jnp.sum(a))(A1) == 48


def test_static_fields_are_part_of_the_tree():
    one, other = (jax.tree.structure(build(loss=loss)) for loss in ("normalized", "linear"))
    assert one != other


def test_problems_are_frozen():
    with pytest.raises(AttributeError):
        build().ridge = 3.0


def test_leaves_come_in_the_order_of_their_names():
    """Two ways to take a problem apart, one of them without names: the same leaves, and the same way back."""
    problem = AttentionRegression(np.ones((4, 2)), np.zeros((3, 2)), np.full((4, 3), 1 / 3), ridge=0.5)
    named, structure = jax.tree_util.tree_flatten_with_path(problem)
    leaves = jax.tree.leaves(problem)
    assert [path[-1].name for path, _ in named] == ["A1", "A2", "B", "ridge"]
    assert all(a is b for a, (_, b) in zip(leaves, named, strict=True))
    assert structure == jax.tree.structure(problem)
    assert jax.tree.unflatten(structure, leaves).ridge is problem.ridge
