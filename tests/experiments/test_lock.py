"""Who works in a folder is asked of the kernel: a worker that died hard holds nothing, whatever its file says."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.runner import tasks
from experiments.runner.store import folder, lock
from tests.experiments.conftest import SELFCHECK

ROOT = Path(__file__).parents[2]


def _text(process, host):
    return f"process {process} on {host}\n"


@pytest.fixture
def zombie():
    """A process that has died and was not waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield child.pid
    child.wait()


@pytest.mark.parametrize("kind", ["another host", "recycled pid", "zombie"])
def test_a_stale_lock_of_any_kind_is_taken_at_once(tmp_path, kind, zombie):
    text = {
        "another host": _text(1234, "elsewhere"),
        "recycled pid": _text(os.getpid(), socket.gethostname()),
        "zombie": _text(zombie, socket.gethostname()),
    }[kind]
    task = tasks.tasks(SELFCHECK, [], tmp_path)[0]
    task.workdir.mkdir()
    (task.workdir / folder.LOCK).write_text(text)
    assert tasks.status(task).state == "new"
    lock.Lock(task.workdir).release()


def test_looking_at_a_lock_never_keeps_a_worker_from_taking_it(tmp_path):
    tmp_path.joinpath(folder.LOCK).touch()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            lock.held(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            taken = lock.Lock(tmp_path)
            assert lock.held(tmp_path) == (os.getpid(), socket.gethostname())
            taken.release()
    finally:
        stop.set()
        thread.join()
    assert lock.held(tmp_path) is None


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(lock, "on_network", lambda path: True)


def test_on_a_network_file_system_a_fresh_heartbeat_of_another_host_counts(tmp_path, network):
    path = tmp_path / folder.LOCK
    path.write_text(_text(1234, "elsewhere"))
    assert lock.held(tmp_path) == (1234, "elsewhere")
    with pytest.raises(lock.Locked, match="process 1234 on elsewhere"):
        lock.Lock(tmp_path)
    old = time.time() - lock.STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert lock.held(tmp_path) is None
    lock.Lock(tmp_path).release()


def test_the_holder_keeps_its_heartbeat_fresh(tmp_path, network, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    taken = lock.Lock(tmp_path)
    path = tmp_path / folder.LOCK
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 20
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 60
    taken.release()
    time.sleep(0.1)
    os.utime(path, (0, 0))
    time.sleep(0.2)
    assert path.stat().st_mtime == 0


def test_the_file_system_is_read_from_the_mounts(tmp_path, monkeypatch):
    mounts = [
        "1 0 8:1 / / rw - ext4 /dev/a rw",
        f"2 1 0:1 / {tmp_path} rw shared:1 - nfs4 server:/a rw",
        f"3 2 8:2 / {tmp_path}/local\\040disk rw - xfs /dev/b rw",
    ]
    monkeypatch.setattr(Path, "read_text", lambda self: "\n".join(mounts))
    assert lock.on_network(tmp_path / "runs" / "x")
    assert not lock.on_network(tmp_path / "local disk" / "x")
    assert not lock.on_network(Path("/"))
    assert not lock.on_network(Path(f"{tmp_path}2"))


def test_a_killed_process_group_is_resumed_at_once(tmp_path):
    """kill -9 of a sweep and its workers, then the same command: nothing is taken for running."""
    command = [sys.executable, "-m", "experiments.sweep", "--config", SELFCHECK, f"--workdir={tmp_path / 's'}"]
    first = [*command, "--config.pause=1", "--config.steps=60", "--checkpoint-seconds=0"]
    group = subprocess.Popen(first, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    listed = tasks.tasks(SELFCHECK, ["--config.pause=1", "--config.steps=60"], tmp_path / "s")
    deadline = time.monotonic() + 120
    while not any(listed[0].workdir.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tasks.status(listed[0]).state == "running"
    os.killpg(group.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while tasks.status(listed[0]).state == "running" and time.monotonic() < deadline:
        time.sleep(0.01)  # until the kernel has buried the worker
    assert tasks.status(listed[0]).state == "unfinished"  # although the driver is a zombie now
    group.wait()
