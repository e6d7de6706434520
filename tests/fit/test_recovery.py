"""Weights recovered from arrays: outputs and maps, files, what is determined, comparison up to the gauge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.fit.compare import compare_layers
from attnreg.fit.determined import determined
from attnreg.fit.first_phase import Stochastic
from attnreg.fit.from_maps import fit_attention, logit_least_squares
from attnreg.fit.layer_fit import LayerFit, MapFit, predict
from attnreg.fit.recovery import STARTS, fit_layer
from attnreg.objectives.layer import LayerObjective
from attnreg.problems import AttentionRegression, ProblemError
from attnreg.problems.layer import LayerRegression, LayerWeights


def layer(heads=1, rank=2, value_rank=None, documents=16, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(documents, 24, 6))
    V = (heads, 6, 3 if value_rank is None else value_rank)
    O = None if value_rank is None else rng.normal(size=(heads, value_rank, 3))
    Q, K = rng.normal(size=(heads, 6, rank)), rng.normal(size=(heads, 6, rank)) / 2
    true = LayerWeights._make([Q, K, rng.normal(size=V), O])
    return A, true, predict(true, A)


@pytest.fixture(scope="module")
def fitted():
    A, true, B = layer()
    seen = []
    fit = fit_layer(A[:12], B[:12], rank=2, heldout=(A[12:], B[12:]), tol=1e-14, callback=seen.append)
    return A, true, B, fit, seen


def test_a_head_is_recovered_from_its_outputs(fitted):
    A, true, B, fit, seen = fitted
    assert fit.reason == "tolerance"
    assert fit.heldout <= 1e-14
    np.testing.assert_allclose(fit.predict(A), B, atol=1e-5)
    (head,) = compare_layers(fit.weights, true, A[12:])
    assert head.cosine > 1 - 1e-10
    assert max(head.distance, head.angle_q, head.angle_k, head.values) < 1e-4
    assert {p.phase for p in seen} == {"stochastic", "gauss_newton"}
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)


def test_a_fit_survives_its_file(fitted, tmp_path):
    fit = fitted[3]
    fit.save(tmp_path / "fit.npz")
    again = LayerFit.load(tmp_path / "fit.npz")
    assert again.weights.O is None
    np.testing.assert_array_equal(again.weights.Q, fit.weights.Q)
    assert (again.trace, again.determined, again.reason) == (fit.trace, fit.determined, fit.reason)
    assert len(fit.plot().lines) == 2


def test_a_fit_goes_on_from_its_weights(fitted):
    A, _, B, fit, _ = fitted
    again = fit_layer(A[:12], B[:12], rank=2, start=fit.weights, tol=1e-6)
    assert again.reason == "tolerance"
    assert len(again.trace) == 1


def test_a_small_head_is_found_from_one_text_where_adam_is_not_enough():
    rng = np.random.default_rng(2)
    A, true = rng.normal(size=(1, 64, 4)), LayerWeights(*(rng.normal(size=(1, 4, 4)) for _ in range(3)))
    fit = fit_layer(A, predict(true, A), rank=4, tol=1e-9, seconds=120)
    assert (fit.reason, fit.trace[0][1]) == ("tolerance", "jets")


def test_other_starts_are_tried_after_a_poor_minimum():
    A, _, B = layer()
    noise = np.random.default_rng(5).normal(size=B.shape)
    first, mask = Stochastic(steps=50), np.ones((24, 24), bool)
    fit = fit_layer(A, B + 2 * noise, rank=2, mask=mask, seconds=60, first=first)
    assert fit.reason == "stalled"
    assert len([row for row in fit.trace if row[1:3] == ("stochastic", 50)]) >= STARTS


def test_units_of_inputs_and_outputs_do_not_matter(fitted):
    A, _, B, _, _ = fitted
    fit = fit_layer(100 * A[:12], 1e-3 * B[:12], rank=2, tol=1e-10)
    assert fit.train <= 1e-10


def test_heads_that_add_up_are_told_apart():
    A, true, B = layer(heads=2, rank=1, value_rank=1, documents=40, seed=3)
    first = Stochastic(steps=1500, documents=8)
    fit = fit_layer(A, B, heads=2, rank=1, value_rank=1, tol=1e-12, seconds=300, first=first)
    assert fit.train <= 1e-12
    for head in compare_layers(fit.weights, true, A[:4]):
        assert max(head.distance, head.angle_q, head.angle_k, head.values) < 1e-3


@pytest.mark.parametrize("value_rank", [None, 2])
@pytest.mark.parametrize("constant", [False, True])
def test_determined_is_the_rank_of_the_jacobian(value_rank, constant):
    A, true, B = layer(heads=2, value_rank=value_rank)
    A[:, :, 4] = A[:, :, 3]
    if constant:
        A[:, :, 5] = 1.0
    objective = LayerObjective(LayerRegression(A, B), 2, 2, value_rank)
    x = jax.tree.map(jnp.asarray, true)
    values = np.linalg.eigvalsh(
        np.asarray(jax.jit(lambda o, x: o.value_grad_hessian(x, gauss_newton=True)[2])(objective, x))
    )
    known = determined(objective, 5)
    assert known.unknowns == ravel_pytree(x)[0].size
    assert int(np.sum(values > 1e-11 * values[-1])) == known.unknowns - known.free


def maps_of(weights, A, mask=None, causal=False):
    n = A.shape[1]
    allowed = np.ones((1, n, n), bool) if mask is None else mask
    allowed = allowed & np.tril(np.ones((n, n), bool)) if causal else allowed
    S = np.where(allowed, np.einsum("knd,dr,er,kme->knm", A, weights.Q[0], weights.K[0], A), -np.inf)
    E = np.exp(S - S.max(axis=2, keepdims=True))
    return E / E.sum(axis=2, keepdims=True)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("causal", [False, True])
def test_logarithms_of_maps_give_the_head_away(sharpness, causal, tmp_path):
    A, true, _ = layer(seed=4)
    true = true._replace(Q=sharpness * true.Q)
    maps = maps_of(true, A, causal=causal)
    fit = fit_attention(A[:12], maps[:12], rank=2, causal=causal, heldout=(A[12:], maps[12:]), tol=1e-18)
    assert fit.heldout <= 1e-18
    assert fit.trace[0][1] == "logarithms"
    assert fit.trace[0][4] <= 1e-8
    np.testing.assert_allclose(fit.predict(A), maps, atol=1e-7)
    fit.save(tmp_path / "maps.npz")
    np.testing.assert_array_equal(MapFit.load(tmp_path / "maps.npz").weights.K, fit.weights.K)


def test_what_no_map_depends_on_is_not_filled_with_rounding():
    """Inputs that span the constant but for rounding, as a layer norm's do. It was all that float32 found."""
    rng = np.random.default_rng(8)
    A = rng.normal(size=(1, 48, 40))
    A[:, :, 39] = 1 + 3e-4 * rng.normal(size=(1, 48))
    white = A @ np.linalg.inv(np.linalg.cholesky(np.einsum("kni,knj->ij", A, A) / 48).T)
    maps = maps_of(LayerWeights(*0.2 * rng.normal(size=(3, 1, 40, 2))), white)
    white, maps = jnp.asarray(white, jnp.float32), jnp.asarray(maps, jnp.float32)
    X = np.asarray(logit_least_squares(AttentionRegression(white, white, maps), 60))
    u = np.asarray(white).mean(axis=(0, 1))
    assert np.linalg.norm(X @ u) < 1e-5 * np.linalg.norm(X)


def test_rounded_maps_are_fitted_to_their_rounding():
    A, true, _ = layer(seed=5)
    maps = np.round(maps_of(true, A), 3)
    fit = fit_attention(A[:12], maps[:12], rank=2, heldout=(A[12:], maps[12:]))
    assert fit.heldout < 1e-4
    assert fit.heldout < fit.trace[0][4]


def test_compare_finds_the_order_of_heads_and_ignores_the_gauge():
    A, true, _ = layer(heads=3)
    rng = np.random.default_rng(6)
    A[:, :, 5] = 1.0
    G, shift = rng.normal(size=(2, 2)), np.zeros((6, 2))
    shift[5] = 1.0
    order = [2, 0, 1]
    same = LayerWeights(true.Q[order] @ G, true.K[order] @ np.linalg.inv(G).T + shift, true.V[order])
    heads = compare_layers(same, true, A)
    assert [head.fitted for head in heads] == [1, 2, 0]
    assert max(max(head[3:]) for head in heads) < 1e-6
    assert min(max(head[3:]) for head in compare_layers(true._replace(Q=true.K, K=true.Q), true, A)) > 1e-2


def test_wrong_calls_are_named():
    A, _, B = layer()
    with pytest.raises(ProblemError, match="rank is 0; it must be at least 1"):
        fit_layer(A, B, rank=0)
    with pytest.raises(ProblemError, match="heldout has 1 parts"):
        fit_layer(A, B, rank=2, heldout=(A,))


def test_progress_is_said_on_stderr_and_only_when_asked(capsys):
    A, true, _ = layer(documents=4)
    logits = A @ true.Q[0] @ true.K[0].T @ np.swapaxes(A, 1, 2)
    maps = np.exp(logits - logits.max(-1, keepdims=True))
    maps /= maps.sum(-1, keepdims=True)
    quiet = fit_attention(A[:3], maps[:3], rank=2, heldout=(A[3:], maps[3:]))
    assert capsys.readouterr() == ("", "")
    spoken = fit_attention(A[:3], maps[:3], rank=2, heldout=(A[3:], maps[3:]), progress=True)
    out, lines = capsys.readouterr()
    assert out == ""
    first, *_, last = lines.splitlines()
    assert first.endswith("compiling …")
    assert "logarithms, step 1: loss" in lines
    assert f"ended by {spoken.reason}" in last
    assert f"held out {spoken.heldout:.3g}" in last
    np.testing.assert_array_equal(spoken.weights.Q, quiet.weights.Q)
