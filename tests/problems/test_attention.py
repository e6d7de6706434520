"""Problems: what they accept, and that every refusal names the argument, what it has and what it must have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.problems.attention import AttentionRegression, LinearRegression, SoftmaxRegression, Teacher
from attnreg.problems.checks import ProblemError

A1, A2, B = np.ones((4, 3)), np.ones((5, 2)), np.full((4, 5), 0.2)
NAN = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, 1.0)


def build(**changes):
    return AttentionRegression(**(dict(A1=A1, A2=A2, B=B) | changes))


REFUSED = {
    "A1 missing": (dict(A1=None), "A1 is None; it must be an array (…, n, d1)"),
    "A1 not an array": (dict(A1="abc"), "A1 is not an array"),
    "A1 integer": (dict(A1=np.ones((4, 3), int)), "A1 has dtype int64; it must be floating point"),
    "A2 boolean": (dict(A2=np.ones((5, 2), bool)), "A2 has dtype bool; it must be floating point"),
    "A1 complex": (dict(A1=np.ones((4, 3), complex)), "A1 has dtype complex128; it must be floating point"),
    "A1 a vector": (dict(A1=np.ones(3)), "A1 has shape (3,); it must be (…, n, d1)"),
    "A2 empty": (dict(A2=np.ones((0, 2))), "A2 has shape (0, 2): an empty axis"),
    "A1 no features": (dict(A1=np.ones((4, 0))), "A1 has shape (4, 0): an empty axis"),
    "A1 NaN": (dict(A1=NAN), "A1 has 1 NaN or infinite entries of 12"),
    "A2 infinite": (dict(A2=np.full((5, 2), np.inf)), "A2 has 10 NaN or infinite entries of 10"),
    "B NaN": (dict(B=np.full((4, 5), np.nan)), "B has 20 NaN or infinite entries of 20"),
    "B rows": (dict(B=np.ones((3, 5))), "its n is 3, but A1 gives n = 4; B must be (…, n, m) = (…, 4, 5)"),
    "B keys": (dict(B=np.ones((4, 6))), "its m is 6, but A2 gives m = 5"),
    "B documents": (dict(B=np.ones((2, 4, 5))), "its documents is 2, but A1 gives documents = 1"),
    "A2 documents": (dict(A2=np.ones((2, 5, 2))), "A2 has shape (2, 5, 2)"),
    "mixed dtypes": (dict(A2=np.ones((5, 2), np.float32)), "A1 float64, A2 float32, B float64; cast them with .astype"),
    "unknown loss": (dict(loss="huber"), "loss is 'huber'; it must be one of normalized, rescaled, cosh_rescaled"),
    "mask dtype": (dict(mask=np.ones((4, 5))), "mask has dtype float64; it must be boolean"),
    "mask shape": (dict(mask=np.ones((5, 4), bool)), "mask has shape (5, 4); it must broadcast to (documents, n, m)"),
    "causal": (dict(causal=True), "causal=True needs as many keys as queries, but A1 has n = 4 and A2 has m = 5"),
    "weight shape": (dict(weight=np.ones((4, 4))), "weight has shape (4, 4); it must broadcast to"),
    "weight NaN": (dict(weight=np.nan), "weight has 1 NaN or infinite entries of 1"),
    "ridge negative": (dict(ridge=-1.0), "ridge is -1.0; it must be finite and at least 0"),
    "ridge NaN": (dict(ridge=np.nan), "ridge is nan; it must be finite and at least 0"),
    "ridge array": (dict(ridge=np.ones(3)), "ridge has shape (3,); it must be a scalar"),
    "teacher rank": (lambda: Teacher(np.ones((4, 2)), np.ones((5, 3))), "K has shape (1, 5, 3) (documents first)"),
    "teacher dtype": (lambda: Teacher(np.ones((4, 2)), np.ones((5, 2), np.float32)), "Q float64, K float32"),
    "teacher NaN": (lambda: Teacher(np.full((4, 2), np.nan), np.ones((5, 2))), "Q has 8 NaN or infinite entries of 8"),
    "teacher rows": (lambda: build(B=Teacher(np.ones((3, 2)), np.ones((5, 2)))), "B has shape (1, 3, 5)"),
    "vector b": (lambda: SoftmaxRegression(np.ones((4, 2)), np.ones(3)), "its n is 3, but A gives n = 4"),
    "vector A": (lambda: LinearRegression(np.ones(4), np.ones(4)), "A has shape (4,); it must be (…, n, d)"),
    "vector loss": (lambda: SoftmaxRegression(np.ones((4, 2)), np.ones(4), loss="sinh"), "loss is 'sinh'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_argument_and_the_cure(name):
    change, message = REFUSED[name]
    with pytest.raises(ProblemError) as error:
        change() if callable(change) else build(**change)
    assert message in str(error.value)


def test_sizes_shape_and_dtype():
    problem = build()
    assert problem.sizes == (1, 4, 5, 3, 2)
    assert problem.shape == (3, 2)
    assert problem.dtype == np.float64
    assert build(A1=A1.astype("f4"), A2=A2.astype("f4"), B=B.astype("f4")).ridge.dtype == np.float32


def test_leading_axes_are_documents():
    many = build(A1=np.ones((2, 3, 4, 3)), A2=np.ones((2, 3, 5, 2)), B=np.ones((2, 3, 4, 5)))
    assert many.sizes == (6, 4, 5, 3, 2)


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
