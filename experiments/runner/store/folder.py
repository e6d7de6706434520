"""One folder a run: the fingerprint that names it, its state, and what may be replaced in it."""

import datetime
import enum
import errno
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from experiments.runner.store import arrays
from experiments.runner.store.encoding import dumps, read_json

CONFIG, ENVIRONMENT, METRICS, RESULT, FAILURE, LOCK = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    "failure.json",
    ".lock",
)
ABOUT, CAPTIONS, LOG, CHECKPOINTS, FIGURES, TABLES, EVENTS, REPLACED = (
    "about.json",
    "captions.json",
    "log.txt",
    "checkpoints",
    "figures",
    "tables",
    "events",
    ".replaced",
)
OWNED = (RESULT, ENVIRONMENT, ABOUT, CAPTIONS, METRICS, FAILURE, LOG, CHECKPOINTS, FIGURES, TABLES, EVENTS)
FIELDS = ("experiment", "seed", "precision")  # what every config has, and no other project's config.json


class FolderError(Exception):
    """The folder cannot hold this run; the message names the cause and the cure."""


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


def workdir(text: str) -> Path:
    """`--workdir` as a path; FolderError for a name that no file system, terminal or batch script takes as one line."""
    if not text.isprintable():
        raise FolderError(f"--workdir {text!r} holds a control character; choose another name")
    if len(os.fsencode(os.path.abspath(text))) > 4000 or any(len(os.fsencode(p)) > 255 for p in Path(text).parts):
        raise FolderError(f"--workdir {text[:40]}... is too long for a file system; choose a shorter one")
    return Path(text)


def open_own(path: Path, flags: int) -> int:
    """A descriptor of one of a run's files; a link in its place is refused, since it may lead anywhere."""
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FolderError(f"{path} is a link; a run writes only inside its own folder: remove the link") from None


def refuse_link(path: Path) -> None:
    """FolderError when there is a link in the place of one of a run's folders."""
    if path.is_symlink():
        raise FolderError(f"{path} is a link; a run writes only inside its own folder: remove the link")


def subfolder(workdir: Path, name: str) -> Path:
    """The folder `name` of a run, made when absent; a link in its place is refused."""
    path = workdir / name
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def state(workdir: Path, config: dict[str, Any]) -> State:
    """What `workdir` holds of this run; FolderError when it holds something else or is damaged."""
    if not _contents(workdir):
        return State.EMPTY
    refuse_foreign(workdir)
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
    if not (workdir / RESULT).exists():
        return State.UNFINISHED
    try:
        result(workdir)
    except ValueError as error:
        raise FolderError(f"{error}; --force redoes the run") from error
    return State.FINISHED


def result(workdir: Path) -> dict[str, Any]:
    """The result of a finished run; ValueError when result.json is damaged or holds no result."""
    found = read_json(workdir / RESULT)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{workdir / RESULT} holds no result (it must be an object with entries)")
    return found


def refuse_foreign(workdir: Path) -> None:
    """FolderError when `workdir` holds something that no run of this project wrote: not even `--force` touches it."""
    contents = _contents(workdir)
    if not contents or _our_config(workdir) or _our_environment(workdir):
        return
    if CONFIG not in contents:
        raise FolderError(f"{workdir} is not empty and holds no run (no {CONFIG}); choose another --workdir")
    raise FolderError(
        f"{workdir} holds no run of this project ({CONFIG} lacks {', '.join(FIELDS)}, and {ENVIRONMENT} is not ours); "
        "choose another --workdir"
    )


def _contents(workdir: Path) -> set[str]:
    names = {p.name for p in workdir.iterdir()} - {LOCK, LOG, REPLACED} if workdir.is_dir() else set()
    return {name for name in names if not (name.startswith(".") and name.endswith(".tmp"))}


def _our_config(workdir: Path) -> bool:
    held = _readable(workdir / CONFIG)
    return isinstance(held, dict) and all(name in held for name in FIELDS)


def _our_environment(workdir: Path) -> bool:
    """Whether a session of ours was written down: what tells our folder from others when config.json is damaged."""
    sessions = _readable(workdir / ENVIRONMENT)
    packages = [s.get("packages") for s in sessions if isinstance(s, dict)] if isinstance(sessions, list) else []
    return any(isinstance(names, dict) and "attnreg" in names for names in packages)


def _readable(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


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


def set_aside(workdir: Path) -> None:
    """Move what a run wrote to .replaced/<time>/, and nothing else; a folder of someone else is refused.

    The config is copied and stays until its successor replaces it, so that at every moment the folder says that it
    is ours.
    """
    refuse_foreign(workdir)
    ours = [workdir / name for name in OWNED if os.path.lexists(workdir / name)]
    ours += [path for path in sorted(workdir.glob("*.npz")) if arrays.ours(path)]
    if not ours:
        return
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = subfolder(workdir, REPLACED) / stamp
    aside.mkdir()
    if (workdir / CONFIG).is_file():
        shutil.copyfile(workdir / CONFIG, aside / CONFIG)
    for path in ours:
        os.rename(path, aside / path.name)
