"""The entry points run in the test process, in a fresh folder, without the user's compilation cache."""

from pathlib import Path

import jax
import matplotlib
import pytest

from experiments import run

SELFCHECK = str(Path(__file__).parents[2] / "configs" / "selfcheck.py") + ":smoke"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNREG_COMPILATION_CACHE", "off")
    with jax.numpy_dtype_promotion("standard"):  # as users run it: optax.adam is not clean under "strict"
        yield


@pytest.fixture
def start():
    """Run the self-check with more arguments; the exit code."""

    def start(*arguments, workdir="run"):
        return run.main(["--config", SELFCHECK, "--workdir", str(workdir), *map(str, arguments)])

    return start
