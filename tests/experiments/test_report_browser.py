"""The report seen in a real browser: at the widths of a desktop and of a phone nothing overflows or complains."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments import report
from experiments.runner.figures import canvas
from experiments.runner.record import Record
from experiments.runner.store import folder
from experiments.runner.store.encoding import write_json
from tests.experiments.test_past import run_folder
from tests.experiments.test_report import sweep_folder

CHROMIUM = shutil.which("chromium")
WIDTHS = (1280, 390)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]

# The page forbids scripts, so another page looks into it; browsers allow that of files only when told.
FRAME = """<!doctype html><style>*{{margin:0;border:0}}</style>
<iframe id=f src="{page}" style="width:{width}px;height:3000px"></iframe><pre id=o></pre><script>
f.onload = () => {{
  const doc = f.contentDocument.documentElement
  const right = e => e.closest('.wide') ? 0 : e.getBoundingClientRect().right
  const out = [...doc.querySelectorAll('*')].filter(e => right(e) > {width} + 1)
  o.textContent = `width ${{doc.scrollWidth}} outside ${{out.length}} images ${{f.contentDocument.images.length}}`
}}
</script>"""


def seen(tmp_path, page, width):
    """(width of the content, elements that reach out of the page, images), and what the console said."""
    frame = tmp_path / f"frame-{width}.html"
    frame.write_text(FRAME.format(page=page.absolute().as_uri(), width=width))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", f"--window-size={width},3000"]
    command = [CHROMIUM, *flags, "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r"width (\d+) outside (\d+) images (\d+)", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return tuple(map(int, found.groups())), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


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


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["run", "two", "sweep"])
def test_nothing_overflows_and_the_console_is_silent(pages, tmp_path, name, width):
    (content, outside, images), console = seen(tmp_path, pages[name], width)
    assert content <= width
    assert outside == 0
    assert images == {"run": 1, "two": 2, "sweep": 1}[name]
    assert console == []


def test_the_look_would_see_an_overflow_and_a_complaint(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<!doctype html><div style="width:900px">x</div><script>console.error("bad")</script>')
    (content, outside, _), console = seen(tmp_path, page, 390)
    assert content > 390
    assert outside > 0
    assert console
