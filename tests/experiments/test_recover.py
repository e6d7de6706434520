"""Recovery: the peer is Adam and learns, a stopped run goes on, wrong fields are refused, numbers mean what they say.

A random layer stands for MiniLM; tests/data/test_heads.py holds the weights of MiniLM to what it computes.
"""

import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.data.layers import layer_maps, layer_outputs
from attnreg.problems.layer import LayerWeights
from experiments import run
from experiments.benchmarks.activations import layer_start, maps_cell, outputs_cell
from experiments.benchmarks.peers import Setting, minibatch_adam
from experiments.benchmarks.peers.protocol import arguments
from experiments.recover import report, survey
from experiments.recover.jobs import ADAM, OURS, Job, Run, jobs_of
from experiments.runner.config import resolve
from experiments.runner.record import Record
from experiments.runner.results import SWEEP
from experiments.runner.signals import EXIT_PREEMPTED
from experiments.runner.store import folder
from experiments.runner.store.arrays import load
from experiments.runner.store.encoding import read_json, read_lines, write_json

CONFIGS = Path(__file__).parents[2] / "configs"
HEAD = f"{CONFIGS}/recover_head.py:smoke"
# JAXopt, another peer, announces its end when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")


@pytest.fixture
def stop_at(monkeypatch):
    """Ask the run to stop when it logs the step that was given last."""
    steps, log = [], Record.log

    def log_and_signal(self, at, **scalars):
        log(self, at, **scalars)
        if steps and at == steps[-1]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Record, "log", log_and_signal)
    return steps.append


def made(documents=6, n=7, d=4, heads=2, rank=2, c=4):
    rng = np.random.default_rng(0)
    shapes = ((heads, d, rank), (heads, d, rank), (heads, d, rank), (heads, rank, c))
    true = LayerWeights(*(rng.normal(size=shape) for shape in shapes))
    A = rng.normal(size=(documents, n, d))
    return true, A


@pytest.mark.parametrize("kind", ["outputs", "whole", "maps"])
def test_a_cell_of_activations_is_one_problem_in_two_writings(kind):
    true, A = made()
    if kind == "maps":
        cell = maps_cell("maps", A, layer_maps(true, A), rank=2)
    else:
        cell = outputs_cell(kind, A, layer_outputs(true, A), heads=2, rank=2, whole=kind == "whole")
    value, gradient = cell.objective.value_and_grad(cell.ours(cell.x0))
    plain, slope = jax.value_and_grad(cell.loss)(cell.x0, cell.data)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    scale = 1e-11 * np.linalg.norm(ravel_pytree(slope)[0])
    np.testing.assert_allclose(ravel_pytree(gradient)[0], ravel_pytree(slope)[0], rtol=0, atol=scale)


def test_the_true_weights_solve_the_cell():
    true, A = made()
    cell = outputs_cell("true", A, layer_outputs(true, A), heads=2, rank=2, whole=False)
    x = jax.tree.map(jnp.asarray, true)
    assert float(cell.loss(x, cell.data) / cell.unit(cell.data)) < 1e-28


def peer_run(cell, *, rate, steps, chunk, documents, advances=1):
    method = minibatch_adam(documents=documents, chunk=chunk).bind(cell)
    plain, unit = arguments(cell)
    data = (plain | {"setting": Setting(np.float64(rate), np.float64(steps), jax.random.key(3))}, unit)
    carry = method.begin(cell.x0, data)
    for _ in range(advances):
        carry = method.advance(carry, data)
    return carry


def test_the_first_step_of_the_peer_is_adam_on_the_clipped_gradient():
    true, A = made()
    cell = outputs_cell("step", A, layer_outputs(true, A), heads=2, rank=2, whole=False)
    carry = peer_run(cell, rate=0.01, steps=10, chunk=1, documents=len(A))
    g = ravel_pytree(jax.grad(lambda x: cell.loss(x, cell.data) / cell.unit(cell.data))(cell.x0))[0]
    g = g / max(1.0, float(jnp.linalg.norm(g)))
    expected = ravel_pytree(cell.x0)[0] - 0.01 * g / (jnp.abs(g) + 1e-8)
    np.testing.assert_allclose(ravel_pytree(carry.x)[0], expected, rtol=1e-10)


def test_the_peer_learns_and_stands_still_when_its_schedule_is_over():
    true, A = made(documents=40, n=12)
    cell = outputs_cell("learn", A, layer_outputs(true, A), heads=2, rank=2, whole=False)
    relative = lambda x: float(cell.loss(x, cell.data) / cell.unit(cell.data))  # noqa: E731
    carry = peer_run(cell, rate=0.02, steps=600, chunk=600, documents=4)
    assert relative(carry.x) < 0.1 * relative(cell.x0)
    longer = peer_run(cell, rate=0.02, steps=600, chunk=600, documents=4, advances=2)
    np.testing.assert_array_equal(ravel_pytree(longer.x)[0], ravel_pytree(carry.x)[0])


def test_the_scale_of_a_start_is_that_of_queries_and_keys():
    _, A = made()
    data = {"A": jnp.asarray(A), "B": jnp.zeros((6, 7, 4))}
    small, large = (layer_start(jax.random.key(0), data, heads=2, rank=2, whole=False, scale=s) for s in (0.1, 1.0))
    np.testing.assert_allclose(large.Q, 10 * small.Q, rtol=1e-12)
    np.testing.assert_array_equal(large.V, small.V)


def test_rounds_alternate_after_the_tuning_and_texts_come_last():
    jobs = jobs_of(resolve(f"{CONFIGS}/recover_head.py").config, "outputs")
    assert [job.part for job in jobs[:15]] == ["tuning"] * 15
    assert len({(job.rate, job.scale) for job in jobs[:15]}) == 15
    assert [(job.method, job.seed) for job in jobs[15:]] == [(m, s) for s in range(3) for m in (OURS, *[ADAM] * 3)]
    assert [job.steps for job in jobs[16:19]] == [500, 1500, 6000]
    texts = jobs_of(resolve(f"{CONFIGS}/recover_head.py:texts").config, "outputs")
    assert [job.part for job in texts] == ["round", *["texts"] * 14]
    assert [job.documents for job in texts[1:8]] == [4, 8, 16, 32, 64, 128, 256]


def curve(*rows):
    return np.array([(seconds, seconds, loss, loss) for seconds, loss in rows])


def finished(method, *rows, part="round"):
    return Run(Job(method, part, "outputs", 8, 0), curve(*rows), "tolerance", (4, 2, 1, 9), 0.0)


def test_levels_and_the_second_from_which_ours_leads():
    ours = finished(OURS, (1, 0.9), (4, 0.5), (6, 1e-3), (7, 1e-9))
    assert (ours.reached(0.5), ours.reached(1e-3), ours.reached(1e-10)) == (4, 6, None)
    assert ours.heldout == 1e-9
    adam = finished(ADAM, (0.5, 0.8), (3, 0.6), (5, 0.1), (9, 0.05))
    assert report.behind_until(ours, [adam]) == 6
    assert report.behind_until(ours, [finished(ADAM, (2, 0.95))]) == 0
    assert report.behind_until(finished(OURS, (1, 0.9)), [adam]) == np.inf
    broken = finished(ADAM, (1, 0.3), (2, np.nan))
    assert broken.heldout == 0.3


def rows_of(workdir):
    keep = ("step", "method", "train", "heldout", "lowest", "rate", "scale")
    return [{k: line[k] for k in keep if k in line} for line in read_lines(Path(workdir) / "metrics.jsonl")]


def start(workdir, *more):
    return run.main(["--config", HEAD, "--config.fit.seconds=60", "--workdir", workdir, *more])


def test_a_run_stopped_in_the_peer_and_in_our_first_phase_ends_as_if_it_had_not_been(stop_at):
    assert start("whole") == 0
    whole = rows_of("whole")
    first_phase = next(row["step"] for row in whole if row["method"] == OURS) + 1
    for step in (1, first_phase):
        stop_at(step)
        assert start("run", "--checkpoint-seconds=0") == EXIT_PREEMPTED
    stop_at(-1)
    assert start("run") == 0
    assert rows_of("run") == whole
    one, other = (load(Path(name)) for name in ("whole", "run"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    result = read_json(Path("run/result.json"))
    assert result["heldout"] <= 1e-3
    assert result["test"] <= 1e-2
    assert result["heads_found"] == 1


@pytest.mark.slow
def test_a_run_stopped_in_our_second_phase_goes_on_from_its_weights(stop_at):
    def go(workdir):
        more = ("--config.texts=(4,)", "--config.texts_targets=('maps',)")
        return start(workdir, "--config.fit.tol=1e-10", "--config.peer.rates=()", *more, "--checkpoint-seconds=0")

    assert go("whole") == 0
    phases = [line.get("phase") for line in read_lines(Path("whole/metrics.jsonl"))]
    step = phases.index("gauss_newton") + 1  # its first
    stop_at(step)
    assert go("run") == EXIT_PREEMPTED
    stop_at(-1)
    assert go("run") == 0
    lines = read_lines(Path("run/metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line.get("phase") for line in lines[step - 1 : step + 1]] == ["gauss_newton"] * 2
    assert lines[step]["train"] <= lines[step - 1]["train"]
    assert lines[step]["seconds"] > lines[step - 1]["seconds"]
    assert read_json(Path("run/result.json"))["heldout"] <= 1e-10
    assert Path("run/figures/texts.png").exists()


@pytest.mark.slow
def test_the_first_example_of_the_guide_runs_as_printed(capsys):
    page = (CONFIGS.parent / "docs" / "guides" / "recover.md").read_text(encoding="utf-8")
    true, A = made(documents=20, n=24, d=5, heads=1, rank=2, c=3)
    B = layer_outputs(true._replace(Q=true.Q / 4), A)  # logits of moderate size
    np.savez("activations.npz", A=A.astype(np.float32), B=B.astype(np.float32))
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["fit"].heldout < 1e-6
    assert np.linalg.norm(names["outputs"] - B) <= 1e-3 * np.linalg.norm(B)
    assert "unknowns determined" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("targets=mapz", "targets is 'mapz'"),
        ("data.source=minilm2", "data.source is 'minilm2'"),
        ("data.head=2", "data.head is 2"),
        ("data.documents=0", "data.documents is 0"),
        ("rounds=0", "rounds is 0"),
        ("peer.scales=()", "peer.scales is empty"),
        ("peer.rates=(0.0,)", "peer.rates is 0.0"),
        ("texts=(0,)", "texts is 0"),
        ("fit.seconds=0.0", "fit.seconds is 0"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(override, words, capsys):
    assert run.main(["--config", HEAD, f"--config.{override}", "--workdir", "run"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def sweep_folder(root, losses):
    """A finished sweep, as `experiments.sweep` leaves it, without running it."""
    tasks = []
    for (layer, head), loss in losses.items():
        name = f"{layer}-{head}"
        overrides = {"data.layer": layer, "data.head": head}
        tasks.append({"index": len(tasks), "overrides": overrides, "folder": name})
        write_json(root / name / folder.CONFIG, {"data": {"layer": layer, "head": head}})
        if loss is not None:
            numbers = dict(heldout=loss, test=loss, least_cosine=1.0, largest_distance=0.1, seconds=3.0)
            write_json(root / name / folder.RESULT, numbers | {"reason": "tolerance", "unit": "of it"})
    write_json(root / SWEEP, {"config": "x", "overrides": [], "tasks": tasks})


def test_a_survey_is_one_table_worst_first_and_one_picture(capsys):
    root = Path("sweep")
    sweep_folder(root, {(0, 0): 1e-7, (0, 1): 0.5, (1, 0): 1e-5, (1, 1): 1e-9})
    assert survey.main([str(root)]) == 0
    lines = (root / "heads.csv").read_text().splitlines()
    assert lines[0].startswith("data.layer,data.head,heldout")
    assert [line.split(",")[2] for line in lines[1:]] == ["0.5", "1e-05", "1e-07", "1e-09"]
    assert (root / "heads.png").stat().st_size > 1000
    assert "held out at most 1e-04: 3 of 4" in capsys.readouterr().out


def test_a_survey_names_what_is_missing_and_refuses_other_sweeps(capsys):
    sweep_folder(Path("sweep"), {(0, 0): 1e-7, (0, 1): None})
    assert survey.main(["sweep"]) == 1
    assert "missing: 0-1" in capsys.readouterr().err
    write_json(Path("other/a") / folder.CONFIG, {"seed": 1})
    write_json(Path("other/a") / folder.RESULT, {"loss": 1.0})
    assert survey.main(["other"]) == 2
    assert "no sweep of configs/recover_head.py" in " ".join(capsys.readouterr().err.split())


def test_the_error_behind_a_sink_is_that_of_the_rows_without_it():
    true, fitted = (np.tril(np.random.default_rng(seed).uniform(1, 2, (2, 5, 5))) for seed in (0, 1))
    away, size = 0.0, 0.0
    for P, R in zip(true, fitted, strict=True):
        for i in range(2, 5):
            p, r = (row[1 : i + 1] / row[1 : i + 1].sum() for row in (P[i], R[i]))
            away, size = away + np.sum((p - r) ** 2), size + np.sum(p**2)
    for maps in (true, fitted):  # nine tenths of every row but the first on token 0
        maps /= maps.sum(axis=-1, keepdims=True) * 10
        maps[:, :, 0] += 0.9
    found = report.behind_token_0(true, fitted)
    assert found["without_token_0"] == pytest.approx(away / size, rel=1e-12)
    assert found["mass_on_token_0"] == pytest.approx(np.mean(true[:, 1:, 0]))
    assert found["mass_on_token_0"] > 0.9
