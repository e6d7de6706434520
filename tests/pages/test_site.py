"""The site: what its parts make of our text, and (slow) that it builds without a warning and loads nothing."""

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.browser import CHROMIUM, DESKTOP, PHONE, dom, seen
from tests.contract.source import ROOT

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")


def part(name):
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_docstring_becomes_markdown():
    text = """B̃ such that it holds.

Args:
    p, q: points. loss: one of `LOSSES`: the first
        is `normalized`.

Returns:
    B̃, shaped like B.

Precision: a few eps.
Source: derived.

Example:
    >>> [0.0][0]
    0.0
"""
    assert (
        part("docstrings").markdown(text, {"p", "q", "loss"})
        == """B̃ such that it holds.

**Args**

* `p`, `q`: points.
* `loss`: one of `LOSSES`: the first is `normalized`.

**Returns:** B̃, shaped like B.

**Precision:** a few eps.

**Source:** derived.

```python
>>> [0.0][0]
0.0
```"""
    )


def test_links_and_names_lead_to_pages_of_the_site():
    outside = part("outside")

    class Files:
        def get_file_from_path(self, uri):
            return None if uri == "source/tests/gone.py.md" else uri

    class Page:
        class file:
            src_uri = "guides/runs.md"

    text = "[a](../../CONTRIBUTING.md#layers) [b](sweeps.md) `configs/selfcheck.py:slow` `tests/gone.py`\n\n"
    text += "    `configs/x.py`\n"
    changed = outside.on_page_markdown(text, Page, None, Files())
    assert changed == (
        "[a](../contributing.md#layers) [b](sweeps.md) "
        "[`configs/selfcheck.py:slow`](../source/configs/selfcheck.py.md) `tests/gone.py`\n\n    `configs/x.py`\n"
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_outside(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(https?:[^\"' >]+)")
    assert {url for page in pages for url in loaded.findall(page.read_text(encoding="utf-8"))} == set()


@pytest.mark.slow
def test_every_public_name_has_an_entry(site):
    import attnreg.fit
    import attnreg.objectives
    import attnreg.problems
    import attnreg.solvers

    for package in (attnreg.fit, attnreg.objectives, attnreg.problems, attnreg.solvers):
        text = (site / "reference" / f"{package.__name__}.html").read_text(encoding="utf-8")
        headings = " ".join(re.findall(r"<h3[^>]*>(.*?)</h3>", text, flags=re.DOTALL))
        shown = set(re.findall(r"[\w.]+", re.sub(r"<[^>]*>", " ", headings)))
        assert set(package.__all__) <= shown, set(package.__all__) - shown


in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")


@pytest.mark.slow
@in_a_browser
@pytest.mark.parametrize(
    "page", ["index", "reference/attnreg.fit", "theory/closed_forms", "notebooks/gradient_descent"]
)
def test_a_browser_shows_a_page_from_its_file_without_a_complaint(site, page):
    assert "<h1" in dom((site / f"{page}.html").as_uri())


@pytest.mark.slow
@in_a_browser
def test_the_search_finds_a_name_without_a_server(site):
    assert "md-search-result__item" in dom((site / "index.html").as_uri() + "?q=fit_attention")


@pytest.mark.slow
@in_a_browser
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("page", ["index", "guides/start", "guides/runs", "guides/benchmarks", "claims"])
def test_nothing_reaches_out_of_a_page(site, tmp_path, page, width):
    """Wide tables and blocks of code scroll by themselves; the page does not."""
    found = seen(tmp_path, site / f"{page}.html", width)
    assert found.content <= width
    assert found.outside == 0
    assert found.console == []
