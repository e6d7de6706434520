"""The entry points run in the test process, in a fresh folder, without the user's compilation cache."""

from pathlib import Path

import jax
import matplotlib
import pytest

from experiments import run
from experiments.runner.record import Record
from experiments.runner.session import Session
from experiments.runner.signals import EXIT_PREEMPTED

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


@pytest.fixture
def interrupted(start, monkeypatch):
    """A run stopped at step 100 with checkpoints of steps 60, 80 and 100 in `run`, and the whole one in `whole`."""
    assert start(workdir="whole") == 0
    with monkeypatch.context() as patch:
        reached = []
        patch.setattr(Session, "should_stop", property(lambda self: reached[-1] == 100))
        log = Record.log

        def log_step(self, step, **scalars):
            reached.append(step)
            log(self, step, **scalars)

        patch.setattr(Record, "log", log_step)
        assert start("--checkpoint-seconds=0") == EXIT_PREEMPTED
    assert sorted(p.name for p in Path("run/checkpoints").iterdir()) == ["100", "60", "80"]
    return Path("run")
