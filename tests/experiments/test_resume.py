"""A run that is stopped goes on bit for bit: parameters, optimiser, PRNG key, step, metrics."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import run
from experiments.runner.record import Record
from experiments.runner.session import Session
from experiments.runner.signals import EXIT_PREEMPTED, Stop
from experiments.runner.store.encoding import read_json, read_lines
from tests.experiments import torture


@pytest.fixture
def stop_at(monkeypatch):
    """Send a signal to this process while the run logs a given step."""

    def stop_at(step, number=signal.SIGTERM):
        log = Record.log

        def log_and_signal(self, at, **scalars):
            log(self, at, **scalars)
            if at == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Record, "log", log_and_signal)

    return stop_at


def at_once(workdir, **more):
    """A record that checkpoints at every `save`."""
    return Record(workdir, session=Session(checkpoint_seconds=0), **more)


def saved_steps(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").glob("*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_preemption_saves_and_the_same_command_goes_on(start, stop_at, capsys, number):
    assert start(workdir="whole") == 0
    stop_at(80, number)
    before = signal.getsignal(number)
    assert start() == EXIT_PREEMPTED == 75
    assert signal.getsignal(number) == before
    assert not Path("run/result.json").exists()
    stop_at(-1)
    capsys.readouterr()
    assert start() == 0
    assert "resumed at step 80" in capsys.readouterr().out
    assert torture.same(Path("whole"), Path("run")) == (True, True)
    assert len(read_json(Path("run/environment.json"))) == 2


def test_lines_logged_after_the_checkpoint_are_not_kept_twice(start, monkeypatch):
    assert start(workdir="whole") == 0
    only_at_60 = lambda self, journals, step, states: step == 60 and self.checkpoint(journals, step, states)  # noqa: E731
    monkeypatch.setattr(Session, "save", only_at_60)
    log = Record.log
    monkeypatch.setattr(Record, "log", _breaking_log(log, 120))
    assert start() == 1
    assert read_lines(Path("run/metrics.jsonl"))[-1]["step"] == 120
    monkeypatch.setattr(Record, "log", log)
    assert start() == 0
    assert torture.same(Path("whole"), Path("run")) == (True, True)


def _breaking_log(log, step):
    def breaking(self, at, **scalars):
        log(self, at, **scalars)
        if at == step:
            raise RuntimeError("broken on purpose")

    return breaking


def test_a_run_without_checkpoint_starts_its_metrics_anew(start, monkeypatch):
    log = Record.log
    monkeypatch.setattr(Record, "log", _breaking_log(log, 40))
    assert start() == 1
    monkeypatch.setattr(Record, "log", log)
    assert start() == 0
    assert [line["step"] for line in read_lines(Path("run/metrics.jsonl"))] == list(range(20, 201, 20))


def test_every_kind_of_state_comes_back_to_the_bit(tmp_path):
    parameters = {"w": jnp.asarray([[1e-300, -0.0], [np.pi, 1e300]]), "h": jnp.asarray([1.5], jnp.bfloat16)}
    state = {
        "parameters": parameters,
        "opt": optax.adamw(1e-3).init(parameters),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8), 3),
        "z": jnp.asarray([1 + 2j]),
        "count": 12345678901,
        "rate": 0.1,
        "empty": (),
        "flag": jnp.asarray(True),
    }
    record = at_once(tmp_path)
    record.save(5, state)
    record.close()
    blank = jax.tree.map(lambda leaf: leaf if isinstance(leaf, int | float) else jax.tree.map(_zero, leaf), state)
    again = Record(tmp_path, resume=True)
    step, found = again.restore(blank)
    again.close()
    assert step == 5
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for expected, got in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        assert _bytes(expected) == _bytes(got)
        assert getattr(expected, "dtype", type(expected)) == getattr(got, "dtype", type(got))


def _zero(leaf):
    return jax.random.clone(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.zeros_like(leaf)


def _bytes(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def test_a_bare_array_is_a_state(tmp_path):
    record = at_once(tmp_path)
    record.save(5, jnp.arange(3.0))
    record.close()
    again = Record(tmp_path, resume=True)
    step, found = again.restore(jnp.zeros(3))
    again.close()
    assert (step, found.tolist()) == (5, [0.0, 1.0, 2.0])


def test_a_run_that_goes_on_may_save_where_it_stopped(tmp_path):
    record = at_once(tmp_path)
    record.save(5, jnp.ones(2))
    record.close()
    again = at_once(tmp_path, resume=True)
    step, found = again.restore(jnp.zeros(2))
    again.save(step, found)
    assert saved_steps(tmp_path) == ["5"]
    again.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step", "compare"),
    [("reduced_head", 3, "()"), ("reduced_head", 7, "()"), ("quickstart", 1, "('adam',)")],
    ids=["in mid solve", "at its last step", "between two methods"],
)
def test_a_fit_goes_on_from_any_step_and_logs_each_once(name, step, compare, stop_at):
    def fit(workdir):
        config = str(Path(__file__).parents[2] / "configs" / f"{name}.py") + ":smoke"
        return run.main(["--config", config, f"--config.compare={compare}", "--workdir", workdir])

    assert fit("whole") == 0
    stop_at(step)
    assert fit("run") == EXIT_PREEMPTED
    stop_at(-1)
    assert fit("run") == 0
    assert torture.same(Path("whole"), Path("run")) == (True, True)


def test_logging_before_restoring_is_refused(tmp_path):
    record = at_once(tmp_path)
    record.save(5, {"x": jnp.ones(2)})
    record.close()
    again = Record(tmp_path, resume=True)
    with pytest.raises(RuntimeError, match=r"before record\.log"):
        again.log(1, loss=0.0)
    again.close()


def test_checkpoints_are_written_when_due_and_the_newest_three_stay(tmp_path):
    record = Record(tmp_path, session=Session(checkpoint_seconds=3600))
    record.save(1, {"x": jnp.ones(2)})
    assert saved_steps(tmp_path) == []
    record.close()
    record = at_once(tmp_path)
    for step in range(1, 6):
        record.save(step, {"x": jnp.ones(2)})
    record.close()
    assert saved_steps(tmp_path) == ["3", "4", "5"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_of_a_kind_kills(monkeypatch, number):
    """Of a kind: a worker gets the Ctrl-C of the terminal and then the SIGTERM of its driver."""
    sent = []
    with Stop() as stop:
        monkeypatch.setattr(os, "kill", lambda *a: sent.append(a))
        for first in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            stop._handle(first, None)
        assert sent == []
        stop._handle(number, None)
    assert sent == [(os.getpid(), number)]


def _ctrl_c(workdir, presses):
    """Start a long run, press Ctrl-C once it has logged, the second time once the first was heard; code and stderr."""
    command = [sys.executable, "-u", "-m", "experiments.run", "--config", "configs/selfcheck.py:smoke"]
    command += ["--config.pause=2", f"--workdir={workdir}", "--checkpoint-seconds=0"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes)
    deadline = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists() or not read_lines(workdir / "metrics.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    heard = ""
    for _ in range(presses):
        run.send_signal(signal.SIGINT)
        while "press Ctrl-C again to kill" not in heard:
            heard += run.stderr.readline()
    out, error = run.communicate(timeout=120)
    return run.returncode, out, heard + error


def test_one_ctrl_c_saves_and_says_so_and_two_kill(tmp_path):
    code, out, error = _ctrl_c(tmp_path / "once", 1)
    assert code == EXIT_PREEMPTED
    assert "stopping after this step; press Ctrl-C again to kill" in error
    assert "(SIGINT); the same command goes on from here" in out
    assert saved_steps(tmp_path / "once")
    code, out, error = _ctrl_c(tmp_path / "twice", 2)
    assert code == -signal.SIGINT
    assert "the same command goes on" not in out
    assert "Traceback" not in error


def test_kill_nine_changes_nothing(tmp_path, monkeypatch):
    """Real processes, really killed; the full command of 50 kills is in docs/guides/runs.md."""
    monkeypatch.chdir(Path(__file__).parents[2])
    arguments = ["--config=configs/selfcheck.py:smoke", "--config.pause=0.2", "--kills=1", "--seed=1"]
    assert torture.main([*arguments, "--workdir", str(tmp_path / "torture")]) == 0
