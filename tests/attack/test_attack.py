"""The attack runs, loses nothing here, and says so when something is lost."""

import random
from pathlib import Path

import jax
import pytest

from experiments.runner.store import folder
from tests.attack import damage, folders, fuzz
from tests.attack.__main__ import report
from tests.attack.bench import Attempt, Bench, Ended

KINDS = {
    "stale locks", "foreign folders", "links", "newlines",
    "damaged checkpoints", "cut metrics", "damaged results", "full disks", "fuzzed arguments", "fuzzed options",
}  # fmt: skip


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNREG_COMPILATION_CACHE", "off")
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    with jax.numpy_dtype_promotion("standard"):  # as users run it: optax.adam is not clean under "strict"
        yield Bench(tmp_path)


def test_one_attempt_of_each_kind_survives(bench, tmp_path, capsys):
    every = [a for part in (folders, damage, fuzz) for a in part.attempts(bench, 2, 0)]
    assert {attempt.kind for attempt in every} == KINDS
    draw = random.Random(1)
    chosen = [draw.choice([a for a in every if a.kind == kind]) for kind in sorted(KINDS)]
    assert report(tmp_path, chosen) == 0
    assert f"│ all                 │ {len(KINDS):>5} │ {len(KINDS):>8} │    0 │" in capsys.readouterr().out


def test_what_is_lost_is_counted_and_named(bench, tmp_path, capsys):
    def changed(place: Path) -> str | None:
        workdir = bench.copy(bench.whole, place)
        content = (workdir / folder.METRICS).read_text()
        (workdir / folder.METRICS).write_text(content.replace("0", "1", 1))
        return bench.same(workdir)

    attempts = [Attempt("kept", "nothing", lambda place: None), Attempt("changed", "a digit", changed)]
    assert report(tmp_path, attempts) == 1
    out = capsys.readouterr().out
    assert "result True, metrics False" in out or "not readable" in out
    assert "│ all     │     2 │        1 │    1 │" in out


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (Ended(None, "", "", "Traceback\nKeyError: 'x'"), "KeyError: 'x'"),
        (Ended(3, "", "odd"), "exit code 3: odd"),
        (Ended(1, "Traceback (most recent call last)", ""), "a traceback"),
        (Ended(2, "", ""), "refused without a word"),
        (Ended(2, "", "error: x"), None),
    ],
)
def test_an_end_that_no_guide_names_is_wrong(end, said):
    assert end.wrong() == said
