"""The notebooks run from top to bottom, in a kernel of their own, and keep small output.

After a change: `jupyter execute --inplace docs/notebooks/*.ipynb`, which needs the extra docs.
"""

import re

import pytest

from tests.contract.source import ROOT

nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[docs]'")
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
BYTES = 200_000
# A number that each prints: where it stands, and what it must be below.
PRINTED = {
    "fit_your_own_head": (r"has not seen: (\S+)", 1e-6),
    "gradient_descent": (r"relative distance of the weights: (\S+)", 0.1),
}


def notebook_test(test):
    return pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)(test)


def check(path, cells):
    """No cell failed, and the number that the notebook is about is small."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert all(output.output_type != "error" for output in outputs)
    text = "".join(output.get("text", "") for output in outputs)
    pattern, most = PRINTED[path.stem]
    (number,) = re.findall(pattern, text)
    assert float(number) < most


@notebook_test
def test_the_output_that_is_kept_is_whole_and_small(path):
    cells = nbformat.read(path, as_version=4).cells
    assert path.stat().st_size < BYTES
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # run once, in order
    check(path, cells)


@pytest.mark.slow
@notebook_test
def test_a_notebook_runs(path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")

    # The kernel is a user's: not the settings that tests/conftest.py gives this process.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(found, timeout=900, kernel_name="python3").execute()
    check(path, found.cells)
