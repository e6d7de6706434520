"""The yardstick: timing that interleaves, peers that solve what they should, cells that agree with our objective."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from experiments import run
from experiments.benchmarks import solvers as benchmark_solvers
from experiments.benchmarks.cells import make_cell
from experiments.benchmarks.own_solvers import own_methods
from experiments.benchmarks.peers import (
    Steps,
    compiled,
    contender,
    hunt,
    naive_newton,
    optax_lbfgs,
    optimistix_bfgs,
    optimistix_lbfgs,
    optimistix_lm,
    peers,
    prepare,
    protocol,
    saddle_free_newton,
    scipy_lbfgs,
)
from experiments.benchmarks.timing import Samples, interleave, paired_ratio
from experiments.runner import past
from experiments.runner.config import UsageError
from experiments.runner.store.encoding import read_json

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["normalized-9-3", "rescaled-7-2", "single-11-3", "one_layer-9-3"])
def test_a_cell_is_one_problem_in_two_writings(name):
    cell = make_cell(name, seed=3)
    x = jax.random.normal(jax.random.key(1), cell.x0.shape, cell.x0.dtype)
    value, gradient = cell.objective.value_and_grad(cell.ours(x))
    plain, slope = jax.value_and_grad(cell.loss)(x, cell.data)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    np.testing.assert_allclose(ravel_pytree(gradient)[0], slope.ravel(), rtol=1e-9, atol=1e-12 * float(plain))
    r = cell.residuals(x, cell.data)
    np.testing.assert_allclose(jnp.sum(r * r), plain, rtol=1e-12)
    assert r.size == cell.problem.B.size


@pytest.mark.parametrize("name", ["sharp-3-4", "normalized-3", "normalized-3-x", "head-1-2", "one_layer-3"])
def test_an_unknown_cell_is_refused_by_name(name):
    with pytest.raises(UsageError, match=f"cell '{name}'"):
        make_cell(name, seed=0)


def test_every_contender_runs_in_every_round_and_the_order_turns():
    calls = []
    samples = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, seconds=60.0, warm=0)
    assert calls == [*"abc", *"bca", *"cab"]
    assert {name: len(s.wall) for name, s in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_contender_sits_out_when_its_time_is_used_up_and_ratios_are_paired():
    samples = interleave({"a": lambda: None, "b": lambda: None}, rounds=5, seconds=0.0, least=2, warm=0)
    assert len(samples["a"].wall) == 2
    a = Samples(np.array([1.0, 10.0, 1.0]), np.ones(3), np.arange(3))
    b = Samples(np.array([2.0, 20.0]), np.ones(2), np.array([0, 1]))
    assert paired_ratio(a, b) == 0.5
    assert np.isnan(paired_ratio(a, b._replace(rounds=np.array([7, 8]))))


@pytest.mark.parametrize(
    "peer", [scipy_lbfgs(10), optax_lbfgs(10), optimistix_bfgs(), naive_newton()], ids=lambda p: p.name
)
def test_a_peer_solves_the_cell_and_counts(peer):
    cell = make_cell("normalized-16-2", seed=0)
    entry = benchmark_solvers.solve(cell, contender(peer), 1e-6, 60.0)
    assert entry.prepared.run is not None, entry.prepared.reason
    assert entry.gradient <= 1.01e-6
    assert entry.loss < 1e-4
    assert all(count > 0 for count in entry.outcome.evaluations.values())


def test_a_dense_peer_is_refused_where_it_would_not_fit():
    calls = []
    peer = compiled("dense", "default", lambda f, c: calls.append(c), dense=1e9)
    prepared = prepare(peer, make_cell("normalized-16-2", seed=0), 1e-6, 1.0)
    assert prepared.run is None
    assert "needs about" in prepared.reason
    assert not calls


def test_a_peer_that_does_not_get_there_has_a_reason(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_STEPS", 4)
    prepared = prepare(optax_lbfgs(10), make_cell("normalized-16-2", seed=0), 1e-13, 60.0)
    assert prepared.run is None
    assert "after 4 steps" in prepared.reason


@pytest.mark.parametrize(
    ("kind", "peer"),
    [
        ("one_layer_reduced", scipy_lbfgs(20)),
        ("one_layer", optax_lbfgs(20)),
        ("one_layer", optimistix_lbfgs()),
        ("one_layer", optimistix_lm("QR")),
        ("one_layer", saddle_free_newton()),
    ],
    ids=["scipy", "optax", "optimistix LBFGS", "optimistix LM", "Newton"],
)
def test_a_hunt_solves_a_small_instance_and_gives_the_point(kind, peer):
    cell = make_cell(f"{kind}-24-2", seed=0)
    found = hunt(peer.bind(cell), cell, jax.random.key(0), seconds=60.0, tol=1e-8)
    assert found.relative <= 1e-8
    assert found.runs >= 1
    reached = float(cell.loss(found.x, cell.data) / cell.unit(cell.data))
    np.testing.assert_allclose(reached, found.relative, rtol=1e-6, atol=1e-20)


def test_a_hunt_ends_when_its_seconds_are_over():
    cell = make_cell("one_layer-24-2", seed=0)
    found = hunt(optax_lbfgs(20).bind(cell), cell, jax.random.key(0), seconds=0.0, tol=1e-8)
    assert (found.relative, found.runs) == (np.inf, 0)


def test_a_peer_may_have_a_pytree_for_an_unknown():
    """What a peer sees is the cell's business: Adam on {X, Y} instead of one vector."""
    flat = make_cell("one_layer-24-2", seed=1)
    split = ravel_pytree({"X": jnp.zeros((2, 2)), "Y": jnp.zeros((2, 2))})[1]
    cell = flat._replace(x0=split(flat.x0), loss=lambda x, data: flat.loss(ravel_pytree(x)[0], data), residuals=None)

    def adam(functions, cell):
        optimizer = optax.adam(0.1)

        def step(carry, data):
            x, state = carry
            updates, state = optimizer.update(jax.grad(functions.loss)(x, data), state, x)
            return optax.apply_updates(x, updates), state

        return Steps(lambda x0, data: (x0, optimizer.init(x0)), step, lambda c: c[0], lambda c: {})

    for peer in (compiled("Adam", "0.1", adam), scipy_lbfgs(10)):
        prepared = prepare(peer, cell, 1e-3, 60.0)
        assert prepared.run is not None, prepared.reason
        x = prepared.run().x
        assert x["X"].shape == (2, 2)
        assert float(cell.loss(x, cell.data)) < float(cell.loss(cell.x0, cell.data))


def test_names_are_unique_and_every_peer_of_the_issue_is_there():
    every = [f"{p.name} ({p.setting})" for p in (*own_methods(), *peers())]
    assert len(set(every)) == len(every)
    for name in (
        "scipy L-BFGS-B", "optimistix LevenbergMarquardt", "optimistix BFGS", "jaxopt LevenbergMarquardt",
        "jaxopt GaussNewton", "optax lbfgs", "naive Newton",
    ):  # fmt: skip
        assert any(entry.startswith(name) for entry in every)


def test_no_peer_sees_a_closed_form():
    folder = Path(protocol.__file__).parent
    sources = [path.read_text() for path in folder.glob("*.py")]
    assert len(sources) >= 4
    assert not any("attnreg" in source for source in sources)


def _smoke(name):
    assert run.main(["--config", str(CONFIGS / f"{name}.py") + ":smoke", "--workdir", "run"]) == 0
    assert [line.metric.name for line in past.read(Path("run")).headline if line.value is None] == []
    return read_json(Path("run/result.json"))


def test_the_solver_benchmark_runs_small():
    result = _smoke("benchmark_solvers")
    assert len(result["methods"]) == 2
    assert all(line["best"] for line in result["methods"])
    (line,) = result["summary"]
    assert line["over_ours"] > 0
    assert [row[3:5] for row in result["good_minima"]] == [[2, 2], [2, 2]]


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match=r"'bfgx'.* matches none of attnreg Newton"):
        benchmark_solvers.chosen(("bfgx",))


def test_the_closed_form_benchmark_runs_small():
    result = _smoke("benchmark_closed_forms")
    for part in ("hessian", "hessian_as_hvps", "gradient"):
        (row,) = result[part]
        assert row["difference"] < 1e-11
        assert row["speedup"] > 0
    (large,) = result["large"]
    assert large["finite"]
    assert large["peak_bytes"] > 1e7


def test_the_one_layer_closed_forms_agree_with_autodiff():
    result = _smoke("one_layer")
    assert [row["quantity"] for row in result["derivatives"]] == ["value", "gradient", "Hessian"] * 2
    assert max(row["error_eps"] for row in result["derivatives"]) < 32
    ours, hvp, theirs = (row["temporary_gb"] for row in result["temporaries"])
    assert min(ours, hvp, theirs) > 0


def test_an_unknown_part_is_refused(capsys):
    config = str(CONFIGS / "one_layer.py") + ":smoke"
    assert run.main(["--config", config, "--workdir", "run", "--config.parts=rce"]) == 2
    assert "config.parts has 'rce'; there are derivatives" in capsys.readouterr().err


def test_the_one_layer_experiments_leave_their_best_fit():
    result = _smoke("multi_start")
    problem: Any = make_cell("one_layer-24-2", seed=0).problem
    with np.load("run/solution.npz") as kept:
        prediction = jax.nn.softmax(problem.A1[0] @ kept["X"] @ problem.A2[0].T) @ problem.A3[0] @ kept["Y"]
    B = problem.B[0]
    relative = float(jnp.sum((prediction - B) ** 2) / jnp.sum((B - B.mean(axis=0, keepdims=True)) ** 2))
    ours = next(run for run in result["runs"] if run["method"] == "attnreg")
    assert max(relative, ours["relative"]) < 1e-8
