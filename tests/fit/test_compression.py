"""Compressed heads: closed forms against Eckart and Young on the logits themselves, and the fit after the softmax."""

import numpy as np
import pytest

from attnreg.fit.compression import compress_head, map_error, output_error
from attnreg.fit.cuts import centred, closed_forms, cut, root
from attnreg.objectives.factors import Factors
from attnreg.problems import ProblemError

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
T, N, D, W = 3, 7, 6, 4


def softmax(s, causal=False):
    s = np.where(np.tri(s.shape[-1], dtype=bool) | (not causal), s, -np.inf)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def head(seed=0, texts=T, n=N, spread=(2.0, 1.0, 0.5, 0.2)):
    """Weights, and queries and keys of texts, whose logits have a few directions that matter."""
    rng = np.random.default_rng(seed)
    Q, K = rng.normal(size=(D, W)) * spread, rng.normal(size=(D, W)) + 0.5
    A = rng.normal(size=(texts, n, D)) + 0.3
    return Q, K, A @ Q, A @ K


def best(M, rank):
    """The least squared distance of a matrix of rank `rank` from M."""
    return np.sum(np.linalg.svd(M, compute_uv=False)[rank:] ** 2)


@pytest.mark.parametrize("rank", range(1, W + 1))
def test_each_closed_form_is_the_best_of_its_rank_in_what_it_keeps(rank):
    Q, K, q, k = head()
    stacked = lambda x: x.reshape(-1, W)  # noqa: E731
    kept = {"weights": (Q, K), "logits": (stacked(q), stacked(k)), "centred": (stacked(q), stacked(centred(k)))}
    forms = closed_forms(Q, K, q, k, rank)
    assert list(forms) == list(kept)
    for name, (P, S) in forms.items():
        left, right = kept[name]
        found = np.sum((left @ right.T - left @ P @ S.T @ right.T) ** 2)
        size = np.sum((left @ right.T) ** 2)
        assert abs(found - best(left @ right.T, rank)) <= 100 * EPS * size, name
        assert P.shape == S.shape == (W, rank)


def test_the_centred_form_is_the_best_for_row_centred_logits_of_one_text():
    Q, K, q, k = head(texts=1)
    P, S = closed_forms(Q, K, q, k, 2)["centred"]
    off = lambda s: s - s.mean(axis=-1, keepdims=True)  # noqa: E731
    logits = off(q[0] @ k[0].T)
    assert np.sum((logits - off(q[0] @ P @ S.T @ k[0].T)) ** 2) == pytest.approx(best(logits, 2), rel=1e-11)


def test_what_all_keys_of_a_text_share_moves_the_logits_form_and_not_the_centred_one():
    Q, K, q, k = head()
    moved = k + 3 * np.random.default_rng(1).normal(size=(T, 1, W))
    before, after = (closed_forms(Q, K, q, keys, 2) for keys in (k, moved))
    change = {
        name: np.max(np.abs(after[name].Q @ after[name].K.T - before[name].Q @ before[name].K.T)) for name in before
    }
    assert change["centred"] <= 1000 * EPS
    assert change["logits"] > 0.05
    assert change["weights"] == 0


def test_a_root_has_the_moments_of_the_rows_also_of_few():
    for rows in (np.random.default_rng(0).normal(size=(9, 3)), np.ones((2, 5))):
        R = root(rows)
        np.testing.assert_allclose(R.T @ R, rows.T @ rows, rtol=0, atol=100 * EPS * rows.size)
        assert np.all(np.tril(R, -1) == 0)


def test_directions_that_a_metric_does_not_see_get_zeros():
    P, S = cut(np.diag([1.0, 0.0]), np.eye(2), 2)
    np.testing.assert_allclose(P @ S.T, np.diag([1.0, 0.0]), atol=10 * EPS)


@pytest.mark.parametrize("causal", [False, True])
def test_the_map_error_is_that_of_the_plain_formula(causal):
    _, _, q, k = head()
    P, S = cut(root(q), root(k), 2)
    F = softmax(q @ k.swapaxes(1, 2), causal)
    G = softmax(q @ P @ S.T @ k.swapaxes(1, 2), causal)
    want = np.sum((G - F) ** 2) / np.sum(F**2)
    assert map_error(q, k, F, Factors(P, S), causal) == pytest.approx(want, abs=100 * EPS32)


@pytest.mark.parametrize("causal", [False, True])
def test_the_output_error_is_that_of_the_plain_formula(causal):
    _, _, q, k = head()
    V = np.random.default_rng(2).normal(size=(T, N, 3))
    P, S = cut(root(q), root(k), 2)
    F = softmax(q @ k.swapaxes(1, 2), causal)
    G = softmax(q @ P @ S.T @ k.swapaxes(1, 2), causal)
    want = np.sum((G @ V - F @ V) ** 2) / np.sum((F @ V) ** 2)
    assert output_error(q, k, F, V, Factors(P, S), causal) == pytest.approx(want, abs=100 * EPS32)


def split(causal=False):
    """A head that overlooks two kinds of keys, for which one direction is enough, on training, held-out and test texts.

    How far below the others those keys are changes no map, but it is most of what the logits are made of.
    """
    rng = np.random.default_rng(5)
    texts, n = 40, 16
    q, k = 0.3 * rng.normal(size=(2, texts, n, W))
    kind = rng.integers(0, 4, size=(texts, n))
    q[..., 0], q[..., 1], q[..., 2] = *rng.uniform(1, 2, size=(2, texts, n)), 1.5 * rng.normal(size=(texts, n))
    for column in (0, 1):
        k[..., column] = np.where(kind == column, -rng.uniform(5, 20, size=kind.shape), 0)
    k[..., 2] = rng.normal(size=kind.shape)
    F = softmax(q @ k.swapaxes(1, 2), causal)
    return [(q[i], k[i], F[i]) for i in (slice(0, 24), slice(24, 32), slice(32, 40))]


@pytest.mark.parametrize("causal", [False, True])
def test_the_fit_beats_every_closed_form_on_texts_that_decided_nothing(causal):
    train, heldout, test = split(causal)
    forms = closed_forms(np.eye(W), np.eye(W), *train[:2], 2)
    fit = compress_head(*train, 2, heldout=heldout, causal=causal)
    closed = min(map_error(*test, form, causal) for form in forms.values())
    assert map_error(*test, fit.projections, causal) < closed / 2
    assert fit.heldout == min(error for _, _, error in fit.path)
    assert fit.train == pytest.approx(map_error(*train, fit.projections, causal), rel=1e-3)
    pulls = [pull for pull, _, _ in fit.path]
    assert pulls == sorted(pulls, reverse=True)


@pytest.mark.parametrize("causal", [False, True])
def test_a_fit_to_outputs_has_less_error_of_outputs_and_more_of_maps(causal):
    rng = np.random.default_rng(5)
    q, k = rng.normal(size=(2, 40, 16, W))
    q = q * [1.5, 1.2, 0.8, 0.3]
    # The outputs show what the third column, which moves the maps less than the first two, attends.
    F, V = softmax(q @ k.swapaxes(1, 2), causal), k[..., 2:3]
    train, heldout, test = ((q[i], k[i], F[i], V[i]) for i in (slice(0, 24), slice(24, 32), slice(32, 40)))
    of_maps = compress_head(*train[:3], 2, heldout=heldout[:3], causal=causal).projections
    fit = compress_head(*train[:3], 2, heldout=heldout, values=train[3], causal=causal)
    assert output_error(*test, fit.projections, causal) < output_error(*test, of_maps, causal) / 1.5
    assert map_error(*test[:3], fit.projections, causal) > map_error(*test[:3], of_maps, causal)
    assert fit.train == pytest.approx(output_error(*train, fit.projections, causal), rel=1e-3)
    assert fit.heldout == pytest.approx(output_error(*heldout, fit.projections, causal), rel=1e-3)


def test_a_strong_pull_stays_and_held_out_texts_may_choose_the_start():
    train, heldout, _ = split()
    start = cut(root(train[0]), root(train[1]), 2)
    tied = compress_head(*train, 2, heldout=heldout, start=start, pulls=(1e9,), steps=1)
    np.testing.assert_allclose(tied.projections.Q @ tied.projections.K.T, start.Q @ start.K.T, atol=1e-4)
    # Maps that belong to other texts are not predicted better by any step: the start is kept.
    wrong = (heldout[0], heldout[1], softmax(heldout[0] @ start.Q @ start.K.T @ heldout[1].swapaxes(1, 2)))
    kept = compress_head(*train, 2, heldout=wrong, start=start, steps=1)
    assert kept.pull == float("inf")
    assert kept.projections is start


def test_at_full_rank_the_closed_forms_are_exact_and_nothing_is_fitted():
    train, heldout, test = split()
    fit = compress_head(*train, W, heldout=heldout)
    assert fit.path == ()
    assert map_error(*test, fit.projections) <= (1000 * EPS32) ** 2
    for form in closed_forms(np.eye(W), np.eye(W), *train[:2], W).values():
        np.testing.assert_allclose(form.Q @ form.K.T, np.eye(W), atol=1e4 * EPS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(rank=0), "rank is 0"),
        (dict(rank=W + 1), "rank is 5"),
        (dict(steps=0), "steps is 0"),
        (dict(pulls=(-1.0,)), "pulls is -1.0"),
        (dict(heldout=()), r"heldout has 0 parts; it must be \(q, k, maps\)"),
        (dict(values=np.ones((24, 16, 2))), r"heldout has 3 parts; it must be \(q, k, maps, values\)"),
    ],
)
def test_wrong_options_are_named(options, words):
    train, heldout, _ = split()
    with pytest.raises(ProblemError, match=words):
        compress_head(*train, **{"rank": 2, "heldout": heldout, **options})
