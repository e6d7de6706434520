"""The page of the sweep of configs/icl_paper.py, and the numbers that docs/papers.md reads from it."""

import numpy as np
import pytest

from experiments.icl import paper
from experiments.papers import __main__ as papers
from experiments.papers.row import Run
from experiments.papers.runs import closeness
from experiments.runner.results import SWEEP
from experiments.runner.store import folder
from experiments.runner.store.encoding import write_json

LOSSES = {"linear": [0.84, 0.86], "softmax": [0.7, 0.8]}


def arm(losses):
    final = {"loss": losses, "gd/cosine": [0.9, 0.98], "gd/prediction_difference": [0.25, 0.5]}
    final["gd/sensitivity_difference"] = [0.1, 0.2]
    return {"final": final, "references": {"gd": 0.85, "zero": 1.25}, "past_plateau": 1.0 - 0.5 * (losses[0] == 0.7)}


@pytest.fixture
def sweep(tmp_path):
    tasks = [(25, 20), (25, 5), (200, 20)]
    listed = [
        {"index": i, "overrides": {"task.length": n, "task.dimension": d}, "folder": f"n{n}-d{d}"}
        for i, (n, d) in enumerate(tasks)
    ]
    write_json(tmp_path / SWEEP, {"config": "configs/icl_paper.py:full", "overrides": [], "tasks": listed})
    for task in listed[:2]:
        workdir, overrides = tmp_path / task["folder"], task["overrides"]
        write_json(workdir / folder.CONFIG, {"task": {n.split(".")[1]: v for n, v in overrides.items()}})
        write_json(workdir / folder.ENVIRONMENT, [{"started": f"2026-01-0{1 + task['index']}", "commit": "0123456789"}])
        write_json(workdir / folder.RESULT, {"arms": {kind: arm(losses) for kind, losses in LOSSES.items()}})
    return tmp_path


def test_the_page_is_in_the_papers_order_and_names_what_is_missing(sweep, capsys):
    assert paper.main([str(sweep)]) == 1  # one task has not finished
    text = (sweep / "paper.md").read_text("utf-8")
    order = [
        "Over training, n = 25, d = 20",
        "Loss against d, n = 25",
        "Over training, n = 25, d = 5",
        "Not finished: n200",
    ]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert "(n25-d20/figures/curves.png)" in text
    assert "| 5 | 1.2500 | 0.8500 | softmax attention | 0.7500 (0.7000 to 0.8000) | 0.9400 | 1 of 2 |" in text
    assert (sweep / "paper-25.png").read_bytes().startswith(b"\x89PNG")
    assert str(sweep / "paper.md") in capsys.readouterr().out


def test_a_folder_without_a_finished_task_is_refused(tmp_path, capsys):
    write_json(tmp_path / SWEEP, {"tasks": []})
    assert paper.main([str(tmp_path)]) == 2
    assert "has finished" in capsys.readouterr().err


def test_the_papers_page_reads_the_finished_tasks_of_a_sweep(sweep):
    run = Run("configs/icl_paper.py", closeness, sweep=True)
    found = papers.record(run, sweep)
    assert (found["date"], found["commit"]) == ("2026-01-02", "012345678")
    numbers = found["numbers"]
    assert numbers["paper, cells"] == 2
    assert numbers["paper, past"] == 0.5
    np.testing.assert_allclose(numbers["paper, spread"], 0.1 / 0.75, rtol=1e-5)
    assert numbers["paper 25 20, softmax, cosine"] == 0.94
    assert numbers["paper 25 5, linear"] == 0.85
    assert "paper 25 5, linear, low" not in numbers
    assert run.command == "python -m experiments.sweep --config configs/icl_paper.py"
    assert papers.workdir_of(run, sweep.parent).name == "icl_paper-sweep"
    assert papers.finished(run, sweep / "none") == []
