"""The tasks of a sweep: from `sweep()` beside `get_config` to configs, folders, states and batches."""

import inspect
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runner.config import FULL, Resolved, Run, UsageError, as_flags, load_module, plain, resolve, split_spec
from experiments.runner.results import SWEEP
from experiments.runner.store import folder, lock
from experiments.runner.store.encoding import read_json, write_json


def grid(axes: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Every combination of the axes' values, the last axis fastest.

    Example:
        >>> grid({"seed": range(2), "solver.tol": (0.1,)})
        [{'seed': 0, 'solver.tol': 0.1}, {'seed': 1, 'solver.tol': 0.1}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*map(tuple, axes.values()))]


_FOLDER = re.compile(r"(?:.+-)?([0-9a-f]{16})")  # of a task: words, and the fingerprint of its config
MOST_WORDS = 80  # letters


class Task(NamedTuple):
    """One run of a sweep."""

    number: int
    overrides: dict[str, Any]
    resolved: Resolved
    fingerprint: str
    workdir: Path

    @property
    def run(self) -> Run:
        """What `execute` takes."""
        return Run(self.resolved, self.workdir)

    def command(self) -> list[str]:
        """The arguments of `python -m experiments.run` that run this task by hand."""
        return ["--config", self.resolved.spec, *self.resolved.overrides, "--workdir", str(self.workdir)]


class Status(NamedTuple):
    """What is known of a task from its folder alone."""

    state: str  # "finished", "failed", "running", "unfinished" or "new"
    detail: str = ""


def default_root(spec: str) -> Path:
    """runs/<config name>-sweep, from the current directory."""
    path, variant = split_spec(spec)
    return Path("runs") / (f"{path.stem}-sweep" if variant == FULL else f"{path.stem}-{variant}-sweep")


def tasks(spec: str, overrides: Sequence[str], root: Path) -> list[Task]:
    """The tasks of a config's sweep, in its order; UsageError for a duplicate or a clash with an override."""
    path, variant = split_spec(spec)
    module = load_module(path)
    if not callable(getattr(module, "sweep", None)):
        raise UsageError(f"{path} has no sweep(): it lists the overrides of each task")
    takes_variant = "variant" in inspect.signature(module.sweep).parameters
    try:
        entries = [dict(entry) for entry in (module.sweep(variant) if takes_variant else module.sweep())]
    except Exception as error:
        raise UsageError(f"{path}: sweep() failed: {type(error).__name__}: {error}") from error
    entries = [{name: plain(value) for name, value in entry.items()} for entry in entries]
    fixed = {flag.lstrip("-").split("=")[0].removeprefix("config.") for flag in overrides}
    found: dict[str, Task] = {}
    there = folders(root)
    for index, entry in enumerate(entries):
        if clash := fixed & set(entry):
            raise UsageError(f"--config.{clash.pop()} is set on the command line and by the sweep; leave one out")
        resolved = resolve(spec, [*overrides, *as_flags(entry)])
        name = folder.fingerprint(resolved.config.to_dict())
        if name in found:
            raise UsageError(f"{path}: tasks {found[name].number} and {index} of the sweep are the same")
        found[name] = Task(index, entry, resolved, name, root / there.get(name, f"{values(entry)}-{name}"))
    if not found:
        raise UsageError(f"{path}: sweep() lists no task")
    return list(found.values())


def folders(root: Path) -> dict[str, str]:
    """Fingerprint to folder, of every task that the sweep in `root` has already begun.

    The fingerprint alone says whose a folder is, since the words before it follow the sweep: a sweep that varies one
    field more names the same tasks otherwise, and folders of before 2026-11-29 have no words. A finished one wins.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if match := _FOLDER.fullmatch(path.name):
            found.setdefault(match[1], []).append(path.name)
    marks = (folder.CONFIG, folder.RESULT)
    return {name: max(ours, key=lambda x: sum((root / x / m).exists() for m in marks)) for name, ours in found.items()}


def values(overrides: Mapping[str, Any]) -> str:
    """Overrides as the words of a folder's name: `seed=1_tol=0.1`; fields by their last name, where that is enough."""
    last = [name.rpartition(".")[2] for name in overrides]
    words = []
    for name, short in zip(overrides, last, strict=True):
        text = re.sub(r"[^A-Za-z0-9_.+-]+", "_", str(overrides[name])).strip("_.")
        words.append(f"{short if last.count(short) == 1 else name}={text}")
    return "_".join(words)[:MOST_WORDS].rstrip("_.=") or "base"


def write_list(root: Path, spec: str, overrides: Sequence[str], listed: Sequence[Task]) -> None:
    """Keep the sweep's tasks in sweep.json, for `collect` and for people."""
    rows = [{"index": t.number, "overrides": t.overrides, "folder": t.workdir.name} for t in listed]
    content = {"config": spec, "overrides": list(overrides), "tasks": rows}
    path = root / SWEEP
    kept = {task.workdir.name for task in listed}
    # `--index` makes the folder of a task alone.
    if root.is_dir() and not path.exists() and any(p.name not in {"logs", *kept} for p in root.iterdir()):
        raise folder.FolderError(f"{root} is not empty and holds no sweep (no {SWEEP}); choose another --workdir")
    before = _listed(path)
    lost = [name for name in _folders(before) if name not in kept and (root / name).exists()]
    if lost:
        flags = " ".join(map(str, before.get("overrides", ()))) or "no overrides"
        raise folder.FolderError(
            f"{root} holds the sweep of {before.get('config')} with {flags}; this one would drop {len(lost)} of its "
            f"tasks, e.g. {lost[0]}, from {SWEEP}, and so from `collect`; choose another --workdir"
        )
    if folder.dumps_or_repr(before) != folder.dumps_or_repr(content):
        write_json(path, content)


def _listed(path: Path) -> dict[str, Any]:
    """What a sweep.json says; {} where there is none, or a damaged one."""
    try:
        found = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _folders(content: Mapping[str, Any]) -> list[str]:
    """The folders of the tasks that a sweep.json lists; names that are none are left out."""
    tasks = content.get("tasks")
    names = [task.get("folder") for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    return [name for name in names if isinstance(name, str) and name and "/" not in name and not name.startswith(".")]


def status(task: Task) -> Status:
    """The state of a task's folder, which is asked of its lock: a worker that died holds nothing."""
    try:
        found = folder.state(task.workdir, task.resolved.config.to_dict())
        if found is folder.State.FINISHED:
            return Status("finished")
        if holder := lock.held(task.workdir):
            return Status("running", f"process {holder.process} on {holder.host}")
    except folder.FolderError as error:
        return Status("failed", str(error))
    failure = task.workdir / folder.FAILURE
    if failure.exists():
        try:
            kept = read_json(failure)
            return Status("failed", f"{kept['error']}: {kept['message']}")
        except (ValueError, KeyError, TypeError):
            return Status("failed", f"{failure} is not readable")
    return Status("new" if found is folder.State.EMPTY else "unfinished")


def batches(listed: Sequence[Task], fields: Sequence[str], size: int) -> list[list[Task]]:
    """Group tasks that agree in every config field outside `fields`, in order, at most `size` together.

    The grouping depends on the sweep alone, never on what has finished: a batch that died is run again
    with the same members, hence with the same compiled program.
    """
    groups: dict[str, list[Task]] = {}
    for task in listed:
        rest = task.resolved.config.to_dict()
        for field in fields:
            _drop(rest, field.split("."))
        groups.setdefault(folder.fingerprint(rest), []).append(task)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def _drop(config: Any, path: Sequence[str]) -> None:
    for name in path[:-1]:
        config = config.get(name, {}) if isinstance(config, dict) else {}
    if isinstance(config, dict):
        config.pop(path[-1], None)
