"""Every finished result in one table, with what is missing said aloud."""

import csv
import sys

import numpy as np
import pytest

from experiments import collect, report, show
from experiments.runner import results
from experiments.runner.results import SWEEP
from experiments.runner.store import folder
from experiments.runner.store.encoding import write_json


@pytest.fixture
def root(tmp_path):
    rows = []
    for i in range(6):
        name, rate = f"run{i}", (0.1, 0.2)[i % 2]
        write_json(tmp_path / name / folder.CONFIG, {"opt": {"rate": rate}, "seed": i, "precision": "float32"})
        result = {"loss": i + rate, "seconds": {"fit": 1.0}, "trace": [1, 2], "seed": 7}
        write_json(tmp_path / name / folder.RESULT, result)
        write_json(tmp_path / name / folder.ENVIRONMENT, [{"commit": "a"}, {"commit": "b", "dirty": False}])
        rows.append({"index": i, "overrides": {"opt.rate": rate, "seed": i}, "folder": name})
    write_json(tmp_path / SWEEP, {"config": "c.py", "overrides": [], "tasks": rows})
    return tmp_path


def test_every_run_is_a_row_with_its_origin(root):
    assert collect.main([str(root)]) == 0
    with open(root / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert rows[1] == {
        "opt.rate": "0.2",
        "seed": "1",
        "loss": "1.2",
        "seconds.fit": "1.0",
        "trace": "[1, 2]",
        "result.seed": "7",
        "folder": "run1",
        "commit": "b",
        "dirty": "False",
        "sessions": "2",
    }


def test_parquet_holds_the_same_table_with_types(root, monkeypatch):
    polars = pytest.importorskip("polars")
    write_json(root / "run2" / folder.RESULT, {"loss": float("nan"), "seconds": {"fit": 2.0}, "seed": 7})
    assert collect.main([str(root)]) == 0
    table = polars.read_parquet(root / "results.parquet")
    assert table.columns == list(results.gather(root).rows[0])
    assert table["loss"].to_list()[:2] == [0.1, 1.2]
    assert np.isnan(table["loss"][2])
    assert table["trace"][2] is None
    assert table["seed"].dtype == polars.Int64
    (root / "results.parquet").unlink()
    monkeypatch.setitem(sys.modules, "polars", None)  # as if it were not installed
    assert collect.main([str(root)]) == 0
    assert not (root / "results.parquet").exists()


def test_group_means_and_intervals(root, capsys):
    assert collect.main([str(root), "--by", "opt.rate", "--metric", "loss"]) == 0
    with open(root / "groups.csv", newline="") as stream:
        first, second = list(csv.DictReader(stream))
    assert float(first["loss mean"]) == pytest.approx((0.1 + 2.1 + 4.1) / 3)
    assert float(first["loss low"]) < float(first["loss mean"]) < float(first["loss high"])
    assert (first["runs"], second["runs"]) == ("3", "3")
    assert collect.main([str(root), "--by", "rate"]) == 2
    assert "no column 'rate'" in capsys.readouterr().err


def test_non_finite_values_are_not_averaged_away():
    mean, low, high = collect.bootstrap(np.array([1.0, np.inf]))
    assert mean == np.inf
    assert np.isnan([low, high]).all()


def test_missing_and_damaged_runs_are_named_and_fail_the_command(root, capsys):
    (root / "run3" / folder.RESULT).unlink()
    write_json(root / "run3" / folder.FAILURE, {"error": "x", "message": "y"})
    (root / "run4" / folder.RESULT).write_text('{"loss": 1')
    assert collect.main([str(root)]) == 1
    error = capsys.readouterr().err
    assert "missing: run3 (failed)" in error
    assert "missing: run4" in error
    assert "not valid JSON" in error


def test_loose_runs_are_collected_by_what_differs(root):
    (root / SWEEP).unlink()
    found = results.gather(root)
    assert found.varied == ["opt.rate", "seed"]
    assert len(found.rows) == 6


def test_an_empty_folder_is_an_error(tmp_path, capsys):
    assert collect.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("main", [collect.main, report.main, show.main])
def test_a_name_that_no_file_can_have_is_one_line(main, capsys):
    assert main(["é" * 300]) == 2
    error = capsys.readouterr().err
    assert "File name too long: ééé" in error
    assert error.count("\n") == 1
