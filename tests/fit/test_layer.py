"""The global fit solves random noiseless instances, and stops where it is told to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.fit.layer import Search, blind_starts, fit_one_layer, variation
from attnreg.objectives import VariableProjection
from attnreg.problems.one_layer import OneLayerRegression


def teacher(seed, n=48, d=3):
    keys = jax.random.split(jax.random.key(seed), 5)
    A1, A2, A3 = (jax.random.normal(k, (n, d)) / d**0.5 for k in keys[:3])
    X, Y = (jax.random.normal(k, (d, d)) for k in keys[3:])
    return OneLayerRegression(A1, A2, A3, jax.nn.softmax(A1 @ X @ A2.T, axis=-1) @ A3 @ Y), X


# Starts from jets alone; at these sizes a blind start would be quicker.
JETS = Search(blind=0)


@pytest.mark.parametrize("search", [JETS, Search()], ids=["jets", "blind first"])
@pytest.mark.parametrize("seed", range(4))
def test_random_instances_are_solved_and_x_is_recovered(seed, search):
    problem, X = teacher(seed)
    fit = fit_one_layer(jax.random.key(100 + seed), problem, search=search, batches=20, seconds=1e6)
    assert fit.solved
    assert (fit.jet_evaluations > 0) == (search.blind == 0)
    # Distinct keys in general position: X is identified, so the global minimum is the teacher itself.
    np.testing.assert_allclose(fit.params.X, X, atol=1e-2 * float(jnp.max(jnp.abs(X))))


def test_an_exhausted_budget_is_said():
    keys = jax.random.split(jax.random.key(9), 4)
    problem = OneLayerRegression(*(jax.random.normal(k, (48, 3)) for k in keys))
    fit = fit_one_layer(jax.random.key(0), problem, batches=1)
    assert not fit.solved
    assert fit.batches == 1
    assert fit.jet_evaluations > 0
    assert fit.refined >= Search().blind
    assert fit.reason == "all batches were tried"
    assert 0 < fit.relative <= 1
    assert fit.trace[-1].best == fit.relative


def test_masked_problems_start_from_small_random_x():
    problem, _ = teacher(1)
    causal = OneLayerRegression(problem.A1, problem.A2, problem.A3, problem.B, causal=True)
    fit = fit_one_layer(jax.random.key(0), causal, search=Search(blind=0, randoms=1), batches=1)
    assert fit.jet_evaluations == 0
    assert np.isfinite(fit.relative)


def test_an_instance_whose_jet_points_to_a_wrong_basin_is_solved_from_random_x():
    # Drawn at (64, 4): without random batches 538 candidates from jets ended in a minimum of relative loss 0.0275.
    keys = jax.random.split(jax.random.key(0), 5)
    A1, A2, A3 = (jax.random.normal(k, (64, 4)) / 2 for k in keys[:3])
    X, Y = (jax.random.normal(k, (4, 4)) for k in keys[3:])
    problem = OneLayerRegression(A1, A2, A3, jax.nn.softmax(A1 @ X @ A2.T, axis=-1) @ A3 @ Y)
    assert fit_one_layer(jax.random.key(100), problem, search=JETS, batches=40, seconds=1e6).solved


def test_blind_starts_end_at_the_first_hit_and_say_how_many_there_were():
    problem, _ = teacher(0)
    reduced = VariableProjection(problem)
    goal = 1e-10 * float(variation(problem))
    X, value, tried = blind_starts(reduced, jax.random.key(0), goal, count=50)
    assert float(value) <= goal
    assert 1 <= int(tried) < 50
    np.testing.assert_allclose(value, reduced.value(X), atol=1e-25)
    before = blind_starts(reduced, jax.random.key(0), goal, count=int(tried) - 1)
    assert float(before[1]) > goal or int(tried) == 1
    fit = fit_one_layer(jax.random.key(0), problem)
    assert (fit.batches, fit.jet_evaluations, fit.reason) == (0, 0, "the tolerance was met")
    assert fit.trace[-1].event.startswith(f"{fit.refined} blind starts")


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_blind_starts_know_the_size_of_the_inputs(factor):
    """X is found whatever the unit of queries and keys: a start is measured by its logits."""
    problem, _ = teacher(0)
    scaled = OneLayerRegression(factor * problem.A1, problem.A2, problem.A3, problem.B)
    same, other = (
        blind_starts(VariableProjection(p), jax.random.key(0), 1e-12, count=20)[2] for p in (problem, scaled)
    )
    assert int(same) == int(other) < 20


def test_large_unknowns_are_not_tried_blindly():
    problem, _ = teacher(0, d=7)
    fit = fit_one_layer(jax.random.key(0), problem, batches=1, seconds=0.0)
    assert fit.jet_evaluations > 0
    assert not any("blind" in line.event for line in fit.trace)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("A1", lambda A: 0 * A, "the queries A1 are zero"),
        ("A2", lambda A: 0 * A + 0.1, "the keys A2 of a document are all alike"),
        ("A3", lambda A: 0 * A + A[:1], "the values A3 of a document are all alike"),
    ],
)
def test_where_no_x_changes_the_outputs_it_returns_at_once_and_says_why(name, change, words):
    problem, _ = teacher(1)
    data = {key: getattr(problem, key)[0] for key in ("A1", "A2", "A3", "B")}
    fit = fit_one_layer(jax.random.key(0), OneLayerRegression(**data | {name: change(data[name])}))
    assert fit.reason.startswith(f"{words}: no X changes the outputs")
    assert fit.trace[-1].event == fit.reason
    assert (fit.batches, fit.refined, fit.jet_evaluations) == (0, 0, 0)
    assert not fit.solved
    assert 0.1 < fit.relative <= 1 + 1e-12
    assert np.isfinite(fit.params.Y).all()
