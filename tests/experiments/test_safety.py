"""Nobody is let in, and nothing of anyone else's is touched: --force, links, terminals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import collect, report, sweep
from experiments.runner.screen import clean, console
from experiments.runner.sheet import sheet
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json, write_json
from tests.experiments.conftest import SELFCHECK

ROOT = Path(__file__).parents[2]


def _snapshot(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != folder.LOCK}


@pytest.mark.parametrize("config", ['{"model_type": "bert", "hidden_size": 384}', '{"seed": 0}', "[1]"])
def test_a_folder_laid_out_like_a_downloaded_model_is_nobodys_to_replace(start, capsys, config):
    model = Path("model")
    for name in ("config.json", "checkpoints/best.pt", "figures/a.png", "tables/t.csv", "log.txt", "solution.npz"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(config)
    before = _snapshot(model)
    for flags in ([], ["--force"]):
        assert start(*flags, workdir="model") == 2
        error = capsys.readouterr().err
        assert "holds no run of this project" in error
        assert "--force" not in error
    assert _snapshot(model) == before


def test_force_moves_aside_what_it_replaces(start):
    assert start("--config.steps=20") == 0
    before = _snapshot(Path("run"))
    assert start("--config.steps=40", "--force") == 0
    (aside,) = Path("run/.replaced").iterdir()
    assert _snapshot(aside) == before
    assert start("--config.steps=60", "--force") == 0
    assert len(list(Path("run/.replaced").iterdir())) == 2
    assert collect.main(["."]) == 0  # what was replaced is no run of the folder
    assert Path("results.csv").read_text().count("\n") == 2


def test_list_leaves_another_sweep_alone(tmp_path, capsys):
    root = tmp_path / "s"
    write_json(
        root / "sweep.json", {"config": "other.py", "overrides": [], "tasks": [{"folder": "a", "overrides": {}}]}
    )
    before = _snapshot(root)
    assert sweep.main(["--config", SELFCHECK, f"--workdir={root}", "--list"]) == 0
    assert _snapshot(root) == before
    assert sorted(p.name for p in root.iterdir()) == ["sweep.json"]


@pytest.mark.parametrize("name", [folder.LOCK, folder.METRICS])
def test_a_link_in_the_place_of_a_file_is_refused(start, capsys, name):
    assert start("--config.steps=20") == 0
    Path("run/result.json").unlink()
    Path("victim").write_text("precious")
    (Path("run") / name).unlink()
    (Path("run") / name).symlink_to(Path("victim").resolve())
    assert start("--config.steps=20") == 2
    assert f"run/{name} is a link" in capsys.readouterr().err
    assert Path("victim").read_text() == "precious"


@pytest.mark.parametrize("name", [folder.TABLES, folder.FIGURES, folder.CHECKPOINTS])
def test_a_link_in_the_place_of_a_folder_is_refused(start, capsys, name):
    Path("victim").mkdir()
    Path("run").mkdir()
    (Path("run") / folder.LOG).touch()  # a folder with nothing but a worker's log is empty
    assert start("--config.steps=20") == 0
    Path("run/result.json").unlink()
    if (Path("run") / name).exists():
        for path in (Path("run") / name).iterdir():
            path.unlink()
        (Path("run") / name).rmdir()
    (Path("run") / name).symlink_to(Path("victim").resolve())
    assert start("--config.steps=20", "--checkpoint-seconds=0") == 2
    assert f"run/{name} is a link" in capsys.readouterr().err
    assert list(Path("victim").iterdir()) == []


def test_a_worker_log_follows_no_link(tmp_path):
    from experiments.runner import execute, tasks, worker

    task = tasks.tasks(SELFCHECK, ["--config.steps=20"], tmp_path / "s")[0]
    task.workdir.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (task.workdir / folder.LOG).symlink_to(victim)
    assert worker.work([[task]], execute.Settings(), say=lambda text: None) == 1
    assert victim.read_text() == "precious"


def test_control_characters_never_reach_a_terminal(start, monkeypatch, capsys):
    attack = "\x1b]0;owned\x07\x9b31m"
    assert clean(f"a{attack}\n\tb") == "a\\x1b]0;owned\\x07\\x9b31m\n\tb"
    console().print(sheet(attack, (attack,), [(attack,)]))

    def run_batch(configs, records):
        records.say(attack)
        records[0].log(1, text=attack)
        return [{attack: attack}]

    monkeypatch.setattr("experiments.selfcheck.run_batch", run_batch)
    assert start() == 0
    assert start(f"--config.n={attack}", workdir="other") == 2
    report.main(["run"])
    collect.main([".", "--by", attack, "--metric", attack])
    seen = capsys.readouterr()
    assert "owned" in seen.out
    assert not {"\x1b", "\x07", "\x9b"} & set(seen.out + seen.err)


def _command(*arguments, **more):
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, **more)


def test_a_terminal_without_our_letters_and_a_reader_that_leaves_end_no_run(tmp_path, monkeypatch):
    flags = ["experiments.run", "--config", SELFCHECK, "--config.steps=20", f"--workdir={tmp_path / 'run'}"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C"}
    done = _command(*flags, env=environment)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run" / folder.RESULT)["steps"] == 20
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", *flags, "--force"]
    gone = subprocess.run(line, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert gone.returncode == 0, gone.stderr
    assert "Traceback" not in gone.stderr
    assert len(read_json(tmp_path / "run" / folder.ENVIRONMENT)) == 1
    assert (tmp_path / "run" / folder.RESULT).exists()
