"""What breaks outside of us: disks, files, clocks. Each gives one clear line, and nothing finished is lost."""

import os
import resource
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments import collect, report
from experiments.runner.command import EXIT_FILES, EXIT_USAGE
from experiments.runner.record import Record
from experiments.runner.session import Session
from experiments.runner.signals import EXIT_PREEMPTED
from experiments.runner.store import folder, lock
from experiments.runner.store.checkpoints import CheckpointError, Checkpoints
from experiments.runner.store.encoding import read_json, read_lines
from tests.experiments import torture


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


def largest(path):
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


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


@pytest.mark.parametrize("limit", [2000, 4000, 8000, 12000])
def test_a_disk_that_is_full_at_a_checkpoint_is_named_as_such(start, capsys, limit):
    """The same limit, while the metrics are still short: orbax or tensorstore meets it first, each in its own way."""
    large = ("--config.d=3000", "--config.steps=40")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code = start("--checkpoint-seconds=0", *large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == EXIT_FILES
    error = capsys.readouterr().err
    assert error.startswith("error: File too large: ")
    assert "checkpoints" in error
    assert error.count("\n") == 1
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


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(start, interrupted, capsys, damage):
    victim = largest(interrupted / "checkpoints" / "100" / "state")
    content = bytearray(victim.read_bytes())
    if damage == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        for i in range(len(content) // 4, len(content) // 4 * 3):
            content[i] ^= 0xFF
        victim.write_bytes(content)
    else:
        shutil.rmtree(victim.parent)
    assert start() == 0
    out = capsys.readouterr().out
    assert "a damaged checkpoint was passed over (step 100" in out
    assert "resumed at step 80" in out
    assert torture.same(Path("whole"), interrupted) == (True, True)


def test_only_damaged_checkpoints_are_an_error_and_no_silent_restart(start, interrupted, capsys):
    for step in ("60", "80", "100"):
        shutil.rmtree(interrupted / "checkpoints" / step / "state")
    assert start() == EXIT_USAGE
    error = capsys.readouterr().err
    assert "no checkpoint in" in error
    assert "--force starts the run anew" in error
    assert start("--force") == 0


def test_a_half_written_checkpoint_is_not_believed(start, interrupted):
    shutil.copytree(interrupted / "checkpoints" / "100", interrupted / "checkpoints" / "120.orbax-checkpoint-tmp")
    assert start() == 0
    assert torture.same(Path("whole"), interrupted) == (True, True)


def test_a_checkpoint_of_other_code_is_refused(tmp_path):
    record = Record(tmp_path, session=Session(checkpoint_seconds=0))
    record.save(5, {"x": jnp.ones(3)})
    record.close()
    again = Record(tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="damaged or the code has changed"):
        again.restore({"x": jnp.ones(4)})
    again.close()


def test_a_torn_last_line_of_the_metrics_is_dropped(start, interrupted):
    with open(interrupted / folder.METRICS, "ab") as stream:
        stream.write(b'{"step": 120, "lo')
    assert [line["step"] for line in read_lines(interrupted / folder.METRICS)] == [20, 40, 60, 80, 100]
    assert start() == 0
    assert torture.same(Path("whole"), interrupted) == (True, True)


def test_metrics_shorter_than_the_newest_checkpoint_take_the_one_before(start, interrupted, capsys):
    """As after a power cut: the lines of step 100 never reached the disk."""
    path = interrupted / folder.METRICS
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 5])
    assert start() == 0
    out = capsys.readouterr().out
    assert "passed over (step 100: metrics.jsonl is shorter" in out
    assert "resumed at step 80" in out
    assert torture.same(Path("whole"), interrupted) == (True, True)


def test_metrics_are_on_the_disk_before_the_checkpoint_that_counts_on_them(tmp_path, monkeypatch):
    record = Record(tmp_path, session=Session(checkpoint_seconds=0))
    order, fsync, save = [], os.fsync, Checkpoints.save
    metrics = os.stat(tmp_path / folder.METRICS).st_ino

    def watch_fsync(handle):
        if os.fstat(handle).st_ino == metrics:
            order.append("metrics")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Checkpoints, "save", lambda *a: order.append("checkpoint") or save(*a))
    record.log(1, loss=1.0)
    record.save(1, {"x": jnp.ones(3)})
    record.close()
    assert order == ["metrics", "checkpoint"]


def test_a_checkpoint_knows_its_own_step(start, interrupted, capsys):
    os.rename(interrupted / "checkpoints" / "80", interrupted / "checkpoints" / "180")
    assert start() == 0
    out = capsys.readouterr().out
    assert "step 180: it was saved at step 80 and renamed" in out
    assert "resumed at step 100" in out
    assert torture.same(Path("whole"), interrupted) == (True, True)


def test_metrics_shorter_than_every_checkpoint_are_an_error(start, interrupted, capsys):
    path = interrupted / folder.METRICS
    path.write_bytes(path.read_bytes()[:50])
    assert start() == EXIT_USAGE
    assert "metrics.jsonl is shorter than its checkpoint says" in capsys.readouterr().err


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
