"""What a terminal shows: no number is folded at 80 columns, pipes and NO_COLOR are plain, a bar on long work."""

import io

import pytest

from experiments.runner import screen
from experiments.runner.progress import Bar
from experiments.runner.record import Record
from experiments.runner.screen import console
from experiments.runner.session import Session
from experiments.runner.sheet import sheet
from experiments.runner.store import folder

NAMES = [f"column_{i}" for i in range(12)]


def printed(table, width):
    stream = io.StringIO()
    place = console(stream)
    place.width = width
    place.print(table)
    return stream.getvalue()


def terminal(monkeypatch, name="xterm", width=80):
    monkeypatch.setenv("TERM", name)
    stream = io.StringIO()
    made = console(stream)
    made._force_terminal, made.is_interactive, made.width = True, True, width
    return made, stream


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_no_number_is_folded_at_80_columns(rows):
    values = [[1.234567e-5 * (i + 1) * (j + 3) for i in range(12)] for j in range(rows)]
    out = printed(sheet("t", NAMES, values), 80)
    assert max(map(len, out.splitlines())) <= 80
    shown = [name for name in NAMES if f" {name} " in out]
    assert {"column_0", *NAMES[: len(shown)]} == set(shown)
    assert len(shown) == 12 if rows < 9 else 2 < len(shown) < 12
    for row in values:
        assert all(f" {row[NAMES.index(name)]:.6g} " in out for name in shown)
    assert ("not shown: " in out) == (rows == 9)


def test_what_to_keep_stays_and_words_give_way_first():
    values = [[1.5] * 12 for _ in range(20)]
    out = printed(sheet("t", NAMES, values, keep=("column_11",)), 40)
    assert " column_11 " in out.splitlines()[2]
    out = printed(sheet("t", ("what", "where", "n"), [("a few words " * 6, "x" * 70, 123456.5)] * 9), 80)
    assert out.count("123456") == 9  # six digits
    assert max(map(len, out.splitlines())) <= 80
    assert "not shown" not in out


def test_a_pipe_and_no_color_get_no_escape_codes(monkeypatch):
    assert "\x1b" not in printed(sheet("title", ("a",), [(1.0,)]), 80)
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    screen._Screen(file=stream, force_terminal=True, color_system=None).print(sheet("title", ("a",), [(1.0,)]))
    assert "\x1b" not in stream.getvalue()
    assert console(stream).color_system is None


def test_a_bar_on_a_terminal_and_every_line_in_the_log(tmp_path, monkeypatch):
    place, stream = terminal(monkeypatch)
    log = io.StringIO()
    session = Session(screen=place, log=console(log))
    (tmp_path / "run").mkdir()
    record = Record(tmp_path / "run", session=session)
    session.stage("compiling")
    record.expect(10)
    for step in range(1, 11):
        record.log(step, loss=1.0 / step)
        session._bar._drawn = -1e9  # as if time had passed
    record.say("half way")
    record.close()
    out = stream.getvalue()
    assert "compiling …" in out
    assert "10/10" in out
    assert "half way" in out
    assert "step 10/10  loss 0.1" in log.getvalue()
    assert "\x1b" not in log.getvalue()
    assert session._bar is None


@pytest.mark.parametrize("dumb", [False, True])
def test_a_stage_is_said_once_and_lines_replace_the_bar_elsewhere(dumb, monkeypatch):
    place, stream = terminal(monkeypatch, "dumb")
    session = Session(screen=place if dumb else console(stream))
    session.stage("drawing")
    session.stage("drawing")
    session.progress(3, None, "loss 1")
    session.close()
    assert stream.getvalue().splitlines() == ["drawing …", "step 3  loss 1"]


def test_the_bar_says_the_time_that_is_left(monkeypatch):
    place, stream = terminal(monkeypatch)
    bar = Bar(place)
    for step in (1, 2, 3):
        bar._drawn = -1e9
        bar.show(step, 4, f"step {step}")
    bar.close()
    assert "left" in stream.getvalue()
    assert "3/4" in stream.getvalue()


def test_figures_and_captions_are_kept_as_asked(tmp_path):
    import matplotlib.pyplot as plt

    (tmp_path / "run").mkdir()
    record = Record(tmp_path / "run", figures=("svg", "pdf"))
    record.figure("one", plt.figure(), caption="What is drawn.")
    record.table("two", ("a",), [(1,)])
    record.close()
    kept = {path.name for path in (tmp_path / "run" / folder.FIGURES).iterdir()}
    assert kept == {"one.png", "one.svg", "one.pdf"}
    captions = (tmp_path / "run" / folder.CAPTIONS).read_text()
    assert "What is drawn." in captions
    assert captions.index("figures/one") < captions.index("tables/two")


def test_ages_are_said_in_their_largest_unit():
    assert [screen.age(s) for s in (3, 90, 7300, 200000)] == ["3 s", "2 min", "2 h", "2 d"]
