"""What breaks outside of us: disks, files, clocks. Each gives one clear line, and nothing finished is lost."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import collect, report
from experiments.runner.command import EXIT_FILES, EXIT_USAGE
from experiments.runner.store import folder, lock
from experiments.runner.store.encoding import read_json, read_lines
from tests.experiments import torture
from tests.experiments.conftest import SELFCHECK

ROOT = Path(__file__).parents[2]


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(start, capsys):
    """A real limit of the kernel on the size of files: a write is cut short, the next one fails."""
    assert start(workdir="whole") == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        code = start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == EXIT_FILES == 74
    assert "File too large" in capsys.readouterr().err
    assert not Path("run/result.json").exists()
    assert start() == 0
    assert torture.same(Path("whole"), Path("run")) == (True, True)


@pytest.mark.parametrize("limit", [2000, *(pytest.param(size, marks=pytest.mark.slow) for size in (4000, 8000, 12000))])
def test_a_disk_that_is_full_at_a_checkpoint_is_named_as_such(start, limit):
    """The same limit, while the metrics are still short: orbax or tensorstore meets it first, each in its own way.

    In a process of its own: tensorstore's writers go on after the failure and speak to a loop that orbax has closed.
    """
    large = ("--config.d=3000", "--config.steps=40")
    limited = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    limited += "runpy.run_module('experiments.run', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", limited, "--config", SELFCHECK, "--workdir", str(Path("run").resolve())]
    done = subprocess.run(
        [*command, "--checkpoint-seconds=0", *large], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_FILES, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: File too large: ")
    assert "checkpoints" in errors[0]
    lock = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "--git-path", "index.lock"], text=True).strip()
    assert not (ROOT / lock).exists(), "the record of the environment left a lock in the repository"
    assert start(*large) == 0


@pytest.mark.parametrize("command", [collect, report])
def test_no_space_for_a_table_or_a_page(start, monkeypatch, capsys, command):
    assert start("--config.steps=20") == 0

    def fail(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", fail)
    capsys.readouterr()
    assert command.main(["run"]) == EXIT_FILES
    error = capsys.readouterr().err
    assert error.startswith("error: No space left on device: run/")
    assert error.count("\n") == 1


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5])
def test_no_space_at_any_whole_file_write(start, monkeypatch, capsys, after):
    """config, environment, figure, arrays, table, result: whichever cannot be written, the run can be repeated."""
    replace, count = os.replace, iter(range(100))

    def fail(source, target):
        if str(target).startswith("run") and next(count) == after:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    assert start("--config.steps=20") == EXIT_FILES
    error = capsys.readouterr().err
    assert "No space left on device: run/" in error
    assert not list(Path("run").rglob("*.tmp"))
    monkeypatch.setattr(os, "replace", replace)
    assert start("--config.steps=20") == 0
    assert read_json(Path("run/result.json"))["steps"] == 20


def test_a_read_only_folder_is_named(start, monkeypatch, capsys):
    """The superuser may write anywhere, so the kernel's answer is put in its mouth."""
    opened = os.open

    def read_only(path, flags, *more, **named):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system", os.fspath(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    assert start() == EXIT_FILES
    assert "Read-only file system: run/.lock" in capsys.readouterr().err


def test_a_finished_run_is_shown_from_a_read_only_folder(start, monkeypatch, capsys):
    assert start("--config.steps=20") == 0
    monkeypatch.setattr(lock.Lock, "__init__", lambda *_: pytest.fail("took the lock"))
    assert start("--config.steps=20") == 0
    assert "already holds this run" in capsys.readouterr().out


@pytest.mark.parametrize("name", [folder.CONFIG, folder.RESULT])
@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"\xff\xfe\x00", b"[1]", b"null", b"{}"])
def test_a_damaged_config_or_result_is_named_and_force_redoes(start, capsys, name, content):
    assert start("--config.steps=20") == 0
    (Path("run") / name).write_bytes(content)
    assert start("--config.steps=20") == EXIT_USAGE
    assert "--force" in capsys.readouterr().err
    assert start("--config.steps=20", "--force") == 0


def test_a_damaged_environment_loses_only_itself(start, interrupted):
    (interrupted / folder.ENVIRONMENT).write_bytes(b"[{")
    assert start() == 0
    sessions = read_json(interrupted / folder.ENVIRONMENT)
    assert "lost" in sessions[0]
    assert torture.same(Path("whole"), interrupted) == (True, True)


def test_a_clock_that_jumps_changes_no_result_and_no_time(start, interrupted, monkeypatch):
    """Wall-clock time runs backwards by years; durations come from the monotonic clock."""
    now, count = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now() - 1e8 * (next(count) % 3))
    assert start() == 0
    assert torture.same(Path("whole"), interrupted) == (True, True)
    times = [line["time"] for line in read_lines(interrupted / folder.METRICS)]
    assert times == sorted(times)
    assert times[-1] < 600
