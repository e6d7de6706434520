"""The report seen in a real browser: at the widths of a desktop and of a phone nothing overflows or complains."""

import numpy as np
import pytest

from experiments import report
from experiments.runner.figures import canvas
from experiments.runner.record import Record
from experiments.runner.store import folder
from experiments.runner.store.encoding import write_json
from tests.browser import CHROMIUM, DESKTOP, PHONE, seen
from tests.experiments.test_past import run_folder
from tests.experiments.test_report import sweep_folder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a run with wide tables, of two runs, and of a sweep."""
    root = tmp_path_factory.mktemp("pages")
    for name in ("a", "b"):
        run = run_folder(root / name, {"loss": 0.25, "rate": 1e-30, "word": "x" * 100}, long="y" * 300, name=name)
        record = Record(run)
        columns = [f"a_rather_long_name_{i}" for i in range(14)]
        record.table("wide", columns, np.random.default_rng(0).normal(size=(50, 14)).tolist(), caption="Numbers.")
        record.figure("figure", canvas(1, 3, width=5.0)[0], caption="Three empty panels, of no seed at all.")
        record.close()
        write_json(run / folder.ENVIRONMENT, [{"commit": "c" * 40, "command": ["z" * 200]}])
    sweep_folder(root / "s", [0.1, 0.2, 0.01, 0.02, None])
    assert report.main([str(root / "a")]) == 0
    assert report.main([str(root / "a"), str(root / "b")]) == 0
    assert report.main([str(root / "s")]) == 0
    return {"run": root / "a" / "report.html", "two": root / "report.html", "sweep": root / "s" / "report.html"}


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["run", "two", "sweep"])
def test_nothing_overflows_and_the_console_is_silent(pages, tmp_path, name, width):
    page = seen(tmp_path, pages[name], width)
    assert page.content <= width
    assert page.outside == 0
    assert page.images == {"run": 1, "two": 2, "sweep": 1}[name]
    assert page.console == []


def test_the_look_would_see_an_overflow_and_a_complaint(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<!doctype html><div style="width:900px">x</div><script>console.error("bad")</script>')
    bad = seen(tmp_path, page, PHONE)
    assert bad.content > PHONE
    assert bad.outside > 0
    assert bad.console
