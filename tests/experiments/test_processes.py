"""One run on several real processes over loopback: one writes, all agree, any number of devices goes on."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.run import parse
from experiments.runner import distributed
from experiments.runner.config import Run, UsageError, resolve
from experiments.runner.distributed import Place
from experiments.runner.execute import Settings, execute, experiment_module, shared
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json, read_lines
from tests.programs import with_devices

ROOT = Path(__file__).parents[2]
EPS = np.finfo(np.float64).eps


def start(workdir, processes=1, devices=1, *flags, config="scaling"):
    """Start the processes of one run; their Popen objects, process 0 first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": with_devices(devices),
        "ATTNREG_COMPILATION_CACHE": "off",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "experiments.run", "--config", f"configs/{config}.py:smoke", *flags]
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


def numbers(value, path=()):
    """Every number of a result by its place in it, times and memory apart."""
    if isinstance(value, dict):
        return {p: v for key, entry in value.items() for p, v in numbers(entry, (*path, key)).items()}
    if isinstance(value, list):
        return {p: v for i, entry in enumerate(value) for p, v in numbers(entry, (*path, i)).items()}
    taken = {
        "seconds",
        "cpu",
        "cpu_seconds",
        "reached",
        "cpu_reached",
        "wall",
        "over_ours",
        "median_cpu",
        "peak_gigabytes",
    }
    return {} if taken & set(path) or not isinstance(value, int | float) else {path: value}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "flags", "units"),
    [
        # Losses in units of ‖B‖²: float32 in the main job, float64 in the reduced head, whose peers stop by the clock.
        # The layer ends at its tolerance, 1e-3, by another path: Muon amplifies the rounding of sums.
        ("quickstart", (), 1e4 * 2.0**-23),
        ("reduced_head", ("--config.compare=()",), 1e4 * EPS),
        ("icl_linear", (), 100 * 2.0**-23),
        ("multi_start", (), 0.0),
        ("recover_layer", ("--config.peer.rates=()", "--config.fit.seconds=300"), 1e-3),
    ],
)
def test_what_is_shared_is_what_one_process_finds(tmp_path, config, flags, units):
    found = []
    for processes in (1, 2):
        workdir = tmp_path / str(processes)
        codes, outputs = finish(start(workdir, processes, 1, *flags, config=config))
        assert codes == [0] * processes, outputs
        assert ("2 processes with 2 devices share" in outputs[0]) == (processes == 2)
        found.append(numbers(read_json(workdir / folder.RESULT)))
    assert found[0].keys() == found[1].keys()
    gaps = {path: abs(found[1][path] - value) for path, value in found[0].items()}
    assert max(gaps.values()) <= units, max(gaps.items(), key=lambda item: item[1])


@pytest.mark.slow
def test_training_on_two_processes_goes_on_after_one_is_killed(tmp_path):
    flags = ("--config.train.steps=400", "--config.chunk=10")
    assert finish(start(tmp_path / "whole", 1, 1, *flags, config="icl_linear"))[0] == [0]
    workdir = tmp_path / "run"
    processes = start(workdir, 2, 1, *flags, config="icl_linear")
    deadline = time.monotonic() + 600
    while not any(path.name.isdigit() for path in workdir.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].kill()
    codes, _ = finish(processes)
    assert codes[0] not in (0, 2)
    assert not (workdir / folder.RESULT).exists()
    codes, outputs = finish(start(workdir, 2, 1, *flags, config="icl_linear"))
    assert codes == [0, 0], outputs
    assert "resumed at step" in outputs[0]
    whole, resumed = (numbers(read_json(tmp_path / name / folder.RESULT)) for name in ("whole", "run"))
    assert max(abs(resumed[path] - value) for path, value in whole.items()) <= 1000 * 2.0**-23
    steps = [line["step"] for line in read_lines(workdir / folder.METRICS)]
    assert steps == list(range(10, 401, 10))


def test_an_experiment_that_cannot_share_its_work_says_so_at_once(tmp_path):
    resolved = resolve(str(ROOT / "configs" / "lipschitz.py:smoke"))
    run = Run(resolved, tmp_path / "run")
    with pytest.raises(UsageError, match=r"'bounds.lipschitz' cannot share its work: each of 2 processes would do all"):
        execute([run], Settings(), here=Place(0, 2))
    assert execute([run], Settings(), here=Place(1, 2)) == 2  # process 0 has said why
    assert not run.workdir.exists()


def test_the_table_of_the_guide_says_what_each_experiment_shares():
    """One row an experiment that a config names; its `SHARED`, or a dash for one that is refused."""
    names = {resolve(str(path)).config.experiment for path in (ROOT / "configs").glob("*.py") if runnable(path)}
    rows = {name: shared(experiment_module(name)) or "–" for name in sorted(names)}
    guide = (ROOT / "docs" / "guides" / "many_devices.md").read_text()
    said = dict(re.findall(r"^\| `(\w+(?:\.\w+)?)` \| ([^|]+?) \|$", guide, re.MULTILINE))
    assert said == rows


def runnable(path):
    """Whether a file of configs/ is a config, not what others share."""
    return "def get_config" in path.read_text()


def test_values_of_one_process_are_gathered_as_they_are():
    assert distributed.gather_all({"a": None}) == [{"a": None}]


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
