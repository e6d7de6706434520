"""One path from a resolved config to its result: a run is a batch of one, a worker gets tasks."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from attnreg.problems import ProblemError
from experiments import selfcheck, sweep
from experiments.runner import execute as execution
from experiments.runner import tasks, worker, worklist
from experiments.runner.config import Resolved, UsageError, resolve
from experiments.runner.store import environment, folder
from experiments.runner.store.encoding import read_json, read_lines
from tests.experiments import torture
from tests.experiments.conftest import SELFCHECK

ROOT = Path(__file__).parents[2]


def test_the_runner_imports_no_experiment_and_no_config():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "experiments" / "runner").rglob("*.py"))
    ]
    assert "experiments.runner.execute" in modules
    program = "import sys\n" + "".join(f"import {name}\n" for name in modules)
    program += "loaded = {n for n in sys.modules if n.startswith(('experiments.', 'configs'))}\n"
    program += "print(sorted(n for n in loaded if not n.startswith('experiments.runner')))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def single(monkeypatch):
    """The self-check as an experiment with `run` alone."""

    def run(config, record):
        state, step = {"sum": jax.numpy.zeros(())}, 0
        step, state = record.restore(state)
        while step < config.steps:
            state, step = {"sum": state["sum"] + step}, step + config.chunk
            record.log(step, loss=state["sum"])
            record.save(step, state)
        return {"sum": state["sum"]}

    monkeypatch.delattr(selfcheck, "run_batch")
    monkeypatch.setattr(selfcheck, "run", run, raising=False)


def test_an_experiment_with_run_takes_the_same_path_and_resumes(single, start, monkeypatch):
    assert start(workdir="whole") == 0
    assert read_json(Path("whole/result.json")) == {"sum": sum(range(0, 200, 20))}
    from experiments.runner.record import Record

    log = Record.log

    def broken(self, step, **scalars):
        log(self, step, **scalars)
        if step == 120:
            raise RuntimeError("broken on purpose")

    monkeypatch.setattr(Record, "log", broken)
    assert start("--checkpoint-seconds=0") == 1
    monkeypatch.setattr(Record, "log", log)
    assert start() == 0
    assert torture.same(Path("whole"), Path("run")) == (True, True)


def test_an_experiment_without_run_batch_refuses_batch(single, tmp_path, capsys):
    assert sweep.main(["--config", SELFCHECK, f"--workdir={tmp_path / 's'}", "--batch=2"]) == 2
    assert "has no run_batch and BATCHED" in capsys.readouterr().err


@pytest.mark.parametrize("results", [None, [], [{"a": 1}, {"a": 2}]])
def test_a_batch_returns_one_result_a_config(start, monkeypatch, results):
    monkeypatch.setattr(selfcheck, "run_batch", lambda configs, records: results)
    assert start() == 1
    assert "one a config" in read_json(Path("run/failure.json"))["message"]


# --- what a worker is given ------------------------------------------------------------------------------------


def test_a_worklist_comes_back_as_it_was(tmp_path):
    fields = {"t": (1, (2.5, "a")), "l": [1, None], "inf": math.inf, "text": "NaN", "flag": True, "deep": {"tol": 1e-9}}
    resolved = Resolved(ConfigDict(fields).lock(), Path("c.py"), "smoke", ("--config.flag=True",))
    task = tasks.Task(3, {"t": (1, 2)}, resolved, "f" * 16, tmp_path / "run")
    work = worklist.Worklist([[task]], execution.Settings(checkpoint_seconds=1.5), distributed=True)
    worklist.write(tmp_path / "w.json", work)
    found = worklist.read(tmp_path / "w.json")
    ((back,),) = found.units
    assert found._replace(units=[]) == work._replace(units=[])
    assert back.resolved.config.to_dict() == resolved.config.to_dict()
    assert isinstance(back.resolved.config.t, tuple)
    assert back.resolved.config.is_locked
    assert back._replace(resolved=resolved) == task
    assert back.resolved.spec == resolved.spec


def test_a_worker_needs_no_config_file(tmp_path):
    """The config may change, or go, while tasks wait in a queue."""
    path = tmp_path / "c.py"
    path.write_text(Path(SELFCHECK.split(":")[0]).read_text())
    listed = tasks.tasks(f"{path}:smoke", ["--config.steps=20"], tmp_path / "s")[:2]
    file = tmp_path / "w.json"
    worklist.write(file, worklist.Worklist([[task] for task in listed], execution.Settings()))
    path.unlink()
    assert worker.main([str(file)]) == 0
    assert [tasks.status(task).state for task in listed] == ["finished"] * 2
    by_hand = read_json(listed[1].workdir / folder.CONFIG)
    assert by_hand == json.loads(json.dumps(listed[1].resolved.config.to_dict()))


def test_a_task_is_reproduced_by_its_command(tmp_path):
    from experiments import run

    task = tasks.tasks(SELFCHECK, ["--config.steps=20"], tmp_path / "s")[3]
    assert run.main(task.command()) == 0
    assert tasks.status(task).state == "finished"


# --- whose mistake an error is -------------------------------------------------------------------------------


def _raising(monkeypatch, error, log_first):
    def run_batch(configs, records):
        if log_first:
            records.log(1, loss=1.0)
        raise error

    monkeypatch.setattr(selfcheck, "run_batch", run_batch)


@pytest.mark.parametrize(
    ("error", "log_first", "code"),
    [
        (UsageError("config.steps is 3; it must be even"), False, 2),
        (UsageError("config.steps is 3; it must be even"), True, 2),
        (ProblemError("ridge is -1.0; it must be at least 0"), False, 2),
        (ProblemError("ridge is -1.0; it must be at least 0"), True, 1),  # the experiment's own: it was at work
        (ValueError("anything"), False, 1),
    ],
)
def test_mistakes_in_the_config_are_one_line_and_bugs_keep_their_traceback(
    start, monkeypatch, capsys, error, log_first, code
):
    _raising(monkeypatch, error, log_first)
    assert start() == code
    shown = capsys.readouterr().err
    if code == 2:
        assert shown == f"error: {error}\n"
    else:
        assert "Traceback" in shown
        assert read_json(Path("run/failure.json"))["message"] == str(error)


def test_a_worker_keeps_a_mistake_in_the_config_as_the_failure_of_its_task(tmp_path, monkeypatch):
    _raising(monkeypatch, ProblemError("ridge is -1.0"), False)
    task = tasks.tasks(SELFCHECK, [], tmp_path / "s")[0]
    assert worker.work([[task]], execution.Settings(), say=lambda text: None) == 1
    assert tasks.status(task) == ("failed", "UsageError: ridge is -1.0")


# --- where a number came from --------------------------------------------------------------------------------


def test_dirty_counts_untracked_files(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    monkeypatch.setattr(environment, "ROOT", tmp_path)
    commit = environment.commit.__wrapped__
    git("init")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "x")
    assert commit()["dirty"] is False
    (tmp_path / "new_loss.py").write_text("x = 1")
    git("config", "status.showUntrackedFiles", "no")  # the user's habit must not hide them
    assert commit()["dirty"] is True


def test_the_selfcheck_names_a_wrong_field(start, capsys):
    assert start("--config.chunk=0") == 2
    assert "must be a multiple of config.chunk (0)" in capsys.readouterr().err
    assert read_lines(Path("run/metrics.jsonl")) == []


def test_every_variant_of_the_selfcheck_resolves():
    spec = SELFCHECK.split(":")[0]
    assert [resolve(f"{spec}:{name}").config.steps for name in ("full", "slow", "smoke")] == [2000, 2000, 200]
