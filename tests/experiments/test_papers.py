"""docs/papers.md: every registered statement has a row, and the page is what the command writes."""

import ast

import pytest

from experiments.papers import __main__ as command
from experiments.papers.page import page
from experiments.papers.registry import CHAPTERS, REGISTERED
from experiments.papers.row import VERDICTS, Chapter, Row, missing
from experiments.papers.runs import RUNS
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json, write_json

ROWS = [row for chapter in CHAPTERS for row in chapter.rows]
RECORDED = read_json(command.NUMBERS)


def test_every_registered_statement_has_a_row():
    covered = [name for row in ROWS for name in row.covers]
    assert missing(covered, REGISTERED) == []
    assert len(covered) == len(set(covered))
    assert missing(covered, [*REGISTERED, "a new statement"]) == ["a new statement"]


def test_every_published_form_of_the_oracles_has_a_row():
    tree = ast.parse((command.HERE / "tests/oracles/published.py").read_text("utf-8"))
    forms = [f.name for f in tree.body if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")]
    assert missing([name for row in ROWS for name in row.covers], set(forms) - {"entry"}) == []


def test_the_page_is_what_is_recorded():
    assert command.PAGE.read_text("utf-8") == command.written(), "run python -m experiments.papers"


def test_rows_name_files_that_exist_and_say_what_a_statement_is_worth():
    for row in ROWS:
        assert (command.HERE / row.file).is_file(), row
        assert row.verdict.startswith(VERDICTS), row
        assert row.where
        assert row.published
        assert row.ours


def test_every_recorded_number_is_one_of_a_run_and_is_shown():
    assert set(RECORDED) <= {run.key for run in RUNS}
    shown = {name for row in ROWS for name in row.numbers()}
    shown |= {name for chapter in CHAPTERS for name in Row("", "", "", "", "", chapter.note, "").numbers()}
    assert {name for entry in RECORDED.values() for name in entry["numbers"]} <= shown


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.key)
def test_every_run_names_a_config_and_fields_that_exist(run, tmp_path):
    assert command.workdir_of(run, tmp_path).parent == tmp_path


def test_a_number_that_changes_makes_the_page_differ_and_a_missing_one_is_said():
    row = Row("1", "says", "README.md", "p", "o", "{x:3} of ours", "true")
    chapter = Chapter("t", (row,))
    before, after, none = (
        page((chapter,), (), {}, {name: command.Measured(value)}) for name, value in (("x", 0.5), ("x", 0.25), ("y", 1))
    )
    assert "| 0.5 of ours |" in before
    assert "| 0.25 of ours |" in after
    assert "| no recorded run |" in none


def test_a_finished_run_is_recorded_with_its_date(tmp_path):
    write_json(tmp_path / folder.ENVIRONMENT, [{"started": "2026-01-02T03:04:05", "commit": "0123456789ab"}])
    bounds = {"softmax.f.x": {"best_tightness": 1 / 3, "improved_pairs": 12}}
    write_json(tmp_path / folder.RESULT, {"bounds": bounds})
    assert command.record(RUNS[0], tmp_path) == {
        "date": "2026-01-02",
        "commit": "012345678",
        "numbers": {"softmax.f.x": 0.333333, "softmax.f.x, pairs": 12.0},
    }


def test_check_finds_a_page_that_differs(tmp_path, monkeypatch, capsys):
    stale = tmp_path / "papers.md"
    stale.write_text("old", encoding="utf-8")
    monkeypatch.setattr(command, "PAGE", stale)
    assert command.main(["--check"]) == 1
    assert "run python -m experiments.papers" in capsys.readouterr().err
