"""A real Slurm on loopback: arrays, requeue with the state kept, killed workers, two nodes (docs/guides/slurm.md)."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import sweep
from experiments.runner import queue, slurm, tasks, worklist
from experiments.runner.config import UsageError
from experiments.runner.execute import Settings
from experiments.runner.store import folder, lock
from experiments.runner.store.encoding import read_json, read_lines
from tests.experiments.conftest import SELFCHECK

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two emulated nodes of four CPUs."""
    script, directory = ROOT / "tests/experiments/slurm/cluster.sh", tmp_path_factory.mktemp("slurm")
    subprocess.run([script, "up", directory, "4", "2"], check=True)
    environment = {"SLURM_CONF": f"{directory}/slurm.conf", "PATH": f"{directory}/bin:{os.environ['PATH']}"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield
        subprocess.run([script, "down", directory], check=True)


def submit(root, *flags):
    command = [sys.executable, "-m", "experiments.sweep", "--config=configs/selfcheck.py:smoke", f"--workdir={root}"]
    done = subprocess.run([*command, "--submit=slurm", *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, subprocess.run(["squeue"], capture_output=True, text=True).stdout
        time.sleep(0.5)


def queue_empty():
    return not subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout.strip()


def listed(root, *flags):
    return tasks.tasks(SELFCHECK, flags, root)


@pytest.mark.slow
@pytest.mark.slurm
def test_an_array_computes_every_task_and_nothing_is_left_to_submit(cluster, tmp_path):
    assert "submitted 4 jobs" in submit(tmp_path / "s", "--pack=2", "--jobs=4", "--slurm", "partition=main")
    wait(queue_empty)
    assert [tasks.status(t).state for t in listed(tmp_path / "s")] == ["finished"] * 8
    assert "nothing to submit" in submit(tmp_path / "s")


@pytest.mark.slow
@pytest.mark.slurm
def test_a_preempted_job_saves_is_requeued_and_goes_on(cluster, tmp_path):
    flags = ("--config.pause=1.0",)
    out = submit(tmp_path / "s", *flags, "--pack=8", "--slurm", "signal_delay_s=30", "--slurm", "time=10")
    job = out.split("one job: ")[1].split(";")[0]
    first = listed(tmp_path / "s", *flags)[0]
    wait(lambda: len(read_lines(first.workdir / folder.METRICS)) >= 2)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait(lambda: "resumed at step" in (first.workdir / folder.LOG).read_text())
    assert len(_sessions(first)) == 2
    wait(lambda: tasks.status(first).state == "finished")
    subprocess.run(["scancel", job], check=True)
    wait(queue_empty)
    steps = [line["step"] for line in read_lines(first.workdir / folder.METRICS)]
    assert steps == list(range(20, 201, 20))


def _sessions(task):
    path = task.workdir / folder.ENVIRONMENT
    return read_json(path) if path.exists() else []


@pytest.mark.slow
@pytest.mark.slurm
def test_a_killed_worker_is_started_again_in_its_job(cluster, tmp_path):
    submit(tmp_path / "s", "--config.pause=0.5", "--checkpoint-seconds=0", "--pack=8")
    first = listed(tmp_path / "s", "--config.pause=0.5")[0]
    wait(lambda: len(read_lines(first.workdir / folder.METRICS)) >= 2)
    os.kill(lock.held(first.workdir).process, 9)
    wait(queue_empty)
    assert all(tasks.status(t).state == "finished" for t in listed(tmp_path / "s", "--config.pause=0.5"))
    assert len(_sessions(first)) == 2


@pytest.mark.slow
@pytest.mark.slurm
def test_two_nodes_run_one_run(cluster, tmp_path):
    command = [sys.executable, "-m", "experiments.run", "--config=configs/scaling.py:smoke"]
    subprocess.run([*command, f"--workdir={tmp_path / 'one'}"], cwd=ROOT, check=True)
    srun = ["srun", "-N2", "-n2", *command, f"--workdir={tmp_path / 'two'}", "--distributed"]
    done = subprocess.run(srun, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    one, two = (read_json(tmp_path / name / folder.RESULT) for name in ("one", "two"))
    assert two["processes"] == 2
    np.testing.assert_allclose(two["x"], one["x"], rtol=0, atol=100 * np.finfo(float).eps)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["time=3"], "must be at least 4 minutes"),
        (["time=ten"], "must be a int"),
        (["time"], "write --slurm name=value"),
        (["setup=rm -rf /"], "no Slurm option 'setup'"),
        (["partition=a\n#SBATCH --wrap=x"], "must be a str"),
        (["exclusive=maybe"], "must be a bool"),
    ],
)
def test_wrong_slurm_options_are_refused_before_anything_is_submitted(flags, message):
    with pytest.raises(UsageError, match=message):
        slurm.slurm_options(SELFCHECK, flags)


def test_slurm_options_come_from_the_config_and_flags_win(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("def get_config(variant='full'): ...\ndef slurm(): return {'partition': 'a', 'time': 30}\n")
    found = slurm.slurm_options(str(path), ["partition=b", "gpus_per_node=2"])
    assert found == {"partition": "b", "time": 30, "signal_delay_s": 120, "gpus_per_node": 2}


def test_a_job_runs_its_worklist_and_again_after_a_requeue(tmp_path, monkeypatch):
    """What submitit would pickle and start: a real worker in a real process, from a file that stays."""
    monkeypatch.chdir(ROOT)
    waiting = listed(tmp_path / "s", "--config.steps=20")[:3]
    work = worklist.Worklist([[task] for task in waiting], Settings())
    command = slurm.worker_command(tmp_path / "s" / "slurm" / "work-0.json", work.units[:2], work)
    job = pickle.loads(pickle.dumps(slurm.Job([command], max_deaths=2)))
    assert job() == [0]
    assert [tasks.status(task).state for task in waiting] == ["finished", "finished", "new"]
    (waiting[1].workdir / folder.RESULT).unlink()
    assert job() == [0]
    assert tasks.status(waiting[1]).state == "finished"
    assert len(_sessions(waiting[0])) == 1


def test_tasks_on_many_processes_have_a_worklist_each(tmp_path):
    waiting = listed(tmp_path / "s", "--config.steps=20")[:2]
    work = worklist.Worklist([[task] for task in waiting], Settings())
    commands = slurm._distributed(tmp_path, 7, work.units, work)
    assert [command[:2] for command in commands] == [["-m", "experiments.runner.worker"]] * 2
    found = [worklist.read(Path(command[2])) for command in commands]
    assert all(w.distributed for w in found)
    assert [[t.number for t in unit] for w in found for unit in w.units] == [[0], [1]]
    with pytest.raises(UsageError, match="tasks of one process each"):
        slurm._distributed(tmp_path, 8, [waiting], work)


SPANNING = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("scaling", {str(ROOT / "configs" / "scaling.py")!r})
base = importlib.util.module_from_spec(spec)
spec.loader.exec_module(base)
VARIANTS = {{}}
def get_config(variant="full"):
    return base.get_config("smoke")
def sweep():
    return [{{"seed": 0}}, {{"seed": 1}}]
"""


@pytest.mark.slow
@pytest.mark.slurm
def test_a_sweep_whose_tasks_span_two_nodes(cluster, tmp_path):
    path = tmp_path / "c.py"
    path.write_text(SPANNING)
    command = [sys.executable, "-m", "experiments.sweep", f"--config={path}", f"--workdir={tmp_path / 's'}", "--pack=2"]
    subprocess.run([*command, "--submit=slurm", "--slurm=nodes=2"], cwd=ROOT, check=True)
    wait(queue_empty)
    spanning = tasks.tasks(str(path), [], tmp_path / "s")
    assert [tasks.status(task).state for task in spanning] == ["finished"] * 2
    results = [read_json(task.workdir / folder.RESULT) for task in spanning]
    assert [found["processes"] for found in results] == [2, 2]
    assert all(len(_sessions(task)) == 1 for task in spanning)


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """sbatch, srun and squeue that only say things; `scheduler(text)` sets what squeue says, or its exit code."""
    folder_, queue_file = tmp_path / "bin", tmp_path / "queue"
    folder_.mkdir()
    queue_file.write_text("")
    scripts = {
        "sbatch": "echo Submitted batch job 77",
        "srun": "exit 1",
        "squeue": f". {queue_file}",
        "sacct": "exit 1",
    }
    for name, script in scripts.items():
        (folder_ / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder_}:{os.environ['PATH']}")
    # On import submitit configures logging, which closes the handlers there are, and with absl's pytest's own stream.
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    return lambda *lines: queue_file.write_text("\n".join(lines))


def _main(root, *flags):
    return sweep.main([f"--config={SELFCHECK}", "--config.steps=20", f"--workdir={root}", *flags])


def test_the_state_of_a_submitted_task_is_asked_of_the_scheduler(tmp_path, scheduler, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    root = tmp_path / "s"
    assert _main(root, "--submit=slurm", "--pack=3") == 0  # 8 tasks: jobs 77_0, 77_1 and 77_2
    assert "submitted 3 jobs as array 77" in capsys.readouterr().out
    scheduler("echo '77_0|RUNNING'", "echo '77_1|PENDING'", "echo '76_2|RUNNING'", "echo '77_2|COMPLETING'")
    waiting = queue.queued(root)
    tasks_ = listed(root, "--config.steps=20")
    found = [queue.status(task, waiting) for task in tasks_]
    assert [s.state for s in found] == ["queued"] * 6 + ["new"] * 2
    assert (found[0].detail, found[3].detail) == ("job 77_0 RUNNING", "job 77_1 PENDING")
    assert _main(root, "--list") == 0
    assert "job 77_1 PENDING" in capsys.readouterr().out
    holder = lock.Lock(tasks_[0].workdir)  # the job is at work on it
    assert queue.status(tasks_[0], waiting).state == "running"
    holder.release()
    assert _main(root, "--submit=slurm") == 0
    assert "submitted 2 jobs" in capsys.readouterr().out  # not the six that are queued
    scheduler("echo '77_0|RUNNING'", "echo '77_1|PENDING'", "echo '77_2|PENDING'")
    assert _main(root, "--submit=slurm") == 0
    assert "nothing to submit" in capsys.readouterr().out


def test_a_job_that_the_scheduler_has_lost_is_submitted_again(tmp_path, scheduler, capsys):
    root = tmp_path / "s"
    for _ in range(2):  # an empty queue: cancelled, or the cluster was restarted
        assert _main(root, "--submit=slurm", "--pack=8") == 0
        assert "submitted one job: 77" in capsys.readouterr().out


def test_a_scheduler_that_does_not_answer_submits_nothing_twice(tmp_path, scheduler, capsys):
    root = tmp_path / "s"
    assert _main(root, "--submit=slurm", "--pack=8") == 0
    scheduler("echo 'slurm_load_jobs error: Socket timed out' >&2", "exit 1")
    assert _main(root, "--submit=slurm") == 2
    assert "squeue failed: slurm_load_jobs error: Socket timed out" in capsys.readouterr().err
    assert _main(root, "--list") == 0
    assert "what is queued is not known: squeue failed" in capsys.readouterr().out
    for damage in (b"", b"[1]", b'{"77; rm": ["x"], "77": 3}'):
        (path,) = root.glob("slurm/*/jobs.json")
        path.write_bytes(damage)
        assert queue.queued(root) == {}
