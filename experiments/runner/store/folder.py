"""One folder a run: the fingerprint that names it, its state, its lock, and what may be deleted in it."""

import contextlib
import enum
import fcntl
import hashlib
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runner.store.encoding import dumps, read_json

CONFIG, ENVIRONMENT, METRICS, RESULT, FAILURE, LOCK = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    "failure.json",
    ".lock",
)
LOG, CHECKPOINTS, FIGURES, TABLES, EVENTS = "log.txt", "checkpoints", "figures", "tables", "events"
OWNED = (RESULT, ENVIRONMENT, METRICS, FAILURE, LOG, CHECKPOINTS, FIGURES, TABLES, EVENTS)


class FolderError(Exception):
    """The folder cannot hold this run; the message names the cause and the cure."""


class Locked(FolderError):
    """Another process holds the folder."""


class State(enum.Enum):
    """What a folder holds, seen from one config."""

    EMPTY = "empty"
    UNFINISHED = "unfinished"
    FINISHED = "finished"


def fingerprint(config: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the resolved config in canonical JSON."""
    return hashlib.sha256(dumps(config, sort=True).encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """`name` when it is a plain file name; anything that could leave the folder is refused."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,120}", name):
        raise ValueError(f"{name!r} is not a plain name: use letters, digits and _ . + = -")
    return name


def state(workdir: Path, config: dict[str, Any]) -> State:
    """What `workdir` holds of this run; FolderError when it holds something else or is damaged."""
    contents = {p.name for p in workdir.iterdir()} - {LOCK, LOG} if workdir.is_dir() else set()
    contents = {name for name in contents if not (name.startswith(".") and name.endswith(".tmp"))}
    if not contents:
        return State.EMPTY
    if CONFIG not in contents:
        raise FolderError(f"{workdir} is not empty and holds no run (no {CONFIG}); choose another --workdir")
    try:
        held = read_json(workdir / CONFIG)
    except ValueError as error:
        raise FolderError(f"{error}: cannot tell which run {workdir} holds; --force starts it anew") from error
    ours = fingerprint(config)
    theirs = fingerprint(held) if isinstance(held, dict) else "?"
    if ours != theirs:
        different = ", ".join(_differences(config, held)[:6]) or "everything"
        raise FolderError(
            f"{workdir} holds another run (config {theirs[:8]}, this is {ours[:8]}; different: {different}); "
            "choose another --workdir, or --force to replace it"
        )
    if RESULT not in contents:
        return State.UNFINISHED
    try:
        read_json(workdir / RESULT)
    except ValueError as error:
        raise FolderError(f"{error}; --force redoes the run") from error
    return State.FINISHED


def _differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in sorted({*map(str, ours), *map(str, theirs)}):
            missing = object()
            found += _differences(ours.get(key, missing), theirs.get(key, missing), f"{prefix}{key}.")
        return found
    return [] if dumps_or_repr(ours) == dumps_or_repr(theirs) else [prefix.rstrip(".")]


def dumps_or_repr(value: Any) -> str:
    """A comparable text of any value."""
    try:
        return dumps(value, sort=True)
    except TypeError:
        return repr(value)


def clear(workdir: Path) -> None:
    """Delete what a run wrote, except its config.json, and nothing else; a folder without a run is refused.

    The config stays until its successor replaces it, so that at every moment the folder says that it is ours.
    """
    refuse_foreign(workdir)
    for name in OWNED:
        path = workdir / name
        if not path.exists():
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def refuse_foreign(workdir: Path) -> None:
    """FolderError when `workdir` holds something, and it is no run."""
    contents = {p.name for p in workdir.iterdir()} - {LOCK, LOG} if workdir.is_dir() else set()
    if contents and CONFIG not in contents:
        raise FolderError(f"{workdir} is not empty and holds no run: --force will not delete it")


class Lock:
    """An exclusive lock on a run folder, held until `release` or the death of the process (flock)."""

    def __init__(self, workdir: Path) -> None:
        """Take the lock or raise `Locked` with the holder's process id and host."""
        if workdir.exists() and not workdir.is_dir():
            raise FolderError(f"{workdir} is a file, not a folder; choose another --workdir")
        workdir.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._handle, 200).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            if not isinstance(error, BlockingIOError):
                raise
            raise Locked(f"{workdir} is in use by another process ({holder}); wait for it or stop it") from None
        os.ftruncate(self._handle, 0)
        with contextlib.suppress(OSError):  # only for people and `holder`; a full disk must not stop a run here
            os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; the file stays, since deleting it would race with the next holder."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1


class Holder(NamedTuple):
    """Who holds, or held when it died, a folder's lock."""

    process: int
    host: str


def holder(workdir: Path) -> Holder | None:
    """Who wrote the lock file last, without touching the lock; None when it was released."""
    try:
        found = re.fullmatch(r"process (\d+) on (\S+)", (workdir / LOCK).read_text().strip())
    except OSError:
        return None
    return Holder(int(found[1]), found[2]) if found else None
