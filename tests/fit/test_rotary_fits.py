"""Rotary heads recovered from maps and outputs, what is determined of them, and their comparison up to the gauge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.layers import layer_maps, layer_outputs
from attnreg.fit import compare_layers, fit_attention, fit_layer, identifiability, logit_distance
from attnreg.fit.determined import determined
from attnreg.fit.layer_fit import LayerFit, MapFit, predict
from attnreg.fit.map_phases import logarithms_of, reassigned
from attnreg.objectives import FactoredObjective, Factors, LayerObjective
from attnreg.problems import AttentionRegression, LayerRegression, LayerWeights, ProblemError, Rotary
from tests.oracles import rotary as oracle

FREQUENCIES = np.array([1.0, 0.3, 0.1, 0.01])
ROTARY = Rotary(8, frequencies=FREQUENCIES)


def head(sink=8.0, documents=12, seed=0):
    """Inputs (k, 24, 16) and Q, K (16, 8): the slowest pair makes a sink of token 0, which all queries look for."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(documents, 24, 16))
    A[:, :, 0], A[:, :, 1] = 1.0, 0.0
    A[:, 0, 1] = 1.0
    Q, K = rng.normal(size=(2, 16, 8)) / 4
    Q[0, 3], K[1, 3] = 1.0, sink
    return A, Q, K


def maps_of(A, Q, K):
    """By complex numbers, and without a word of the library."""
    return oracle.softmax(oracle.logits(A @ Q, A @ K, FREQUENCIES), np.tril(np.ones((24, 24), bool)))


@pytest.fixture(scope="module")
def fitted():
    A, Q, K = head()
    maps, seen = maps_of(A, Q, K), []
    options = dict(rank=8, rotary=ROTARY, causal=True, seconds=1800, tol=1e-14, callback=seen.append)
    return A, Q, K, maps, fit_attention(A[:9], maps[:9], heldout=(A[9:], maps[9:]), **options), seen


def test_a_rotary_head_behind_a_sink_is_recovered_from_its_maps(fitted):
    A, Q, K, maps, fit, seen = fitted
    assert maps[:, 4:, 0].mean() > 0.5
    assert (fit.reason, fit.heldout <= 1e-14) == ("tolerance", True)
    assert fit.determined.equations == 9 * 24 * 23 // 2  # query i sees i + 1 keys, whose weights sum to 1
    assert {"divergence", "logarithms"} <= {p.phase for p in seen}
    np.testing.assert_allclose(fit.predict(A), maps, atol=1e-6)
    weights = [LayerWeights(*(W[None] for W in (*pair, Q))) for pair in (fit.weights, (Q, K))]
    (found,) = compare_layers(*weights, A[9:], rotary=ROTARY, causal=True)
    assert found.cosine > 1 - 1e-10
    assert found.distance < 1e-5


def test_only_differences_of_positions_count_and_a_fit_survives_its_file(fitted, tmp_path):
    A, _, _, maps, fit, _ = fitted
    fit.save(tmp_path / "fit.npz")
    again = MapFit.load(tmp_path / "fit.npz")
    np.testing.assert_allclose(again.predict(A, positions=np.arange(24) + 7), maps, atol=1e-6)
    assert np.max(np.abs(again.predict(A, positions=2 * np.arange(24)) - maps)) > 1e-2


def test_distances_ignore_what_commutes_with_the_turns_and_see_the_rest(fitted):
    A, Q, K, maps, _, _ = fitted
    problem = AttentionRegression(A, A, maps, causal=True, rotary=ROTARY)
    z = np.exp(0.3 + 0.7j) * np.arange(1, 5)
    q, k = (W[:, :4] + 1j * W[:, 4:] for W in (Q, K))
    moved = Factors(*(jnp.asarray(np.concatenate([c.real, c.imag], axis=1)) for c in (q * z, k / z.conj())))
    true = Factors(jnp.asarray(Q), jnp.asarray(K))
    swapped = Factors(true.K, true.Q)
    assert float(logit_distance(problem, moved, true)) <= 1e-14
    S, T = (oracle.logits(A @ left, A @ right, FREQUENCIES) for left, right in ((K, Q), (Q, K)))
    allowed = np.tril(np.ones((24, 24), bool))
    S, T = (np.where(allowed, X - np.mean(X, axis=2, keepdims=True, where=allowed), 0) for X in (S, T))
    expected = np.linalg.norm(S - T) / np.linalg.norm(T)
    assert float(logit_distance(problem, swapped, true)) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ProblemError, match=r"problem.rotary is set, so it must be Factors\(Q, K\)"):
        logit_distance(problem, jnp.zeros((16, 16)), true)
    with pytest.raises(ProblemError, match=r"identifiability counts directions of a full X without it"):
        identifiability(problem)


def layer(heads=1, key_heads=1, documents=24, seed=0):
    """A layer of causal rotary heads four wide, its inputs (k, 16, 8) and outputs (k, 16, 3)."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(documents, 16, 8))
    shapes = ((heads, 8, 4), (key_heads, 8, 4), (key_heads, 8, 2), (heads, 2, 3))
    true = LayerWeights(*(rng.normal(size=shape) / 2 for shape in shapes))
    rotary = Rotary(4, frequencies=[1.0, 0.2])
    return A, true, rotary, layer_outputs(true, A, rotary=rotary, causal=True)


@pytest.mark.parametrize("heads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_rotary_layer_is_recovered_from_its_outputs(heads, tmp_path):
    A, true, rotary, B = layer(heads)
    options = dict(rank=4, heads=heads, key_heads=1, value_rank=2, rotary=rotary, causal=True, seconds=1800, tol=1e-6)
    fit = fit_layer(A[:20], B[:20], heldout=(A[20:], B[20:]), **options)
    assert fit.heldout <= 1e-4
    assert (fit.weights.Q.shape, fit.weights.K.shape, fit.weights.V.shape) == ((heads, 8, 4), (1, 8, 4), (1, 8, 2))
    fit.save(tmp_path / "fit.npz")
    np.testing.assert_allclose(LayerFit.load(tmp_path / "fit.npz").predict(A), B, atol=0.1 * np.std(B))
    for found in compare_layers(fit.weights, true, A[20:], rotary=rotary, causal=True):
        assert found.cosine > 1 - 1e-3


def test_made_data_are_those_of_the_closed_forms():
    A, true, rotary, B = layer(4, 2, documents=2)
    np.testing.assert_allclose(predict(true, A, rotary=rotary, causal=True), B, atol=1e-14)
    options = dict(scale=0.3, soft_cap=1.2, causal=True)
    S = 1.2 * np.tanh(0.3 * oracle.logits(A @ true.Q[3], A @ true.K[1], [1.0, 0.2]) / 1.2)
    wanted = oracle.softmax(S, np.tril(np.ones((16, 16), bool)))
    np.testing.assert_allclose(layer_maps(true, A, 3, rotary=rotary, **options), wanted, atol=1e-15)
    problem = LayerRegression(A, B, rotary=rotary, **options)
    maps = LayerObjective(problem, 4, 4, 2, key_heads=2).maps(LayerWeights(*map(jnp.asarray, true)))
    np.testing.assert_allclose(maps[:, 3], wanted, atol=1e-15)


# (width that turns, frequencies, value rank, key heads, a constant input, soft cap)
COUNTS = {
    "partial, shared": (2, [0.7], 2, 1, True, None),
    "whole": (4, [1.0, 0.2], None, 2, True, None),
    "a pair that never turns": (4, [1.0, 0.0], 2, 2, True, None),
    "two pairs alike": (4, [0.5, 0.5], 2, 1, False, None),
    "capped": (2, [0.7], 2, 1, True, 2.0),
}


@pytest.mark.parametrize(
    "name", [name if name == "partial, shared" else pytest.param(name, marks=pytest.mark.slow) for name in COUNTS]
)
def test_determined_is_the_rank_of_the_jacobian(name):
    width, frequencies, value_rank, key_heads, constant, soft_cap = COUNTS[name]
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(16, 12, 6)), rng.normal(size=(16, 12, 3))
    A[:, :, 4] = A[:, :, 3]
    if constant:
        A[:, :, 5] = 1.0
    rotary = Rotary(width, frequencies=frequencies)
    problem = LayerRegression(A, B, rotary=rotary, soft_cap=soft_cap)
    objective = LayerObjective(problem, 2, 4, value_rank, key_heads=key_heads)
    x = objective.small_start(jax.random.key(1), 1.5)
    matrix = jax.jit(lambda o, x: o.value_grad_hessian(x, gauss_newton=True)[2])(objective, x)
    values = np.linalg.eigvalsh(np.asarray(matrix))
    known = determined(objective, 5, rotary)
    assert int(np.sum(values > 1e-11 * values[-1])) == known.unknowns - known.free


def test_scaled_logits_are_divided_out_of_the_weights():
    rng = np.random.default_rng(3)
    A, Q, K = rng.normal(size=(6, 20, 5)), rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    maps = oracle.softmax(0.25 * (A @ Q) @ (A @ K).swapaxes(1, 2), np.ones((20, 20), bool))
    fit = fit_attention(A, maps, rank=2, scale=0.25, tol=1e-20, seconds=600)
    assert (fit.reason, fit.trace[0][1]) == ("tolerance", "logarithms")
    gap = A @ (fit.weights.product() - Q @ K.T) @ A.swapaxes(1, 2)
    assert np.max(np.abs(gap - gap.mean(axis=2, keepdims=True))) <= 1e-8


def test_spans_are_shared_out_anew_among_frequencies():
    # The right columns at the wrong frequencies, which is what a local minimum looks like.
    rng = np.random.default_rng(2)
    A, (Q, K), frequencies = rng.normal(size=(12, 24, 16)), rng.normal(size=(2, 16, 8)) / 4, np.array([2, 1, 0.5, 0.2])
    order = [2, 0, 3, 1]
    wrong = Factors(*(jnp.asarray(W[:, [*order, *(4 + f for f in order)]]) for W in (Q, K)))
    maps = oracle.softmax(oracle.logits(A @ Q, A @ K, frequencies), np.tril(np.ones((24, 24), bool)))
    problem = AttentionRegression(A, A, maps, causal=True, rotary=Rotary(8, frequencies=frequencies))
    logs = logarithms_of(FactoredObjective(problem, 8))
    assert float(logs.value(reassigned(logs, wrong))) <= 1e-6 * float(logs.value(wrong))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_local_minima_of_random_heads_are_left(seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(16, 32, 32))
    Q, K = rng.normal(size=(2, 32, 8)) / np.sqrt(32)
    rotary = Rotary(8, base=100.0)
    S = oracle.logits(A @ Q * 0.7, A @ K, oracle.frequencies(8, 100.0))
    maps = oracle.softmax(S, np.tril(np.ones((32, 32), bool)))
    options = dict(rank=8, rotary=rotary, causal=True, heldout=(A[12:], maps[12:]), seconds=1800)
    assert fit_attention(A[:12], maps[:12], **options).heldout <= 1e-8


@pytest.mark.slow
def test_a_capped_head_is_recovered_from_its_maps():
    A, Q, K = head(sink=2.0, seed=1)
    S = 3 * np.tanh(oracle.logits(A @ Q, A @ K, FREQUENCIES) / 3)
    maps = oracle.softmax(S, np.tril(np.ones((24, 24), bool)))
    options = dict(rank=8, rotary=ROTARY, causal=True, soft_cap=3.0, seconds=1800, tol=1e-8)
    fit = fit_attention(A[:9], maps[:9], heldout=(A[9:], maps[9:]), **options)
    assert fit.heldout <= 1e-6
