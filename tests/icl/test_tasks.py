"""Documents: laws, targets, streams, real data, and configs that are refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import tasks
from attnreg.icl.tasks import Scales, TaskConfig, from_table, stream
from tests.icl import oracles

sample = jax.jit(tasks.sample, static_argnums=(1, 2))
LINEAR = TaskConfig(kind="linear", dimension=5, length=8, queries=3, dtype="float64")
SOFTMAX = dataclasses.replace(LINEAR, kind="softmax", weight_scale=0.4)


@pytest.mark.parametrize(
    ("inputs", "second", "fourth"),
    [("gaussian", 1, 3), ("uniform", 1 / 3, 1 / 5), ("laplace", 1, 6), ("exponential", 1, 9)],
)
def test_input_laws_have_their_moments(key, inputs, second, fourth):
    x = sample(key, dataclasses.replace(LINEAR, inputs=inputs), 20_000).context
    size = x.size**0.5
    assert abs(x.mean()) < 5 / size
    assert abs((x**2).mean() - second) < 5 * ((fourth - second**2) ** 0.5) / size
    np.testing.assert_allclose((x**4).mean(), fourth, rtol=0.1)


def test_targets_and_answers_follow_the_formulas(key):
    d = jax.tree.map(np.asarray, sample(key, LINEAR, 4))
    np.testing.assert_allclose(d.targets, np.einsum("bnd,bd->bn", d.context, d.weights), atol=1e-14)
    np.testing.assert_allclose(d.answers, np.einsum("bnd,bd->bn", d.queries, d.weights), atol=1e-14)
    s = jax.tree.map(np.asarray, sample(key, SOFTMAX, 4))
    np.testing.assert_allclose(s.targets, oracles.softmax(np.einsum("bnd,bd->bn", s.context, s.weights)), atol=1e-14)
    np.testing.assert_allclose(s.answers, oracles.softmax(np.einsum("bnd,bd->bn", s.queries, s.weights)), atol=1e-14)


def test_noise_and_distractors_touch_only_what_they_say(key):
    clean = sample(key, LINEAR, 4000)
    noisy = sample(key, dataclasses.replace(LINEAR, noise=0.3), 4000)
    np.testing.assert_array_equal(noisy.answers, clean.answers)
    np.testing.assert_allclose((noisy.targets - clean.targets).std(), 0.3, rtol=0.03)
    fake = sample(key, dataclasses.replace(LINEAR, distractors=2), 4000)
    np.testing.assert_array_equal(fake.targets[:, 2:], clean.targets[:, 2:])
    np.testing.assert_allclose(fake.targets[:, :2].std(), clean.targets.std(), rtol=0.05)
    assert abs(np.corrcoef(fake.targets[:, 0], clean.targets[:, 0])[0, 1]) < 0.06


def test_traced_scales_equal_the_config_ones(key):
    other = dataclasses.replace(LINEAR, input_scale=2.0, weight_scale=0.5)
    given = sample(key, LINEAR, 3, scales=Scales(*(jnp.asarray(v) for v in (2.0, 0.5, 0.0))))
    chex.assert_trees_all_equal(given, sample(key, other, 3))


def test_streams_differ(key):
    tune, mark = (sample(stream(key, name), LINEAR, 5).context for name in ("tune", "evaluate"))
    assert not np.intersect1d(tune, mark).size


def test_a_pool_has_its_size_and_is_the_same_for_every_key():
    draw = jax.jit(tasks.sample_pool, static_argnums=(1, 2), static_argnames="pool")
    drawn = [draw(jax.random.key(i), LINEAR, 50, pool=3) for i in range(2)]
    seen = [np.unique(d.weights, axis=0) for d in drawn]
    assert seen[0].shape == (3, 5)
    np.testing.assert_array_equal(*seen)
    d = jax.tree.map(np.asarray, drawn[0])
    np.testing.assert_allclose(d.answers, np.einsum("bnd,bd->bn", d.queries, d.weights), atol=1e-14)


def test_documents_from_a_table_standardise_with_the_context_only(key):
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    values = vectors @ np.arange(5.0) + 7
    config = dataclasses.replace(LINEAR, inputs="real")
    d = jax.tree.map(
        np.asarray,
        jax.jit(from_table, static_argnums=(3, 4))(key, jnp.asarray(vectors), jnp.asarray(values), config, 6),
    )
    np.testing.assert_allclose(d.targets.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(d.targets.std(axis=1), 1, atol=1e-12)
    picked = np.array([[np.flatnonzero((vectors == row).all(1))[0] for row in doc] for doc in d.context])
    raw = values[picked]
    asked = np.array([[np.flatnonzero((vectors == row).all(1))[0] for row in doc] for doc in d.queries])
    assert all(not np.intersect1d(a, b).size for a, b in zip(picked, asked, strict=True))
    expected = (values[asked] - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)
    np.testing.assert_allclose(d.answers, expected, atol=1e-12)
    sampled = sample(key, config, 2, features=jnp.asarray(vectors))
    assert np.isin(sampled.context, vectors).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "cubic"}, "kind is 'cubic'"),
        ({"inputs": "cauchy"}, "inputs is 'cauchy'"),
        ({"length": 0}, "length is 0; it must be at least 1"),
        ({"dimension": 2.5}, "dimension is 2.5, a float"),
        ({"kind": "softmax", "queries": 1}, "queries is 1; it must be at least 2"),
        ({"distractors": 9}, "distractors is 9; it must be at least 0 and at most 8"),
        ({"noise": -1.0}, "noise is -1.0; it must be at least 0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"weight_scale": "1"}, "weight_scale is '1', a str"),
        ({"input_scale": 0.0}, "input_scale is 0.0; it must be above 0"),
        ({"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LINEAR, **change)


def test_misspelt_fields_are_refused():
    with pytest.raises(TypeError, match="distract_size"):
        dataclasses.replace(LINEAR, distract_size=3)


def test_missing_features_and_an_unknown_stream_are_refused(key):
    with pytest.raises(ValueError, match="features are None"):
        sample(key, dataclasses.replace(LINEAR, inputs="real"), 2)
    with pytest.raises(ValueError, match="stream"):
        stream(key, "test")
