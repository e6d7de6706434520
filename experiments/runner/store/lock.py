"""The lock of a run folder. The kernel answers who holds it (flock); the text in the file is for people.

On a network file system another host's flock may not be seen here. There the holder touches the file every
`HEARTBEAT_SECONDS`, and a file that another host touched less than `STALE_SECONDS` ago counts as held.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import NamedTuple

from experiments.runner.store.folder import LOCK, FolderError, open_own

HEARTBEAT_SECONDS, STALE_SECONDS = 15.0, 120.0
_NETWORK = {"afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs", "smb3", "smbfs"}
# `held` takes a shared lock for a moment to look: who finds the lock taken asks again before believing it.
_ASK_AGAIN = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class Locked(FolderError):
    """Another process holds the folder."""


class Holder(NamedTuple):
    """Who holds, or held when it died, a folder's lock."""

    process: int
    host: str


class Lock:
    """An exclusive lock on a run folder, held until `release` or the death of the process."""

    def __init__(self, workdir: Path) -> None:
        """Take the lock or raise `Locked` with the holder's process id and host."""
        if workdir.exists() and not workdir.is_dir():
            raise FolderError(f"{workdir} is a file, not a folder; choose another --workdir")
        workdir.mkdir(parents=True, exist_ok=True)
        self._handle = open_own(workdir / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            beating = _beating(self._handle, workdir)
            if beating or not _take(self._handle, workdir):
                who = beating or _written(self._handle)
                holder = f"process {who.process} on {who.host}" if who else "unknown"
                raise Locked(f"{workdir} is in use by another process ({holder}); wait for it or stop it")
        except BaseException:
            os.close(self._handle)
            raise
        os.ftruncate(self._handle, 0)
        with contextlib.suppress(OSError):  # only for people and `last_holder`; a full disk must not stop a run here
            os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._released = threading.Event()
        if on_network(workdir):
            threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._handle)

    def release(self) -> None:
        """Give the lock back; the file stays, since deleting it would race with the next holder."""
        if self._handle >= 0:
            self._released.set()
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1


def held(workdir: Path) -> Holder | None:
    """Who works in `workdir` now, or None: whatever the file says, a process that died holds nothing."""
    try:
        handle = open_own(workdir / LOCK, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing gives it back
        return _beating(handle, workdir)
    except BlockingIOError:
        return _written(handle) or Holder(0, "unknown")
    finally:
        os.close(handle)


def last_holder(workdir: Path) -> Holder | None:
    """Who wrote the lock file last; None when it was released. Of use only to whom knows that this process died."""
    try:
        handle = open_own(workdir / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _written(handle)
    finally:
        os.close(handle)


def _take(handle: int, workdir: Path) -> bool:
    for pause in _ASK_AGAIN:
        time.sleep(pause)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            raise FolderError(f"the file system of {workdir} has no locks (flock); choose another --workdir") from None
    return False


def _written(handle: int) -> Holder | None:
    found = re.fullmatch(r"process (\d+) on (\S+)", os.pread(handle, 300, 0).decode(errors="replace").strip())
    return Holder(int(found[1]), found[2]) if found else None


def _beating(handle: int, workdir: Path) -> Holder | None:
    """The holder on another host of a network file system, when its heartbeat is fresh."""
    who = _written(handle)
    if who is None or who.host == socket.gethostname() or not on_network(workdir):
        return None
    return who if time.time() - os.fstat(handle).st_mtime < STALE_SECONDS else None


def on_network(path: Path) -> bool:
    """Whether `path` is on a file system that other hosts may write; False where the system does not say (no /proc)."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    here, best, kind = str(path.resolve()), "", ""
    for line in mounts:
        front, _, back = line.partition(" - ")
        point = front.split()[4].encode().decode("unicode_escape")  # a blank is written \040
        if (here + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, back.split()[0]
    return kind in _NETWORK or kind.startswith("fuse.")
