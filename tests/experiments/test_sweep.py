"""A sweep computes every task once, whoever works at it and whatever dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import sweep
from experiments.runner import config as config_module
from experiments.runner import execute as execution
from experiments.runner import local, results, tasks, worker, worklist
from experiments.runner.record import Record
from experiments.runner.signals import EXIT_PREEMPTED
from experiments.runner.store import folder, lock
from experiments.runner.store.encoding import read_json, read_lines, write_json
from tests.experiments import torture
from tests.experiments.conftest import SELFCHECK

ROOT = Path(__file__).parents[2]
CONFIG = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("selfcheck", {SELFCHECK.split(":")[0]!r})
base = importlib.util.module_from_spec(spec)
spec.loader.exec_module(base)
VARIANTS = {{}}
def get_config(variant="full"):
    config = base.get_config("smoke")
    config.steps = 60
    return config
def sweep():
    return SWEEP
"""


@pytest.fixture
def config(tmp_path):
    """Write a config whose sweep is the given text; its path."""

    def config(entries):
        path = tmp_path / "c.py"
        path.write_text(CONFIG.replace("SWEEP", entries))
        return str(path)

    return config


def work(spec, root, *, batch=1, **settings):
    """What one worker process does, in this process."""
    listed = tasks.tasks(spec, [], root)
    tasks.write_list(root, spec, [], listed)
    return worker.work(sweep.make_units(listed, batch), execution.Settings(**settings), say=lambda text: None), listed


def test_grid_is_a_product_in_a_fixed_order():
    assert tasks.grid({"a": (1, 2), "b": "xy"}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_a_sweep_computes_every_task_once_and_extends(config, tmp_path):
    root = tmp_path / "s"
    code, listed = work(config("[{'seed': s} for s in range(2)]"), root)
    assert code == 0
    assert [tasks.status(t).state for t in listed] == ["finished"] * 2
    before = {p: p.stat().st_mtime_ns for p in root.rglob("result.json")}
    code, listed = work(config("[{'seed': s} for s in range(3)]"), root)
    assert len(listed) == 3
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(list(root.rglob("result.json"))) == 3
    assert all(len(read_json(t.workdir / folder.ENVIRONMENT)) == 1 for t in listed)


def test_folders_say_what_was_varied():
    assert tasks.values({"seed": 1, "solver.tol": 1e-8}) == "seed=1_tol=1e-08"
    assert tasks.values({"a.n": 1, "b.n": (1, 2)}) == "a.n=1_b.n=1_2"
    assert tasks.values({"name": "../x y"}) == "name=x_y"
    assert tasks.values({}) == "base"
    assert len(tasks.values({"text": "x" * 500})) <= tasks.MOST_WORDS


def test_a_sweep_begun_under_other_names_goes_on_in_its_folders(config, tmp_path):
    """Folders of before had the fingerprint alone, and a sweep that varies one field more would name them otherwise."""
    root, spec = tmp_path / "s", config("[{'seed': s} for s in range(2)]")
    _, before = work(spec, root)
    assert [t.workdir.name for t in before] == [f"seed={t.overrides['seed']}-{t.fingerprint}" for t in before]
    before[0].workdir.rename(root / before[0].fingerprint)
    (root / "sweep.json").write_text((root / "sweep.json").read_text().replace("seed=0-", ""))
    results_before = {p: p.stat().st_mtime_ns for p in root.rglob("result.json")}
    code, after = work(config("[{'seed': s, 'learning_rate': 0.02} for s in range(3)]"), root)
    assert code == 0
    assert [t.workdir.name for t in after[:2]] == [before[0].fingerprint, before[1].workdir.name]
    assert after[2].workdir.name == f"seed=2_learning_rate=0.02-{after[2].fingerprint}"
    assert {p: p.stat().st_mtime_ns for p in results_before} == results_before
    assert len(list(root.rglob("result.json"))) == 3
    empty = root / f"other-{after[1].fingerprint}"
    empty.mkdir()
    assert tasks.folders(root)[after[1].fingerprint] == after[1].workdir.name


def test_one_task_alone_gives_the_same_numbers(config, tmp_path):
    spec = config("[{'seed': s, 'learning_rate': 0.1} for s in range(2)]")
    _, listed = work(spec, tmp_path / "s")
    assert sweep.main(["--config", spec, "--workdir", str(tmp_path / "alone"), "--index", "1"]) == 0
    assert torture.same(listed[1].workdir, tmp_path / "alone" / listed[1].workdir.name) == (True, True)
    _, listed = work(spec, tmp_path / "alone")  # the other task joins it
    assert [tasks.status(t).state for t in listed] == ["finished", "finished"]


def test_a_failed_task_is_reported_skipped_and_retried(config, tmp_path, capsys):
    spec = config("[{'n': -1}, {'n': 8}]")
    root = tmp_path / "s"
    code, listed = work(spec, root)
    assert code == execution.EXIT_FAILED
    assert [tasks.status(t).state for t in listed] == ["failed", "finished"]
    assert sweep.finish(listed, 0) == 1
    assert "1 failed, 1 finished of 2 tasks" in capsys.readouterr().out
    first = read_json(listed[0].workdir / folder.FAILURE)
    assert work(spec, root)[0] == 0
    assert read_json(listed[0].workdir / folder.FAILURE) == first
    sweep.forget_failures(listed)
    assert tasks.status(listed[0]).state == "unfinished"
    assert work(spec, root)[0] == execution.EXIT_FAILED


def test_a_held_task_is_left_to_its_holder(config, tmp_path):
    spec, root = config("[{'seed': 0}, {'seed': 1}]"), tmp_path / "s"
    listed = tasks.tasks(spec, [], root)
    tasks.write_list(root, spec, [], listed)
    holder = lock.Lock(listed[0].workdir)
    assert tasks.status(listed[0]).state == "running"
    assert work(spec, root)[0] == 0
    assert [tasks.status(t).state for t in listed] == ["running", "finished"]
    holder.release()
    assert tasks.status(listed[0]).state == "new"


def test_a_dead_holder_does_not_hold(config, tmp_path):
    task = tasks.tasks(config("[{'seed': 0}]"), [], tmp_path / "s")[0]
    die = "import os, pathlib, sys; from experiments.runner.store import lock\n"
    die += "lock.Lock(pathlib.Path(sys.argv[1])); os._exit(9)"
    child = subprocess.Popen([sys.executable, "-c", die, str(task.workdir)], cwd=ROOT)
    assert child.wait() == 9
    assert lock.last_holder(task.workdir).process == child.pid
    assert tasks.status(task).state == "new"
    lock.Lock(task.workdir).release()


def test_preemption_stops_the_worker_with_its_state_saved(config, tmp_path, monkeypatch):
    spec = config("[{'seed': 0}, {'seed': 1}]")
    _, whole = work(spec, tmp_path / "whole")
    log = Record.log

    def log_and_signal(self, at, **scalars):
        log(self, at, **scalars)
        if at == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Record, "log", log_and_signal)
    code, listed = work(spec, tmp_path / "s")
    assert code == EXIT_PREEMPTED
    assert [tasks.status(t).state for t in listed] == ["unfinished", "new"]
    monkeypatch.setattr(Record, "log", log)
    assert work(spec, tmp_path / "s")[0] == 0
    assert all(torture.same(a.workdir, b.workdir) == (True, True) for a, b in zip(whole, listed, strict=True))


@pytest.mark.parametrize(
    ("entries", "flags", "message"),
    [
        ("[{'seed': 0}, {'seed': 0}]", [], "tasks 0 and 1 of the sweep are the same"),
        ("[]", [], "lists no task"),
        ("[{'sed': 1}]", [], "no field 'sed'; did you mean seed?"),
        ("[{'seed': 1}]", ["--config.seed=3"], "set on the command line and by the sweep"),
        ("[{'seed': 1}]", ["--index=1"], "the sweep has tasks 0 to 0"),
        ("[{'seed': 1}]", ["--jobs=0"], "at least one process"),
        ("[{'seed': 1}]", ["--jbs=1"], "jbs"),
        ("[{'seed': {}}]", [], "must be a number"),
        ("[{'learning_rate': (float('nan'),)}]", [], "learning_rate has NaN in a tuple"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(config, tmp_path, capsys, entries, flags, message):
    assert sweep.main(["--config", config(entries), f"--workdir={tmp_path / 's'}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_sweep_does_not_settle_in_a_foreign_folder(config, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    assert sweep.main(["--config", config("[{'seed': 0}]"), f"--workdir={tmp_path / 'mine'}"]) == 2
    assert "holds no sweep" in capsys.readouterr().err


def test_list_shows_states_and_runs_nothing(config, tmp_path, capsys):
    root = tmp_path / "s"
    assert sweep.main(["--config", config("[{'seed': 0}, {'seed': 1}]"), f"--workdir={root}", "--list"]) == 0
    out = capsys.readouterr().out
    assert out.count("new") == 2
    assert not root.exists()


def test_a_task_that_kills_its_workers_is_given_up(config, tmp_path):
    task = tasks.tasks(config("[{'seed': 0}]"), [], tmp_path / "s")[0]
    write_json(task.workdir / folder.CONFIG, task.resolved.config.to_dict())
    worker.died(task, -9, 5)
    assert tasks.status(task) == ("failed", "WorkerDied: 5 workers died on it, the last with exit code -9")


def test_workers_that_do_nothing_are_not_replaced_for_ever(config, tmp_path, capsys, monkeypatch):
    listed = tasks.tasks(config("[{'seed': 0}]"), [], tmp_path / "s")
    write = worklist.write
    monkeypatch.setattr(worklist, "write", lambda path, work: write(path, work._replace(units=[])))
    work = worklist.Worklist([listed], execution.Settings())
    assert local.drive(tmp_path / "s", work, jobs=1, max_deaths=5) == 0
    assert sweep.finish(listed, 0) == 1
    assert "1 new of 1 tasks" in capsys.readouterr().out


def test_local_workers_survive_kill_nine(tmp_path):
    """Two real workers, one of them killed while it works: all results, none twice, nothing lost."""
    command = [sys.executable, "-m", "experiments.sweep", "--config", "configs/selfcheck.py:smoke", "--jobs=2"]
    command += ["--config.pause=0.3", "--config.chunk=50", "--checkpoint-seconds=0", f"--workdir={tmp_path / 's'}"]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    victim = None
    deadline = time.monotonic() + 120
    while victim is None and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        for path in (tmp_path / "s").glob("*/checkpoints/*"):
            victim = victim or lock.held(path.parents[1])
    assert victim is not None
    os.kill(victim.process, signal.SIGKILL)
    out, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, out
    assert "8 finished of 8 tasks" in out
    folders = [p.parent for p in (tmp_path / "s").glob("*/result.json")]
    assert len(folders) == 8
    assert all([line["step"] for line in read_lines(f / "metrics.jsonl")] == [50, 100, 150, 200] for f in folders)
    sessions = sorted(len(read_json(f / "environment.json")) for f in folders)
    assert sessions == [1] * 7 + [2]


TYPED = """
from ml_collections import ConfigDict
VARIANTS = {}
def get_config(variant="full"):
    return ConfigDict(dict(
        experiment="selfcheck", seed=0, precision="float64", x=1.0, numbers=(1.0, 2.0), whole=(1,), flag=True, n=3
    ))
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", float("inf")),
        ("x", -float("inf")),
        ("x", np.float64(0.5)),
        ("x", np.float32(0.1)),
        ("n", np.int64(4)),
        ("flag", np.bool_(False)),
        ("numbers", (np.float64(0.25), 1.0)),
        ("numbers", (float("inf"), -np.float64("inf"), 1e300)),
        ("numbers", ()),
        ("whole", (np.int32(3), 4)),
    ],
)
def test_a_sweep_value_arrives_as_it_is_and_survives_its_worklist(tmp_path, name, value):
    path = tmp_path / "c.py"
    path.write_text(
        f"import numpy as np\ninf = float('inf')\n{TYPED}\ndef sweep():\n    return [{{{name!r}: {value!r}}}]\n"
    )
    (task,) = tasks.tasks(str(path), [], tmp_path / "s")
    found = task.resolved.config[name]
    assert found == value
    assert type(found) in (float, int, bool, tuple)
    assert not any(isinstance(v, np.generic) for v in (found if isinstance(found, tuple) else [found]))
    worklist.write(tmp_path / "w.json", worklist.Worklist([[task]], execution.Settings()))
    (((again,),), _, _) = worklist.read(tmp_path / "w.json")
    assert again.resolved.config[name] == value
    assert again.fingerprint == task.fingerprint
    by_hand = tasks.tasks(str(path), [], tmp_path / "s")[0].command()[2:-2]
    assert config_module.resolve(str(path), by_hand).config[name] == value


@pytest.mark.parametrize("text", ["(inf, 1.0)", "(np.float64(1.0),)", "[nan]"])
def test_a_tuple_that_no_literal_says_is_refused_and_not_made_a_string(tmp_path, text):
    path = tmp_path / "c.py"
    path.write_text(TYPED)
    with pytest.raises(config_module.UsageError, match=r"config.numbers is .*; a tuple has numbers"):
        config_module.resolve(str(path), [f"--config.numbers={text}"])


def test_a_sweep_that_would_drop_started_tasks_from_the_list_is_refused(config, tmp_path, capsys):
    root = tmp_path / "s"
    spec = config("[{'seed': 0}, {'seed': 1}]")
    assert work(spec, root)[0] == 0
    before = (root / "sweep.json").read_bytes()
    for flags in (["--config.steps=40"], ["--config.steps=40", "--jobs=1"]):
        assert sweep.main(["--config", spec, f"--workdir={root}", *flags]) == 2
        error = capsys.readouterr().err
        assert "would drop 2 of its tasks" in error
        assert error.count("\n") == 1
    with pytest.raises(folder.FolderError, match="would drop 1 of its tasks"):
        work(config("[{'seed': 1}, {'seed': 2}]"), root)
    assert (root / "sweep.json").read_bytes() == before
    assert len(results.gather(root).rows) == 2
