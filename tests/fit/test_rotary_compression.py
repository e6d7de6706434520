"""Rotary heads by pairs: the sums against autodiff and plain products, the choice of pairs against all choices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.models import rotate
from attnreg.fit import rotary_pairs as pairs
from attnreg.fit.compression import map_error, output_error
from attnreg.fit.rotary_compression import LAYOUTS, RotaryGroup
from attnreg.objectives.factors import Factors
from attnreg.problems import ProblemError

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
W, ANGLES = 6, (1.0, 0.3, 0.05)


def softmax(s):
    e = np.exp(np.where(np.tri(s.shape[-1], dtype=bool), s, -np.inf))
    return e / e.sum(axis=-1, keepdims=True)


def group(texts=12, heads=2, n=10, layout="half", seed=0):
    """Turned queries of heads and keys that they share, and the causal maps."""
    rng = np.random.default_rng(seed)
    size = np.empty(W)
    size[pairs.columns(W, layout)] = np.array([1.0, 1.6, 0.5])[:, None]
    q, k = rng.normal(size=(heads, texts, n, W)) * size, rng.normal(size=(texts, n, W)) * size + 0.4
    q, k = (np.asarray(rotate(jnp.asarray(x), ANGLES, layout)) for x in (q, k))
    return q, k, softmax(q @ k.swapaxes(1, 2))


def sums(dtype=np.float64):
    """One head in pairs, and a point."""
    q, k, maps = group(texts=3)
    own = pairs.columns(W, "half")
    x = np.random.default_rng(1).normal(size=W)
    return [jnp.asarray(a, dtype) for a in (q[0][..., own], k[..., own], maps[0], x)]


def plain(q, k, maps, x):
    """The loss by complex numbers: q times the conjugate of k, times the scale of each pair."""
    z = jnp.einsum("tip,tjp->tpij", jax.lax.complex(q[..., 0], q[..., 1]), jax.lax.complex(k[..., 0], -k[..., 1]))
    scale = jax.lax.complex(x[: W // 2], x[W // 2 :])
    logits = jnp.real(jnp.einsum("p,tpij->tij", scale, z))
    logits = jnp.where(jnp.asarray(np.tri(q.shape[1], dtype=bool))[None], logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1) - maps


def test_value_gradient_and_gauss_newton_are_those_of_the_plain_loss():
    q, k, maps, x = sums()
    found = pairs.fitted(pairs.Texts(q, k, maps), x)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(plain(q, k, maps, x) ** 2))(x)
    J = jax.jacobian(lambda x: plain(q, k, maps, x).ravel())(x)
    size = float(jnp.max(jnp.abs(J.T @ J)))
    np.testing.assert_allclose(found.value, value, rtol=100 * EPS)
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=100 * EPS * size)
    np.testing.assert_allclose(found.matrix, 2 * J.T @ J, rtol=0, atol=100 * EPS * size)
    assert pairs.loss(pairs.Texts(q, k, maps), x) == pytest.approx(float(value), rel=1e-13)


def test_with_values_they_are_those_of_the_plain_loss_of_outputs():
    q, k, maps, x = sums()
    values = jnp.asarray(np.random.default_rng(2).normal(size=(*k.shape[:2], 4)))
    texts = pairs.Texts(q, k, maps, values)
    away = lambda x: jnp.einsum("tij,tjc->tic", plain(q, k, maps, x), values)  # noqa: E731
    found = pairs.fitted(texts, x)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(away(x) ** 2))(x)
    J = jax.jacobian(lambda x: away(x).ravel())(x)
    size = float(jnp.max(jnp.abs(J.T @ J)))
    np.testing.assert_allclose(found.value, value, rtol=100 * EPS)
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=100 * EPS * size)
    np.testing.assert_allclose(found.matrix, 2 * J.T @ J, rtol=0, atol=100 * EPS * size)
    assert pairs.loss(texts, x) == pytest.approx(float(value), rel=1e-13)
    assert texts.size() == pytest.approx(float(jnp.sum(jnp.einsum("tij,tjc->tic", maps, values) ** 2)), rel=1e-13)


def test_the_metrics_say_what_a_change_of_scales_does():
    q, k, maps, x = sums()
    found = pairs.metrics(pairs.Texts(q, k, maps))
    P, S = pairs.projections(np.arange(W // 2), np.asarray(x)[None], W, "half")
    # In the layout "half" all first columns are in front of all second ones.
    rows = [np.moveaxis(np.asarray(a), -1, -2).reshape(*a.shape[:2], W) for a in (q, k)]
    logits = rows[0] @ P[0] @ S.T @ rows[1].swapaxes(1, 2)
    allowed = np.tri(logits.shape[-1], dtype=bool)
    assert x @ found["logits"] @ x == pytest.approx(np.sum(logits[:, allowed] ** 2), rel=1e-12)
    off = logits - np.sum(np.where(allowed, logits, 0), axis=-1, keepdims=True) / allowed.sum(-1)[:, None]
    assert x @ found["centred"] @ x == pytest.approx(np.sum(off[:, allowed] ** 2), rel=1e-12)
    # To first order around the head as it is, where x = (1, 1, 1, 0, 0, 0).
    e, h = jnp.repeat(jnp.array([1.0, 0.0]), W // 2), 1e-5
    moved = float(jnp.sum(plain(q, k, maps, e + h * x) ** 2)) / h**2
    assert x @ found["maps"] @ x == pytest.approx(moved, rel=1e-3)


def cost(matrices, kept):
    """What keeping these pairs costs, by least squares on square roots."""
    p, total = W // 2, 0.0
    for H in matrices:
        root, e = np.linalg.cholesky(H).T, (np.arange(W) < p) * 1.0
        places = [*kept, *(p + i for i in kept)]
        total += np.linalg.lstsq(root[:, places], root @ e, rcond=None)[1].sum()
    return total


def test_pairs_are_taken_out_where_it_costs_least_for_all_heads_together():
    rng = np.random.default_rng(3)
    for _ in range(20):
        roots = rng.normal(size=(2, 9, W))
        matrices = np.einsum("hij,hik->hjk", roots, roots)
        kept = tuple(sorted(pairs.eliminated(matrices)[-2:]))
        assert kept == min(itertools.combinations(range(3), 2), key=lambda some: cost(matrices, some))


def test_least_squares_scales_are_least_squares():
    H = np.cov(np.random.default_rng(4).normal(size=(W, 20)))
    root, e = np.linalg.cholesky(H).T, np.array([1.0, 1, 1, 0, 0, 0])
    places = [0, 2, 3, 5]
    want = np.linalg.lstsq(root[:, places], root @ e, rcond=None)[0]
    np.testing.assert_allclose(pairs.least_squares(H, np.array([0, 2])), want, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_projections_commute_with_every_rotation(layout):
    x = np.random.default_rng(5).normal(size=(2, 4))
    P, S = pairs.projections(np.array([0, 2]), x, W, layout)
    rows = np.random.default_rng(6).normal(size=(7, W))
    turn = lambda rows, angles=ANGLES: np.asarray(rotate(jnp.asarray(rows), angles, layout))  # noqa: E731
    np.testing.assert_allclose(turn(rows) @ P[1] @ S.T, turn(rows @ P[1] @ S.T), atol=100 * EPS)
    # The small factors turn by the frequencies that were kept: what a cache does.
    np.testing.assert_allclose(turn(rows) @ P[1], turn(rows @ P[1], (ANGLES[0], ANGLES[2])), atol=100 * EPS)
    np.testing.assert_allclose(turn(rows) @ S, turn(rows @ S, (ANGLES[0], ANGLES[2])), atol=100 * EPS)


def overlooking(layout, heads=2, texts=36, n=10):
    """Heads that overlook two kinds of keys, for which one pair is enough; the first pair chooses among the others."""
    rng = np.random.default_rng(7)
    q, k = 0.2 * rng.normal(size=(heads, texts, n, W)), 0.2 * rng.normal(size=(texts, n, W))
    one, two = pairs.columns(W, layout)[1:, 0]
    kind = rng.integers(0, 4, size=(texts, n))
    for column, which in ((one, 0), (two, 1)):
        q[..., column] = rng.uniform(1, 2, size=q.shape[:3])
        k[..., column] = np.where(kind == which, -rng.uniform(5, 20, size=kind.shape), 0)
    # Both pairs know of both kinds: either is enough.
    k[..., [one, two]] = k[..., [one, two]] @ np.array([[1.0, 0.6], [0.6, 1.0]])
    first = pairs.columns(W, layout)[0]
    q[..., first], k[..., first] = 1.5 * rng.normal(size=(heads, texts, n, 2)), rng.normal(size=(texts, n, 2))
    q, k = (np.asarray(rotate(jnp.asarray(x), (1.0, 1e-3, 5e-4), layout)) for x in (q, k))
    return q, k, softmax(q @ k.swapaxes(1, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fit_beats_the_closed_forms_on_texts_that_decided_nothing(layout):
    q, k, maps = overlooking(layout)
    train, heldout, test = ((q[:, i], k[i], maps[:, i]) for i in (slice(0, 24), slice(24, 30), slice(30, 36)))
    own = RotaryGroup(*train, layout=layout)

    def errors(form, texts):
        return [map_error(texts[0][h], texts[1], texts[2][h], Factors(form.Q[h], form.K), True) for h in (0, 1)]

    weights = np.diag(np.sqrt(np.mean(k**2, axis=(0, 1))))
    forms = own.closed_forms(np.stack([weights] * 2), weights, 4)
    fit = own.compress(4, heldout)
    assert fit.start == "maps"
    assert fit.kept[0] == 0
    assert np.mean(errors(fit.projections, test)) < min(np.mean(errors(form, test)) for form in forms.values()) / 2
    assert fit.projections.K.shape == (W, 4)
    np.testing.assert_allclose(errors(fit.projections, heldout), fit.heldout, rtol=1e-3)


def test_the_start_is_the_one_whose_least_gain_over_the_starts_of_a_head_is_largest():
    q, k, maps = overlooking("half", texts=30)
    train, heldout = ((q[:, i], k[i], maps[:, i]) for i in (slice(0, 24), slice(24, 30)))
    own = RotaryGroup(*train)
    forms, closed, worst = own.closed_forms(np.ones((2, 3, W)), np.ones((3, W)), 4), [], {}
    for start in ("logits", "centred"):
        P, S = forms[start]
        closed.append([map_error(heldout[0][h], heldout[1], heldout[2][h], Factors(P[h], S), True) for h in (0, 1)])
    alone = {start: own.compress(4, heldout, starts=(start,)) for start in ("logits", "centred", "maps")}
    assert len({tuple(fit.kept) for fit in alone.values()}) > 1
    for start, fit in alone.items():
        worst[start] = np.max(fit.heldout / np.min(closed, axis=0))
    assert own.compress(4, heldout).start == min(worst, key=worst.get)
    # No head is worse, on the texts that decide, than with the closed form of the same pairs.
    for errors, start in zip(closed, ("logits", "centred"), strict=True):
        assert np.all(alone[start].heldout <= np.array(errors) * (1 + 1e-3))


def test_with_values_the_outputs_are_matched():
    rng = np.random.default_rng(3)
    size = np.empty(W)
    size[pairs.columns(W, "half")] = np.array([0.5, 1.2, 1.2])[:, None]
    q, k = rng.normal(size=(2, 60, 10, W)) * size, rng.normal(size=(60, 10, W)) * size
    q, k = (np.asarray(rotate(jnp.asarray(x), (1.0, 0.3, 0.0), "half")) for x in (q, k))
    maps = softmax(q @ k.swapaxes(1, 2))
    # The outputs show what the last pair attends, which does not turn; the second is as large.
    values = np.stack([k[..., pairs.columns(W, "half")[2]]] * 2)
    train, heldout, test = (
        (q[:, i], k[i], maps[:, i], values[:, i]) for i in (slice(0, 40), slice(40, 50), slice(50, 60))
    )
    own = RotaryGroup(*train[:3], values=train[3])
    assert set(own.metrics) == {"logits", "centred", "outputs"}
    of_outputs, of_maps = own.compress(2, heldout), RotaryGroup(*train[:3]).compress(2, heldout[:3])
    assert (of_outputs.kept, of_maps.kept) == ([2], [1])

    def error(fit, h):
        P, S = fit.projections.Q[h], fit.projections.K
        return output_error(test[0][h], test[1], test[2][h], test[3][h], Factors(P, S), True)

    assert all(error(of_outputs, h) < error(of_maps, h) / 1.3 for h in (0, 1))
    with pytest.raises(ProblemError, match=r"heldout has 3 parts; it must be \(q, k, maps, values\)"):
        own.compress(2, heldout[:3])
    with pytest.raises(ProblemError, match=r"values has shape \(1, 40, 10, 2\)"):
        RotaryGroup(*train[:3], values=train[3][:1])


def test_all_pairs_are_the_head_itself():
    q, k, maps = group(texts=4)
    own = RotaryGroup(q, k, maps)
    weights = np.ones((2, 3, W)), np.ones((3, W))
    for P, S in (*own.closed_forms(*weights, W).values(), own.compress(W, (q, k, maps)).projections):
        np.testing.assert_allclose(P[0] @ S.T, np.eye(W), atol=1e-9)


def test_what_does_not_fit_is_refused():
    q, k, maps = group(texts=2)
    own = RotaryGroup(q, k, maps)
    with pytest.raises(ProblemError, match="rank is 3; rotary positions keep whole pairs"):
        own.compress(3, (q, k, maps))
    with pytest.raises(ProblemError, match="rank is 8"):
        own.compress(8, (q, k, maps))
    with pytest.raises(ProblemError, match="starts is 'weights'"):
        own.compress(4, (q, k, maps), starts=("weights",))
    with pytest.raises(ProblemError, match=r"q, k and maps have shapes \(2, 2, 10, 6\), \(1, 10, 6\)"):
        RotaryGroup(q, k[:1], maps)
    with pytest.raises(ProblemError, match="layout is 'third'"):
        RotaryGroup(q, k, maps, layout="third")
    with pytest.raises(ProblemError, match="even number"):
        RotaryGroup(q[..., :5], k[..., :5], maps)
