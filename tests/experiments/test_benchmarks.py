"""The yardstick: timing that interleaves, peers that solve what they should, cells that agree with our objective."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.attention import AttentionObjective
from experiments import run
from experiments.benchmarks import solvers as benchmark_solvers
from experiments.benchmarks.cells import make_cell
from experiments.benchmarks.own_solvers import own_methods
from experiments.benchmarks.peers import (
    compiled_peer,
    naive_newton,
    optax_lbfgs,
    optimistix_bfgs,
    peers,
    scipy_lbfgs,
    steps_needed,
)
from experiments.benchmarks.timing import Samples, interleave, paired_ratio
from experiments.runner.store.encoding import read_json

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["normalized-9-3", "rescaled-7-2", "single-11-3"])
def test_a_cell_is_one_problem_in_two_writings(name):
    cell = make_cell(name, seed=3)
    x = jax.random.normal(jax.random.key(1), cell.x0.shape, cell.x0.dtype)
    value, gradient = AttentionObjective(cell.problem).value_and_grad(cell.ours(x))
    plain, slope = jax.value_and_grad(cell.loss)(x, cell.data)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    np.testing.assert_allclose(gradient.reshape(x.shape), slope, rtol=1e-9, atol=1e-12 * float(plain))
    r = cell.residuals(x, cell.data)
    np.testing.assert_allclose(jnp.sum(r * r), plain, rtol=1e-12)
    assert r.size == cell.residual_count


@pytest.mark.parametrize("name", ["sharp-3-4", "normalized-3", "normalized-3-x", "head-1-2"])
def test_an_unknown_cell_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"cell '{name}'"):
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
    entry = benchmark_solvers.solve(cell, peer, 1e-6, 60.0)
    assert entry.prepared.run is not None, entry.prepared.reason
    assert entry.gradient <= 1.01e-6
    assert entry.loss < 1e-4
    assert all(count > 0 for count in entry.outcome.evaluations.values())


def test_a_dense_peer_is_refused_where_it_would_not_fit():
    calls = []
    peer = compiled_peer("dense", "default", lambda f, c: calls.append(c), dense=1e9)
    prepared = peer.prepare(make_cell("normalized-16-2", seed=0), 1e-6, 1.0)
    assert prepared.run is None
    assert "needs about" in prepared.reason
    assert not calls


def test_a_peer_that_does_not_get_there_has_a_reason(monkeypatch):
    from experiments.benchmarks import peers as module

    monkeypatch.setattr(module, "MAX_STEPS", 4)
    cell = make_cell("normalized-16-2", seed=0)
    prepared = optax_lbfgs(10).prepare(cell, 1e-13, 60.0)
    assert prepared.run is None
    assert "after 4 steps" in prepared.reason
    assert callable(steps_needed)


def test_names_are_unique_and_every_peer_of_the_issue_is_there():
    every = [f"{p.name} ({p.setting})" for p in (*own_methods(), *peers())]
    assert len(set(every)) == len(every)
    for name in (
        "scipy L-BFGS-B", "optimistix LevenbergMarquardt", "optimistix BFGS", "jaxopt LevenbergMarquardt",
        "jaxopt GaussNewton", "optax lbfgs", "naive Newton",
    ):  # fmt: skip
        assert any(entry.startswith(name) for entry in every)


def test_no_peer_sees_a_closed_form():
    source = (Path(__file__).parents[2] / "experiments" / "benchmarks" / "peers.py").read_text()
    assert "attnreg" not in source


def _smoke(name):
    assert run.main(["--config", str(CONFIGS / f"{name}.py") + ":smoke", "--workdir", "run"]) == 0
    return read_json(Path("run/result.json"))


def test_the_solver_benchmark_runs_small():
    result = _smoke("benchmark_solvers")
    assert len(result["methods"]) == 4
    assert all(line["best"] for line in result["methods"])
    assert len(result["summary"]) == 2
    assert all(line["wall_ratio"] > 0 for line in result["summary"])
    assert [row[3:5] for row in result["good_minima"]] == [[2, 2], [2, 2]]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="no method matches 'bfgx'"):
        benchmark_solvers.chosen("bfgx")


def test_the_closed_form_benchmark_runs_small():
    result = _smoke("benchmark_closed_forms")
    assert len(result["closed_forms"]) == 3
    for row in result["closed_forms"]:
        assert row["difference"] < 1e-11
        assert row["speedup"] > 0
    assert result["large_instance"]["finite"]
    assert result["large_instance"]["peak_bytes"] > 1e7
