"""Tasks in one vmapped program: the same numbers as alone, each in its own folder, resumed bit for bit."""

import os
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner import tasks
from experiments.runner.batch import Records
from experiments.runner.config import resolve
from experiments.runner.journal import Journal
from experiments.runner.record import Record
from experiments.runner.signals import EXIT_PREEMPTED
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json, read_lines
from tests.experiments import torture
from tests.experiments.conftest import SELFCHECK
from tests.experiments.test_sweep import CONFIG, work


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(CONFIG.replace("SWEEP", "[{'seed': s, 'learning_rate': r} for s in (0, 1) for r in (0.1, 0.2)]"))
    return str(path)


def test_a_batch_gives_the_numbers_of_its_members(spec, tmp_path):
    _, alone = work(spec, tmp_path / "alone")
    code, listed = work(spec, tmp_path / "batch", batch=4)
    assert code == 0
    for one, other in zip(alone, listed, strict=True):
        expected, got = (read_json(t.workdir / folder.RESULT) for t in (one, other))
        # 60 float32 Adam steps: rounding differs by batch shape, and Adam's division amplifies it a little.
        np.testing.assert_allclose(got["x"], expected["x"], rtol=0, atol=300 * np.finfo(np.float32).eps)
        losses = [[line["loss"] for line in read_lines(t.workdir / folder.METRICS)] for t in (one, other)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def _kill_after(monkeypatch, step, number=signal.SIGTERM):
    log = Records.log

    def log_and_signal(self, at, **scalars):
        log(self, at, **scalars)
        if at == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Records, "log", log_and_signal)
    return lambda: monkeypatch.setattr(Records, "log", log)


def test_a_preempted_batch_goes_on_bit_for_bit(spec, tmp_path, monkeypatch):
    _, whole = work(spec, tmp_path / "whole", batch=4)
    undo = _kill_after(monkeypatch, 40)
    assert work(spec, tmp_path / "b", batch=4)[0] == EXIT_PREEMPTED
    undo()
    code, listed = work(spec, tmp_path / "b", batch=4)
    assert code == 0
    assert all(torture.same(a.workdir, b.workdir) == (True, True) for a, b in zip(whole, listed, strict=True))


def test_a_batch_that_died_between_two_members_goes_back_to_the_common_step(spec, tmp_path, monkeypatch):
    _, whole = work(spec, tmp_path / "whole", batch=4)
    checkpoint, count = Journal.checkpoint, iter(range(100))

    def checkpoint_or_die(self, step, state):
        if next(count) == 6:  # the third member of the second round
            raise KeyboardInterrupt
        checkpoint(self, step, state)

    monkeypatch.setattr(Journal, "checkpoint", checkpoint_or_die)
    with pytest.raises(KeyboardInterrupt):
        work(spec, tmp_path / "b", batch=4, checkpoint_seconds=0.0)
    monkeypatch.setattr(Journal, "checkpoint", checkpoint)
    code, listed = work(spec, tmp_path / "b", batch=4)
    assert code == 0
    assert all(torture.same(a.workdir, b.workdir) == (True, True) for a, b in zip(whole, listed, strict=True))


def test_a_lost_result_is_computed_with_the_same_batch_and_the_others_stay(spec, tmp_path):
    _, listed = work(spec, tmp_path / "b", batch=4)
    lost = listed[2].workdir / folder.RESULT
    content = lost.read_bytes()
    lost.unlink()
    kept = {t.workdir / folder.RESULT: (t.workdir / folder.RESULT).stat().st_mtime_ns for t in listed[:2]}
    assert work(spec, tmp_path / "b", batch=4)[0] == 0
    assert lost.read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_result_lost_after_another_was_is_computed_without_losing_lines(spec, tmp_path, monkeypatch):
    """Finished members take part in the checkpoints of a batch; theirs must fit their own, longer, metrics."""
    _, whole = work(spec, tmp_path / "whole", batch=4)
    _, listed = work(spec, tmp_path / "b", batch=4)
    (listed[2].workdir / folder.RESULT).unlink()
    undo = _kill_after(monkeypatch, 40)
    assert work(spec, tmp_path / "b", batch=4)[0] == EXIT_PREEMPTED
    undo()
    assert len(read_lines(listed[0].workdir / folder.METRICS)) == 3
    (listed[0].workdir / folder.RESULT).unlink()
    assert work(spec, tmp_path / "b", batch=4)[0] == 0
    assert "resumed at step 40" in (listed[0].workdir / folder.LOG).read_text()
    assert all(torture.same(a.workdir, b.workdir) == (True, True) for a, b in zip(whole, listed, strict=True))


def test_a_batch_of_which_no_checkpoint_can_be_read_does_not_start_over_in_silence(spec, tmp_path, monkeypatch):
    undo = _kill_after(monkeypatch, 40)
    _, listed = work(spec, tmp_path / "b", batch=4)
    undo()
    shutil.rmtree(listed[1].workdir / "checkpoints" / "40" / "state")
    assert work(spec, tmp_path / "b", batch=4)[0] == 1
    assert "no checkpoint in" in tasks.status(listed[1]).detail


def test_only_tasks_that_agree_elsewhere_are_batched(tmp_path):
    def task(number, *flags):
        resolved = resolve(SELFCHECK, flags)
        return tasks.Task(number, {}, resolved, str(number), tmp_path / str(number))

    listed = [
        task(0, "--config.seed=1"),
        task(1, "--config.seed=2", "--config.d=3"),
        task(2, "--config.seed=3"),
        task(3, "--config.seed=4"),
    ]
    groups = tasks.batches(listed, ("seed", "learning_rate"), 2)
    assert [[t.number for t in group] for group in groups] == [[0, 2], [3], [1]]


def test_wrong_leading_axes_are_named(tmp_path):
    records = Records([Record(tmp_path), Record(tmp_path)])
    with pytest.raises(ValueError, match=r"loss=.* has shape \(3,\); it must be \(2,\)"):
        records.log(0, loss=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"state\['x'\] has shape \(3,\)"):
        records.restore({"x": jnp.zeros(3)})
