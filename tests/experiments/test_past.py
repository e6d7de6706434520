"""Runs read back: their state, their headline beside what was expected, the command that repeats them, two compared."""

import math

import pytest

from experiments import compare, show
from experiments import list as listing
from experiments.runner import about, past
from experiments.runner.about import About, Metric
from experiments.runner.results import SWEEP
from experiments.runner.store import folder, lock
from experiments.runner.store.encoding import write_json
from tests.contract.test_configs import CONFIGS, ROOT

ABOUT = {
    "title": "A title",
    "summary": "What was asked.",
    "metrics": [Metric("loss", "of ‖B‖²")._asdict(), Metric("rate", "a second", "higher", always=False)._asdict()],
    "expected": {"loss": [None, 1e-3]},
    "config": "configs/x.py:full",
    "overrides": ["--config.seed=1"],
}


def run_folder(workdir, result=None, **config):
    write_json(workdir / folder.CONFIG, {"experiment": "mine", "seed": 1, "precision": "float32"} | config)
    write_json(workdir / folder.ABOUT, ABOUT)
    if result is not None:
        write_json(workdir / folder.RESULT, result)
    return workdir


def test_a_metric_is_found_by_its_path():
    result = {"arms": {"a": {"x": [1.0, 5.0]}, "b": {"x": [3.0, math.nan]}}, "rows": [{"r": 2}, {"r": ""}, {"r": 7}]}
    assert Metric("m", "", path="arms.*.x.0").of(result) == 3.0
    assert Metric("m", "", path="rows.*.r", over="min").of(result) == 2.0
    assert Metric("m", "", path="rows.*.r", over="median").of(result) == 4.5
    assert math.isnan(Metric("m", "", path="arms.b.x.1").of(result))
    assert Metric("absent", "").of(result) is None
    assert Metric("arms", "").of(result) is None


@pytest.mark.parametrize(
    ("value", "limits", "verdict"),
    [
        (1.0, (None, 2.0), True),
        (3.0, (None, 2.0), False),
        (math.nan, (None, 2.0), False),
        (1.0, (0.5, 1.5), True),
        (0.0, (0, 0), True),
        (0.4, (0.5, None), False),
        (None, (None, 1.0), None),
        (1.0, None, None),
    ],
)
def test_a_value_is_held_against_its_range(value, limits, verdict):
    assert about.met(value, limits) is verdict
    assert about.in_words((None, 1e-3)) == "at most 0.001"
    assert about.in_words((None, 1e-9)) == "at most 1e-9"
    assert about.in_words((4.0, None)) == "at least 4"
    assert about.in_words((1.0, 2.0)) == "1 to 2"


def test_a_run_says_its_state_and_headline(tmp_path):
    done = past.read(run_folder(tmp_path / "done", {"loss": 2e-3}))
    assert (done.state, done.command) == ("finished", "python -m experiments.run --config configs/x.py --config.seed=1")
    (line,) = done.headline  # the rate is not there, and need not be
    assert (line.metric.name, line.value, line.met) == ("loss", 2e-3, False)
    assert past.read(run_folder(tmp_path / "half")).state == "unfinished"
    write_json(run_folder(tmp_path / "failed") / folder.FAILURE, {"error": "E", "message": "why\nnot"})
    assert past.read(tmp_path / "failed").state == "failed"
    assert past.failure(tmp_path / "failed") == "E: why not"
    held = lock.Lock(run_folder(tmp_path / "held"))
    assert past.read(tmp_path / "held").state == "running"
    held.release()
    (run_folder(tmp_path / "cut") / folder.RESULT).write_text('{"loss"')
    assert past.read(tmp_path / "cut").state == "damaged"
    with pytest.raises(ValueError, match="holds no run"):
        past.read(tmp_path)


def test_a_run_of_before_about_json_is_told_by_its_experiment(tmp_path):
    workdir = tmp_path / "old"
    write_json(workdir / folder.CONFIG, {"experiment": "selfcheck", "seed": 0, "precision": "float32"})
    write_json(workdir / folder.RESULT, {"error": 0.5, "steps": 3})
    command = ["run.py", "--config", "configs/selfcheck.py:smoke", "--config.steps=40", "--force"]
    write_json(workdir / folder.ENVIRONMENT, [{"command": command}])
    found = past.read(workdir)
    assert found.told.about.title == "Self-check"
    assert [line.value for line in found.headline] == [0.5, 3.0]
    assert found.command == "python -m experiments.run --config configs/selfcheck.py:smoke --config.steps=40"
    write_json(workdir / folder.CONFIG, {"experiment": "gone", "seed": 0, "precision": "float32"})
    assert [line.metric.name for line in past.read(workdir).headline] == ["error", "steps"]
    assert past.read(workdir).told.about == About("gone", "", past.read(workdir).told.about.metrics)


def test_the_list_has_every_config_and_every_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert [config.path.name for config in listing.configs()] == [path.name for path in CONFIGS]
    for config in listing.configs():
        assert config.title.endswith((".", "?"))
        assert "smoke" in config.variants
    run_folder(tmp_path / "a", {"loss": 0.25, "rate": 3})
    run_folder(tmp_path / "s" / "seed=0-1", {"loss": 0.5})
    tasks = [{"index": i, "overrides": {"seed": i}, "folder": f"seed={i}-{i + 1}"} for i in range(2)]
    write_json(tmp_path / "s" / SWEEP, {"config": "configs/x.py", "overrides": [], "tasks": tasks})
    assert [line[:2] for line in listing.run_lines(tmp_path)] == [
        (str(tmp_path / "a"), "finished"),
        (str(tmp_path / "s"), "sweep"),
    ]
    assert [line[3] for line in listing.run_lines(tmp_path)] == ["loss 0.25, rate 3", "1 finished"]
    monkeypatch.setenv("COLUMNS", "80")
    assert listing.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "quickstart" in out
    assert "finished" in out
    assert max(map(len, out.splitlines())) <= 80
    assert listing.main([str(tmp_path / "nowhere"), "--runs"]) == 0
    assert "no run in" in capsys.readouterr().out


def test_show_and_compare(tmp_path, capsys):
    one, two = (run_folder(tmp_path / n, {"loss": loss, "rate": 2.0}, n=n) for n, loss in (("a", 4e-4), ("b", 2e-3)))
    assert show.main([str(one)]) == 0
    out = capsys.readouterr().out
    assert "at most 0.001" in out
    assert " as expected" in out
    assert "NOT as expected" not in out
    assert show.main([str(two)]) == 0
    assert "NOT as expected" in capsys.readouterr().out
    first, second = past.read(one), past.read(two)
    assert compare.differences([first, second]) == [("n", "a", "b")]
    (loss, rate) = compare.metrics(first, second)
    assert loss[:5] == ("loss", 4e-4, 2e-3, pytest.approx(5.0), "A")
    assert rate[:5] == ("rate", 2.0, 2.0, 1.0, "")
    assert compare.main([str(one), str(two)]) == 0
    assert "fields that differ" in capsys.readouterr().out
    assert compare.main([str(one), str(tmp_path / "nowhere")]) == 2
    assert "holds no run" in capsys.readouterr().err
