"""Checkpoints and metrics that are damaged, torn, renamed or cut short: what is whole is used, and said."""

import os
import shutil
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments.runner.command import EXIT_USAGE
from experiments.runner.record import Record
from experiments.runner.session import Session
from experiments.runner.store import folder
from experiments.runner.store.checkpoints import CheckpointError, Checkpoints
from experiments.runner.store.encoding import read_lines
from tests.experiments import torture


def largest(path):
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


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


def test_a_damaged_checkpoint_says_one_thing_and_no_more(tmp_path, monkeypatch):
    """Of many arrays the first unreadable one ends the restore; what the others report later is not printed."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: printed.append(event.exc_value))
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: printed.append(error))
    state = {str(i): jnp.full(1000, i) for i in range(30)}
    saved = Checkpoints(tmp_path)
    saved.save(1, state, {})
    victim = tmp_path / "1" / "state" / "manifest.ocdbt"
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    for _ in range(8):  # which array is read first is a matter of threads
        with pytest.raises(CheckpointError, match="step 1"):
            saved.read(1, state)
    time.sleep(0.2)
    assert printed == []
    # Of what nobody awaits, only orbax's own coroutines are left out.
    for where in ("site-packages/orbax/reading.py", "experiments/run.py"):
        made: dict = {}
        exec(compile("async def read(): pass", where, "exec"), made)
        coroutine = made["read"]()
        sys.unraisablehook(type("Event", (), {"exc_value": ValueError(where), "object": coroutine}))  # pyright: ignore[reportArgumentType]
        coroutine.close()
    assert [str(error) for error in printed] == ["experiments/run.py"]
    # After a failed save tensorstore's threads print by way of the other hook.
    for error in (RuntimeError("Event loop is closed"), RuntimeError("Event loop is open")):
        sys.excepthook(RuntimeError, error, None)
    assert [str(error) for error in printed[1:]] == ["Event loop is open"]


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
