"""Head instances: the truth at full size, the reduction to components, and what is asked of the arguments."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.minilm import instance as instances
from attnreg.data.minilm.encoder import encode
from attnreg.data.minilm.heads import head_of
from attnreg.data.minilm.instance import attention_map, head_instance, layer_inputs, minilm_head, principal_components

EPS = np.finfo(np.float64).eps
FLOATS = ("A", "Q", "K", "V", "A_heldout", "Q_heldout", "K_heldout", "V_heldout", "W_O")


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(0, 64, (5, 24)).astype(np.int32)


@pytest.fixture(scope="module")
def make(random_encoder, small_vocabulary, ids):
    def make(**options):
        train, heldout = {"a": ids[:2], "b": ids[2:3]}, {"c": ids[3:]}
        return head_instance(random_encoder, 1, 7, train, heldout, vocabulary=small_vocabulary, **options)

    return make


def relative(found, wanted):
    return np.linalg.norm(np.ravel(found - wanted)) / np.linalg.norm(np.ravel(wanted))


def check_truth(instance, tolerance):
    query, key = instance.true_factors
    for A, Q, K, V in (
        (instance.A, instance.Q, instance.K, instance.V),
        (instance.A_heldout, instance.Q_heldout, instance.K_heldout, instance.V_heldout),
    ):
        B, fitted = attention_map(Q, K), attention_map(A @ query, A @ key)
        assert relative(fitted, B) <= tolerance
        assert relative(fitted @ (A @ instance.true_Y), B @ V) <= 10 * tolerance


def test_full_size_has_the_truth(make):
    check_truth(make(), 1e-14)


def test_truth_is_exact_even_after_a_float32_pass(random_encoder, small_vocabulary, ids):
    single = jax.tree.map(lambda x: x.astype(jnp.float32), random_encoder)
    parts = {"a": ids[:2]}, {"b": ids[2:]}
    check_truth(head_instance(single, 1, 7, *parts, dtype=np.float64, vocabulary=small_vocabulary), 1e-14)


@pytest.mark.parametrize("components", [None, 8])
def test_targets_are_the_maps_of_the_model(random_encoder, make, ids, components):
    instance = make(components=components)
    for i, document in enumerate(ids):
        done = jax.jit(encode)(random_encoder, jnp.asarray(document)).attention[1]
        part, j = ("", i) if i < 3 else ("_heldout", i - 3)
        Q, K, V = (getattr(instance, name + part)[j] for name in "QKV")
        assert relative(attention_map(Q, K), np.asarray(done.maps[7])) <= 1e-13
        assert relative(attention_map(Q, K) @ V, np.asarray(done.heads[7])) <= 1e-13
    np.testing.assert_array_equal(instance.W_O, head_of(random_encoder, 1, 7).w_o)


def test_components_are_those_of_the_training_documents(random_encoder, make, ids):
    instance = make(components=8)
    rows = layer_inputs(random_encoder, ids, 1)
    mean = rows[:3].reshape(-1, 384).mean(axis=0)
    _, sizes, basis = np.linalg.svd(rows[:3].reshape(-1, 384) - mean, full_matrices=False)
    for A, H in ((instance.A, rows[:3]), (instance.A_heldout, rows[3:])):
        assert A.shape == (*H.shape[:2], 9)
        assert np.all(A[..., -1] == 1)
        wanted = np.abs((H - mean) @ basis[:8].T)
        np.testing.assert_allclose(np.abs(A[..., :-1]), wanted, rtol=0, atol=1e-10 * sizes[0])
    assert instance.true_factors is None
    assert instance.true_Y is None


def test_documents_of_one_length_share_one_program(random_encoder, monkeypatch):
    chex.clear_trace_counter()
    monkeypatch.setattr(instances, "encode", chex.assert_max_traces(encode, n=1))
    for count in (1, 2):
        documents = np.full((3, 11), count, np.int32)
        assert layer_inputs(random_encoder, documents, 1).shape == (3, 11, 384)


def test_components_do_not_depend_on_the_sign_of_the_eigenvectors(monkeypatch):
    rows = np.random.default_rng(2).standard_normal((2, 30, 6))
    before = principal_components(rows, rows[:1], 4)
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda m: (eigh(m)[0], -eigh(m)[1]))
    for one, two in zip(before, principal_components(rows, rows[:1], 4), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_labels(make, ids, dtype):
    instance = make(components=4, dtype=dtype)
    assert {getattr(instance, name).dtype for name in FLOATS} == {np.dtype(dtype)}
    assert instance.sources == ("a", "a", "b")
    assert instance.sources_heldout == ("c", "c")
    np.testing.assert_array_equal(instance.ids, ids[:3])
    assert instance.tokens_heldout[1] == tuple(f"word{i}" for i in ids[4])


def test_softmax_gauge(make):
    """X + v wᵀ with A w = 1 gives the same map: here w is the coordinate of the ones, there u."""
    reduced, rng = make(components=4), np.random.default_rng(3)
    X, v = rng.standard_normal((5, 5)), rng.standard_normal((5, 1))
    w = np.eye(5)[-1:]
    one, two = (attention_map(reduced.A @ x, reduced.A) for x in (X, X + v @ w))
    assert relative(two, one) <= 1e-12


def test_errors_name_the_argument(random_encoder, small_vocabulary, make, ids):
    with pytest.raises(ValueError, match=r"components is 72; it must be at least 1 and at most 71"):
        make(components=72)
    with pytest.raises(ValueError, match=r"train has documents of 24 tokens, heldout of 9"):
        head_instance(random_encoder, 1, 7, {"a": ids}, {"b": ids[:, :9]}, vocabulary=small_vocabulary)
    with pytest.raises(ValueError, match=r"heldout has token ids of shapes .*must be \(count, n\)"):
        head_instance(random_encoder, 1, 7, {"a": ids}, {"b": ids[0]}, vocabulary=small_vocabulary)
    with pytest.raises(ValueError, match=r"train has token ids of shapes \{\}"):
        head_instance(random_encoder, 1, 7, {}, {"b": ids}, vocabulary=small_vocabulary)


def test_real_head_of_the_frozen_texts(encoder):
    instance = minilm_head(2, 3, n=64, train={"docs": 2}, heldout={"docs_heldout": 1, "card": 1}, dtype=np.float64)
    check_truth(instance, 1e-14)
    assert instance.A.shape == (2, 64, 384)
    assert instance.sources_heldout == ("docs_heldout", "card")
    assert instance.tokens[0][0] == "[CLS]"
    assert instance.name == "MiniLM-L6 layer 2 head 3, all columns, 2 × 64 tokens"
