"""The example layer: an exact answer, texts of other documents at the end, components of the head's inputs."""

import numpy as np
import pytest

from attnreg.data import example_layer, layer_outputs, load_full_head


@pytest.fixture(scope="module")
def example():
    return example_layer()


def test_its_weights_are_an_exact_answer_and_rounding_is_all_that_is_lost(example):
    assert {array.dtype for array in (example.A, example.B, *example.weights[:3])} == {np.dtype(np.float32)}
    written = layer_outputs(example.weights, example.A)
    assert np.abs(written - example.B).max() <= np.finfo(np.float32).eps * np.abs(written).max()


def test_inputs_are_the_heads_but_for_their_small_components(example):
    rows = load_full_head().A.reshape(-1, 384).astype(np.float64)
    squares = np.linalg.svd(rows, compute_uv=False) ** 2
    kept = np.sum(example.A[:16].astype(np.float64) ** 2) / np.sum(rows**2)
    assert kept == pytest.approx(np.sum(squares[:64]) / np.sum(squares), rel=1e-5)


def test_all_components_are_the_head_itself():
    head, whole = load_full_head(), example_layer(width=384)
    unseen = head.A_heldout.reshape(8, 128, 384)  # the last texts are cut from the held-out documents
    np.testing.assert_allclose(
        whole.A[16:] @ whole.A[16:].mT, unseen @ unseen.mT, atol=1e-4 * np.abs(unseen).max() ** 2
    )
    outputs = layer_outputs(whole.weights, whole.A[:1])[0]
    A = head.A[0, :128]
    logits = (A @ head.true_factors[0]) @ (A @ head.true_factors[1]).T
    maps = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = maps / maps.sum(axis=1, keepdims=True) @ (A @ head.true_Y)
    assert np.abs(outputs - expected).max() < 1e-4 * np.abs(expected).max()
