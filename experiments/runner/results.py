"""Runs read back: the rows of a sweep or of a folder of runs, what is missing, and a run's tables."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runner.store import folder
from experiments.runner.store.encoding import dumps, read_json

SWEEP = "sweep.json"  # in a sweep's folder: its tasks
ORIGIN = ("folder", "commit", "dirty", "sessions")
Row = dict[str, Any]


class Gathered(NamedTuple):
    """One row a finished run in the sweep's order, the varied fields, and what is missing with the reason."""

    rows: list[Row]
    varied: list[str]
    missing: list[tuple[str, str]]


def is_sweep(root: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (root / SWEEP).exists()


def gather(root: Path) -> Gathered:
    """Read every run of a sweep, or every run below a folder; ValueError when none has finished."""
    tasks = list(listed(root))
    if not tasks:
        raise ValueError(f"{root} holds no run")
    found, missing = [], []
    for workdir, overrides in tasks:
        try:
            found.append((workdir, overrides, read_json(workdir / folder.CONFIG), folder.result(workdir)))
        except FileNotFoundError:
            failed = (workdir / folder.FAILURE).exists()
            missing.append((workdir.name, "failed" if failed else "not finished"))
        except ValueError as error:
            missing.append((workdir.name, str(error)))
    if not found:
        raise ValueError(f"no run in {root} has finished")
    configs = [flat(config) for _, _, config, _ in found]
    varied = _varied(configs, [overrides for _, overrides, _, _ in found])
    results = [{f"result.{k}" if k in varied else k: v for k, v in flat(result).items()} for *_, result in found]
    names = list(dict.fromkeys(name for result in results for name in result))
    rows = []
    for (workdir, *_), config, result in zip(found, configs, results, strict=True):
        row = {name: config.get(name) for name in varied} | {name: result.get(name) for name in names}
        rows.append(row | origin(root, workdir))
    return Gathered(rows, varied, missing)


def listed(root: Path) -> Iterable[tuple[Path, Row | None]]:
    """Folder and overrides of every task of a sweep, begun or not; of another folder, the runs below it, and None."""
    if is_sweep(root):
        tasks = read_json(root / SWEEP)
        try:
            return [(root / task["folder"], task["overrides"]) for task in tasks["tasks"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{root / SWEEP} is no list of tasks") from error
    below = (path.parent for path in sorted(root.rglob(folder.CONFIG)))
    return [(path, None) for path in below if folder.REPLACED not in path.parts]


def _varied(configs: Sequence[Row], overrides: Sequence[Row | None]) -> list[str]:
    """The config fields that a sweep sets, or that differ between loose runs."""
    named = [name for entry in overrides for name in entry or {}]
    unique = list(dict.fromkeys(named or [name for config in configs for name in config]))
    if named:
        return unique
    return [name for name in unique if len({dumps(config.get(name)) for config in configs}) > 1]


def origin(root: Path, workdir: Path) -> Row:
    """Folder, commit, dirty flag and number of sessions of a run."""
    try:
        sessions = read_json(workdir / folder.ENVIRONMENT)
    except (FileNotFoundError, ValueError):
        sessions = None
    if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions) or not sessions:
        sessions = [{}]
    last = sessions[-1]
    values = (workdir.relative_to(root).as_posix(), last.get("commit"), last.get("dirty"), len(sessions))
    return dict(zip(ORIGIN, values, strict=True))


def flat(value: Any, prefix: str = "") -> Row:
    """Nested dicts as dotted names; lists are kept as JSON text."""
    row: Row = {}
    for name, entry in value.items():
        if isinstance(entry, dict):
            row |= flat(entry, f"{prefix}{name}.")
        else:
            row[prefix + name] = dumps(entry) if isinstance(entry, list) else entry
    return row


def tables(workdir: Path) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """Name, columns and rows of every table that a run kept, numbers as numbers."""
    for path in sorted((workdir / folder.TABLES).glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as stream:
            columns, *rows = list(csv.reader(stream)) or [[]]
        yield path.stem, columns, [[_number(cell) for cell in row] for row in rows]


def _number(text: str) -> Any:
    try:
        return float(text) if not text.lstrip("-").isdigit() else int(text)
    except ValueError:
        return text
