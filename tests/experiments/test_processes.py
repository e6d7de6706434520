"""One run on several real processes over loopback: one writes, all agree, any number of devices goes on."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.run import parse
from experiments.runner import distributed
from experiments.runner.config import UsageError
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json, read_lines

ROOT = Path(__file__).parents[2]
EPS = np.finfo(np.float64).eps


def start(workdir, processes=1, devices=1, *flags):
    """Start the processes of one run; their Popen objects, process 0 first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "ATTNREG_COMPILATION_CACHE": "off",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "experiments.run", "--config", "configs/scaling.py:smoke", *flags]
    command += [f"--workdir={workdir}", "--checkpoint-seconds=0"]
    if processes > 1:
        command += [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}"]
    started = []
    for i in range(processes):
        own = [f"--process={i}"] if processes > 1 else []
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(subprocess.Popen([*command, *own], cwd=ROOT, env=environment, **pipes))
    return started


def finish(processes, timeout=900):
    """Exit codes and outputs."""
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def test_two_processes_give_the_numbers_of_one_and_only_one_writes(tmp_path):
    codes, outputs = finish(start(tmp_path / "one"))
    assert codes == [0], outputs
    codes, outputs = finish(start(tmp_path / "two", 2, 2))
    assert codes == [0, 0], outputs
    assert "finished in" in outputs[0]
    assert "finished in" not in outputs[1]
    one, two = (read_json(tmp_path / name / folder.RESULT) for name in ("one", "two"))
    assert (two["devices"], two["processes"]) == (4, 2)
    np.testing.assert_allclose(two["x"], one["x"], rtol=0, atol=100 * EPS)
    assert [line["step"] for line in read_lines(tmp_path / "two" / folder.METRICS)] == [1, 2, 3, 4]
    assert len(read_json(tmp_path / "two" / folder.ENVIRONMENT)) == 1
    codes, outputs = finish(start(tmp_path / "two", 2, 2))
    assert codes == [0, 0]
    assert "already holds this run" in outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(4, 1), (4, 2)])
def test_four_processes(tmp_path, processes, devices):
    codes, outputs = finish(start(tmp_path / "one"))
    assert codes == [0], outputs
    codes, outputs = finish(start(tmp_path / "many", processes, devices))
    assert codes == [0] * processes, outputs
    one, many = (read_json(tmp_path / name / folder.RESULT) for name in ("one", "many"))
    assert many["processes"] == processes
    np.testing.assert_allclose(many["x"], one["x"], rtol=0, atol=100 * EPS)


@pytest.mark.slow
def test_a_killed_peer_ends_the_run_and_any_number_of_devices_goes_on(tmp_path):
    """JAX aborts the survivors, so recovery is: start again, anywhere, from the checkpoint."""
    steps = "--config.steps=4000"
    assert finish(start(tmp_path / "one", 1, 1, "--config.steps=30"))[0] == [0]
    workdir = tmp_path / "run"
    processes = start(workdir, 2, 1, steps)
    deadline = time.monotonic() + 240
    while not any(path.name.isdigit() for path in workdir.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.1)  # a checkpoint gets its bare number when it is whole
    processes[1].kill()
    codes, _ = finish(processes)
    assert codes[0] not in (0, 2)
    assert not (workdir / folder.RESULT).exists()
    config = read_json(workdir / folder.CONFIG)
    reached = read_lines(workdir / folder.METRICS)[-1]["step"]
    assert 0 < reached < config["steps"]
    again = start(workdir, 1, 4, steps)[0]
    deadline = time.monotonic() + 240
    while len(read_json(workdir / folder.ENVIRONMENT)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(15)
    again.terminate()  # 4000 steps are more than the test needs: stop it the polite way
    codes, outputs = finish([again])
    assert codes == [75], outputs
    assert "resumed at step" in outputs[0]
    steps_logged = [line["step"] for line in read_lines(workdir / folder.METRICS)]
    assert steps_logged == list(range(1, len(steps_logged) + 1))
    assert len(steps_logged) > 1


def options(*flags):
    return parse(["--config", "x", *flags])[0]


def test_the_coordinator_listens_on_loopback_unless_told_otherwise(monkeypatch):
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: calls.append(k["coordinator_bind_address"]))
    both = ("--processes=2", "--process=0")
    distributed.initialize(options("--coordinator=127.0.0.1:1234", *both))
    distributed.initialize(options("--coordinator=localhost:1234", *both))
    distributed.initialize(options("--coordinator=[::1]:1234", *both))
    distributed.initialize(options("--coordinator=10.0.0.1:1234", *both))
    distributed.initialize(options("--coordinator=10.0.0.1:1234", "--coordinator-bind=10.0.0.1:1234", *both))
    assert calls == ["127.0.0.1:1234", "localhost:1234", "[::1]:1234", None, "10.0.0.1:1234"]


@pytest.mark.parametrize("flags", [("--coordinator=x:1",), ("--coordinator=x:1", "--processes=2", "--process=2")])
def test_incomplete_process_flags_are_refused(flags):
    with pytest.raises(UsageError, match="--processes N and --process"):
        distributed.initialize(options(*flags))


def test_distributed_without_a_cluster_says_so():
    command = [sys.executable, "-m", "experiments.run", "--config=configs/scaling.py:smoke", "--distributed"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--distributed found no cluster" in done.stderr
