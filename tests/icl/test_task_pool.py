"""Pools of tasks against NumPy: documents, the Bayes answer, and the crossover."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl.descent import ridge
from attnreg.icl.task_pool import discrete_mean, from_pool
from attnreg.icl.tasks import TaskConfig, sample
from experiments.icl.task_pool import crossover

TASK = TaskConfig(kind="linear", dimension=3, length=5, queries=2, noise=0.4, dtype="float64")


def test_documents_keep_inputs_and_noise_and_take_weights_of_the_pool(key):
    before = sample(key, TASK, 64)
    pool = np.random.default_rng(0).normal(size=(4, 3))
    after = from_pool(jax.random.key(7), before, jnp.asarray(pool))
    noise = [
        np.asarray(d.targets) - np.einsum("bnd,bd->bn", np.asarray(d.context), np.asarray(d.weights))
        for d in (before, after)
    ]
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-13)
    assert np.std(noise[0]) > 0.3
    answers = np.einsum("bmd,bd->bm", np.asarray(after.queries), np.asarray(after.weights))
    np.testing.assert_allclose(after.answers, answers, atol=1e-13)
    assert {tuple(w) for w in np.asarray(after.weights)} == {tuple(w) for w in pool}


def test_the_discrete_mean_is_the_posterior_mean(key):
    rng, d = np.random.default_rng(1), jax.tree.map(lambda leaf: leaf[0], sample(key, TASK, 1))
    pool = rng.normal(size=(6, 3))
    likelihood = np.exp(-((np.asarray(d.targets) - pool @ np.asarray(d.context).T) ** 2).sum(1) / (2 * 0.4**2))
    expected = likelihood @ pool / likelihood.sum()
    np.testing.assert_allclose(discrete_mean(d, jnp.asarray(pool), 0.4), expected, atol=1e-12)


def test_with_many_tasks_the_discrete_mean_is_ridge(key):
    d = jax.tree.map(lambda leaf: leaf[0], sample(key, TASK, 1))
    pool = np.random.default_rng(2).normal(size=(200_000, 3))
    found = discrete_mean(d, jnp.asarray(pool), 1.0)
    np.testing.assert_allclose(found, ridge(d, 1.0), atol=0.05)


def test_the_crossover_is_where_the_distances_are_equal():
    rows = [{"tasks": 1, "to ridge": 4.0, "to dmmse": 1.0}, {"tasks": 100, "to ridge": 1.0, "to dmmse": 4.0}]
    assert math.isclose(crossover(rows), 10.0)
    assert crossover(rows[:1]) == math.inf
    assert crossover(rows[1:]) == 100.0
