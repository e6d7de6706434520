"""The pages of claims say what is recorded, and recorded is what runs return."""

import re

import numpy as np
import pytest

from experiments.claims import __main__ as command
from experiments.claims import pages, reading
from experiments.claims.claim import Claim, Section
from experiments.claims.registry import HEADLINES, SECTIONS, claims
from experiments.runner.store import folder
from experiments.runner.store.encoding import write_json

NUMBERS = command.HERE / command.NUMBERS
RUNS = [section for section in SECTIONS if section.config]


def test_the_pages_are_what_is_recorded():
    for path, text in command.written().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m experiments.claims"


def test_every_claim_has_one_number_and_every_number_a_claim():
    names = [claim.name for section in SECTIONS for claim in section.claims]
    assert sorted(names) == sorted(set(names)) == sorted(reading.load(NUMBERS))
    assert {name for row in HEADLINES for name in (row.ours, row.other) if name} <= set(names)
    for number in reading.load(NUMBERS).values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", number.date)
        assert re.fullmatch(r"([0-9a-f]{9}\+?)?", number.commit)


@pytest.mark.parametrize("section", RUNS, ids=lambda section: section.title)
def test_every_command_names_a_config_and_fields_that_exist(section, tmp_path):
    assert command.workdir_of(section, tmp_path).parent == tmp_path
    assert any(claim.path for claim in section.claims)


def test_a_number_that_changes_makes_the_page_differ(monkeypatch):
    numbers = reading.load(NUMBERS)
    before = pages.page(SECTIONS, numbers)
    numbers["head_loss"] = numbers["head_loss"]._replace(value=0.5)
    after = pages.page(SECTIONS, numbers)
    old, new = (next(line for line in text.splitlines() if line.startswith("| loss |")) for text in (before, after))
    assert "| 0.5 | **missed** |" in new
    assert "| met |" in old


@pytest.fixture
def finished(tmp_path):
    """A run's folder with seeds, rows and a session."""
    write_json(
        tmp_path / folder.ENVIRONMENT, [{"started": "2026-01-02T03:04:05", "commit": "0123456789ab", "dirty": True}]
    )
    arm = {"final": {"gd/cosine": [0.9, 0.8, 0.1]}, "groups": {"": [0, 1], "stuck": [2]}}
    write_json(
        tmp_path / folder.RESULT, {"arms": {"a": arm}, "rows": [{"n": 1, "t": 4.0}, {"n": 2, "t": 5.0}], "gb": 2e9}
    )
    return tmp_path


def test_numbers_are_read_with_their_commit_and_interval(finished):
    ratio = reading.of_run(Claim("t", "", "", "rows.[n=1].t"), finished)
    assert ratio == reading.Measured(4.0, date="2026-01-02", commit="012345678+")
    assert reading.of_run(Claim("g", "", "", "gb", factor=1e-9), finished).value == 2.0
    seeds = reading.of_run(Claim("c", "", "", "arms.a.final.gd/cosine", seeds="arms.a.groups."), finished)
    # Two seeds: the means of resamples are 0.8, 0.85 and 0.9, so the interval is the whole range.
    np.testing.assert_allclose([seeds.value, seeds.low, seeds.high], [0.85, 0.8, 0.9], rtol=1e-12)
    assert seeds.seeds == 2


@pytest.mark.parametrize(
    ("path", "words"),
    [("arms.b.final", "there is no 'b'; there are a"), ("rows.[n=3].t", r"\[n=3\] picks 0 rows of 2")],
)
def test_a_path_that_leads_nowhere_names_the_claim_and_what_there_is(finished, path, words):
    with pytest.raises(KeyError, match=f"claim 'x' in .*: .*{words}"):
        reading.of_run(Claim("x", "", "", path), finished)


def test_printed_numbers_are_the_largest_match():
    claim = Claim("d", "", "<=8", r"apart +([\d.]+)")
    found = reading.printed(claim, "a apart  1.50\nb apart 12.25\n", date="2026-01-02", commit="")
    assert found.value == 12.25
    with pytest.raises(KeyError, match=r"'d'.*is not in what the command printed"):
        reading.printed(claim, "nothing", date="", commit="")


def test_an_expectation_is_a_comparison():
    assert Claim("a", "", ">=2").met(2.0) is True
    assert Claim("a", "", "<=-0.5").met(-0.4) is False
    assert Claim("a", "").met(1.0) is None
    with pytest.raises(ValueError, match="claim 'a': expected is '>2'; it must be <=X or >=X"):
        Claim("a", "", ">2").limit()


def test_recorded_numbers_survive_the_file(tmp_path):
    numbers = {"a": reading.Measured(1e-8, at_most=True, date="2026-01-02"), "b": reading.Measured(2.0, 1.5, 2.5, 4)}
    reading.save(tmp_path / "n.json", numbers)
    assert reading.load(tmp_path / "n.json") == numbers


def test_a_finished_run_is_read_and_none_is_made(tmp_path, monkeypatch):
    """The folder is the one that `experiments.run` would choose; without `make` nothing is started."""
    section = Section("t", (Claim("error", "", "", "error"), Claim("unread", "")), "configs/selfcheck.py:smoke")
    assert command.measure(section, tmp_path, make=False) == {}
    workdir = command.workdir_of(section, tmp_path)
    assert workdir.name.startswith("selfcheck-smoke-")
    write_json(workdir / folder.RESULT, {"error": 0.5})
    write_json(workdir / folder.ENVIRONMENT, [{"started": "2026-01-02T03:04:05", "commit": None}])
    monkeypatch.setattr(command.subprocess, "run", lambda *a, **k: pytest.fail("a run was started"))
    found = command.measure(section, tmp_path, make=True)
    assert found == {"error": reading.Measured(0.5, date="2026-01-02")}


def test_a_quick_table_that_needs_what_is_not_there_is_said_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command.subprocess, "run", lambda *a, **k: pytest.fail("a run was started"))
    assert command.main(["--quick"]) == 2
    assert "pip install -e '.[test]'" in capsys.readouterr().err


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match=re.escape(pages.BEGIN)):
        pages.readme("# attnreg", HEADLINES, claims(), reading.load(NUMBERS))
