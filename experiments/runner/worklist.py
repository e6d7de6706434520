"""What a worker is to do, in a file: resolved tasks, so that a child reads no config file and no command line.

The file stays where it is until its sweep ends; a Slurm job that is requeued reads it again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.runner.config import Resolved
from experiments.runner.execute import Settings
from experiments.runner.store.encoding import write_atomic
from experiments.runner.tasks import Task

Unit = Sequence[Task]  # the tasks of one program: one, or a batch


class Worklist(NamedTuple):
    """Units of tasks, and how to run them; `distributed`: each as one run on all processes of a job."""

    units: Sequence[Unit]
    settings: Settings
    distributed: bool = False


def write(path: Path, work: Worklist) -> None:
    """Write a worklist atomically."""
    content = {
        "settings": work.settings._asdict(),
        "distributed": work.distributed,
        "units": [[_packed(task) for task in unit] for unit in work.units],
    }
    # Our own file, read by `read` alone: Python's JSON with NaN and Infinity, and tuples kept apart from lists.
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def read(path: Path) -> Worklist:
    """Read what `write` wrote."""
    content = json.loads(path.read_bytes())
    units = [[_unpacked(task) for task in unit] for unit in content["units"]]
    settings = content["settings"] | {"sinks": tuple(content["settings"]["sinks"])}
    return Worklist(units, Settings(**settings), content["distributed"])


def _packed(task: Task) -> dict[str, Any]:
    resolved = task.resolved
    return {
        "number": task.number,
        "overrides": _plain(task.overrides),
        "config": _plain(resolved.config.to_dict()),
        "path": str(resolved.path),
        "variant": resolved.variant,
        "flags": list(resolved.overrides),
        "fingerprint": task.fingerprint,
        "folder": str(task.workdir.absolute()),
    }


def _unpacked(entry: dict[str, Any]) -> Task:
    config = ConfigDict(_restored(entry["config"])).lock()
    resolved = Resolved(config, Path(entry["path"]), entry["variant"], tuple(entry["flags"]))
    overrides = _restored(entry["overrides"])
    return Task(entry["number"], overrides, resolved, entry["fingerprint"], Path(entry["folder"]))


def _plain(value: Any) -> Any:
    """JSON from which tuples come back as tuples: {"tuple": [...]}, {"list": [...]}, {"dict": {...}}."""
    if isinstance(value, dict):
        return {"dict": {name: _plain(entry) for name, entry in value.items()}}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(entry) for entry in value]}
    return value


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, entries),) = value.items()
    if kind == "dict":
        return {name: _restored(entry) for name, entry in entries.items()}
    return {"list": list, "tuple": tuple}[kind](_restored(entry) for entry in entries)
