"""One folder a run: what is in it, and who may use it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.runner.store import folder
from experiments.runner.store import lock as locks
from experiments.runner.store.encoding import read_json, read_lines


def test_a_run_leaves_its_record(start, capsys):
    before = jax.config.jax_enable_x64
    assert start("--config.steps=60") == 0
    assert jax.config.jax_enable_x64 == before
    names = {p.name for p in Path("run").iterdir()}
    assert names == {
        ".lock",
        "about.json",
        "captions.json",
        "config.json",
        "environment.json",
        "figures",
        "log.txt",
        "metrics.jsonl",
        "result.json",
        "solution.npz",
        "tables",
    }
    assert read_json(Path("run/config.json"))["steps"] == 60
    assert [line["step"] for line in read_lines(Path("run/metrics.jsonl"))] == [20, 40, 60]
    assert read_json(Path("run/result.json"))["steps"] == 60
    assert Path("run/tables/selfcheck.csv").read_text().startswith("steps,error\n60,1.7")
    assert Path("run/figures/solution.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "step 60/60" in out
    assert "finished in" in out
    assert "\x1b" not in out


def test_the_environment_says_where_a_number_came_from(start, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    assert start("--config.steps=20") == 0
    (session,) = read_json(Path("run/environment.json"))
    assert session["packages"]["jax"] == jax.__version__
    assert session["precision"] == "float32"
    assert session["devices"]["platform"] == "cpu"
    assert len(session["commit"] or "0" * 40) == 40
    assert {"dirty", "python", "flags", "command", "started"} <= session.keys()
    assert "SECRET_TOKEN" not in json.dumps(session)


def test_a_finished_run_says_so_and_is_not_touched(start, capsys):
    assert start("--config.steps=20") == 0
    before = {p: p.stat().st_mtime_ns for p in Path("run").rglob("*") if p.is_file()}
    assert start("--config.steps=20") == 0
    assert "already holds this run, finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in Path("run").rglob("*") if p.is_file()} == before


def test_force_redoes_a_finished_run(start):
    assert start("--config.steps=20") == 0
    result = Path("run/result.json")
    result.write_text("{}")
    assert start("--config.steps=20", "--force") == 0
    assert read_json(result)["steps"] == 20


def test_another_config_is_refused_and_named(start, capsys):
    assert start("--config.steps=20") == 0
    assert start("--config.steps=40") == 2
    error = capsys.readouterr().err
    assert "holds another run" in error
    assert "different: steps" in error
    assert start("--config.steps=40", "--force") == 0


def test_a_foreign_folder_is_refused_and_never_emptied(start, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert start(workdir="mine") == 2
    assert "holds no run" in capsys.readouterr().err
    assert start("--force", workdir="mine") == 2
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    assert start(workdir="file") == 2


def test_force_deletes_only_what_a_run_writes(start):
    assert start("--config.steps=20") == 0
    Path("run/notes.txt").write_text("mine")
    assert start("--config.steps=20", "--force") == 0
    assert Path("run/notes.txt").read_text() == "mine"


def test_a_failing_experiment_leaves_its_error_and_can_be_run_again(start, capsys):
    assert start("--config.n=-1") == 1
    kept = read_json(Path("run/failure.json"))
    assert kept["error"] in kept["traceback"]
    assert kept["message"]
    assert not Path("run/result.json").exists()
    assert start("--config.n=-1") == 1


@pytest.mark.parametrize("value", [3, None, {"a": object()}, {}])
def test_a_result_that_is_no_record_fails_the_run(start, monkeypatch, value):
    monkeypatch.setattr("experiments.selfcheck.run_batch", lambda configs, records: [value])
    assert start() == 1
    assert not Path("run/result.json").exists()


def test_a_non_finite_result_is_kept_as_such(start, monkeypatch):
    monkeypatch.setattr("experiments.selfcheck.run_batch", lambda configs, records: [{"loss": float("inf")}])
    assert start() == 0
    assert read_json(Path("run/result.json")) == {"loss": float("inf")}


def test_two_processes_cannot_share_a_folder(start, capsys):
    lock = locks.Lock(Path("run"))
    assert start() == 2
    error = capsys.readouterr().err
    assert "in use by another process" in error
    assert f"process {os.getpid()}" in error
    lock.release()
    assert start("--config.steps=20") == 0


def test_the_default_folder_is_named_by_config_and_fingerprint(start):
    assert start("--config.steps=20", workdir="") == 0
    assert start("--config.steps=40", workdir="") == 0
    names = sorted(p.name for p in Path("runs").iterdir())
    assert len(names) == 2
    assert all(name.startswith("selfcheck-smoke-") for name in names)


def test_names_cannot_leave_the_folder():
    for name in ("../x", "/etc/x", "", "a/b", ".hidden", "a\n"):
        with pytest.raises(ValueError, match="not a plain name"):
            folder.file_name(name)


def test_the_command_line_works_as_a_process(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "experiments.run", "--config", "configs/selfcheck.py:smoke"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "finished in" in done.stdout
    assert done.stdout.endswith(f"as a page: python -m experiments.report {tmp_path / 'run'}\n")
    assert "Traceback" not in done.stderr
