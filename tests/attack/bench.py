"""What an attack works with: an undisturbed run, copies of an interrupted one, and commands whose end is recorded."""

import contextlib
import io
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from experiments import run
from experiments.runner.record import Record
from experiments.runner.session import Session
from experiments.runner.store import folder
from tests.experiments import torture

CONFIG = str(Path(__file__).parents[2] / "configs" / "selfcheck.py") + ":smoke"
CODES = (0, 1, 2, 74, 75)  # those that docs/guides/runs.md names
LONGEST_SECONDS = 120


class Attempt(NamedTuple):
    """One thing tried: what kind it is, which, and a function that says what was lost, or nothing."""

    kind: str
    label: str
    run: Callable[[Path], str | None]


class Ended(NamedTuple):
    """How a command ended: its exit code, or None with what it raised in `raised`; what it printed."""

    code: int | None
    out: str
    err: str
    raised: str = ""

    def wrong(self, *codes: int) -> str | None:
        """What is wrong with this end, if it is none of `codes`, or said in other than one line."""
        if self.raised:
            return self.raised.strip().splitlines()[-1]
        if self.code not in (codes or CODES):
            return f"exit code {self.code}: {self.err.strip()[-200:]}"
        if "Traceback" in self.out + self.err:
            return "a traceback"
        if self.code == 2 and not self.err.strip():
            return "refused without a word"
        return None


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Inside, a run is asked to stop as soon as it has logged `step`."""
    reached: list[int] = []
    log = Record.log

    def log_step(self: Record, at: int, **scalars: Any) -> None:
        reached.append(at)
        log(self, at, **scalars)

    stop = property(lambda self: bool(reached) and reached[-1] == step)
    with mock.patch.object(Session, "should_stop", stop), mock.patch.object(Record, "log", log_step):
        yield


class Overtime(Exception):
    """A command took longer than `LONGEST_SECONDS`."""


def ended(main: Callable[[Sequence[str]], int], *arguments: str) -> Ended:
    """Call a command's `main` in this process and record its end."""

    def late(*_: Any) -> None:
        raise Overtime(f"no end after {LONGEST_SECONDS} s")

    out, err, code, raised = io.StringIO(), io.StringIO(), None, ""
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST_SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except SystemExit as stop:  # argparse
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        raised = traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Ended(code, out.getvalue(), err.getvalue(), raised)


class Bench:
    """The undisturbed run, the interrupted one with checkpoints of steps 60, 80 and 100, and a finished one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole, self.interrupted = root / "whole", root / "interrupted"
        assert self.start(self.whole).code == 0
        with stopped_at(100):
            assert self.start(self.interrupted, "--checkpoint-seconds=0").code == 75

    def start(self, workdir: Path, *flags: str) -> Ended:
        """`experiments.run` of the self-check in `workdir`."""
        return ended(run.main, "--config", CONFIG, f"--workdir={workdir}", *flags)

    def copy(self, of: Path, place: Path) -> Path:
        """A copy of a run's folder, to be damaged."""
        return Path(shutil.copytree(of, place / "run", symlinks=True))

    def same(self, workdir: Path) -> str | None:
        """What differs from the undisturbed run, if anything does."""
        try:
            result, metrics = torture.same(self.whole, workdir)
        except (OSError, ValueError) as error:
            return f"not readable: {error}"
        return None if result and metrics else f"result {result}, metrics {metrics}"

    def goes_on(self, workdir: Path) -> str | None:
        """The same command finishes the run, with the numbers of an undisturbed one."""
        return self.start(workdir).wrong(0) or self.same(workdir)

    def goes_on_or_is_redone(self, workdir: Path) -> str | None:
        """The same, or it is refused by a line that names `--force`, which then redoes it and keeps what was there."""
        first = self.start(workdir)
        if first.code != 2:
            return first.wrong(0) or self.same(workdir)
        if "--force" not in first.err:
            return f"refused without a way on: {first.err.strip()}"
        kept = {path.name for path in workdir.iterdir()} - {folder.LOCK}
        wrong = self.start(workdir, "--force").wrong(0) or self.same(workdir)
        aside = {path.name for path in (workdir / ".replaced").glob("*/*")}
        return wrong or (None if aside >= kept - {".replaced"} else f"not kept: {sorted(kept - aside)}")


def snapshot(path: Path) -> dict[Path, bytes]:
    """The content of every file below `path`."""
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
