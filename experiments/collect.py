"""Gather results: `python -m experiments.collect runs/x-sweep [--by learning_rate,n] [--metric error]`.

Writes results.csv (one row a run: what was varied, every number of result.json, where it came from), the same as
results.parquet where polars is installed (pip install 'attnreg[parquet]') and, with `--by`, groups.csv (count, mean and
95 % bootstrap interval of the mean in each group). Exit code 1 when a run of the sweep is missing, so that a script
never averages over less than it believes.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.runner.record import console, rich_table
from experiments.runner.store import folder
from experiments.runner.store.encoding import dumps, read_json, write_atomic
from experiments.runner.tasks import SWEEP

ORIGIN = ("folder", "commit", "dirty", "sessions")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Collect what the command line names; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.collect", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("root", type=Path, help="a sweep's folder, or any folder of runs")
    parser.add_argument("--by", default="", help="comma-separated columns to group by")
    parser.add_argument("--metric", default="", help="comma-separated result columns (default: all numbers)")
    options = parser.parse_args(argv)
    try:
        rows, varied, missing = gather(options.root)
        write_csv(options.root / "results.csv", list(rows[0]), rows)
        screen = console()
        parquet = write_parquet(options.root / "results.parquet", rows)
        screen.print(f"{len(rows)} runs in {options.root / 'results.csv'}{' and .parquet' if parquet else ''}")
        if options.by:
            metrics = [name for name in options.metric.split(",") if name] or _metrics(rows, varied)
            grouped = groups(rows, options.by.split(","), metrics)
            write_csv(options.root / "groups.csv", list(grouped[0]), grouped)
            screen.print(rich_table("groups", list(grouped[0]), [list(row.values()) for row in grouped]))
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, why in missing:
        print(f"missing: {name} ({why})", file=sys.stderr)
    return 1 if missing else 0


class Gathered(NamedTuple):
    """One row a finished run in the sweep's order, the varied fields, and what is missing with the reason."""

    rows: list[Row]
    varied: list[str]
    missing: list[tuple[str, str]]


def gather(root: Path) -> Gathered:
    """Read every run of a sweep, or every run below a folder."""
    if (root / SWEEP).exists():
        listed = [(root / task["folder"], task["overrides"]) for task in read_json(root / SWEEP)["tasks"]]
    else:
        listed = [(path.parent, None) for path in sorted(root.rglob(folder.CONFIG))]
    if not listed:
        raise ValueError(f"{root} holds no run")
    found, missing = [], []
    for workdir, overrides in listed:
        try:
            found.append((workdir, overrides, read_json(workdir / folder.CONFIG), read_json(workdir / folder.RESULT)))
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


def _varied(configs: Sequence[Row], overrides: Sequence[Row | None]) -> list[str]:
    """The config fields that a sweep sets, or that differ between loose runs."""
    named = [name for entry in overrides for name in entry or {}]
    names = named or [name for config in configs for name in config]
    unique = list(dict.fromkeys(names))
    if named:
        return unique
    return [name for name in unique if len({dumps(config.get(name)) for config in configs}) > 1]


def origin(root: Path, workdir: Path) -> Row:
    """Folder, commit, dirty flag and number of sessions of a run."""
    try:
        sessions = read_json(workdir / folder.ENVIRONMENT)
    except (FileNotFoundError, ValueError):
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


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write rows atomically; floats keep every digit, non-finite ones are nan and inf, missing ones empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if row.get(name) is None else row[name] for name in columns} for row in rows)
    write_atomic(path, text.getvalue().encode())


def write_parquet(path: Path, rows: Sequence[Row]) -> bool:
    """Write rows atomically with typed columns, if polars is installed; whether it was."""
    try:
        import polars
    except ImportError:
        return False
    buffer = io.BytesIO()
    polars.DataFrame(list(rows), infer_schema_length=None, strict=False).write_parquet(buffer)
    write_atomic(path, buffer.getvalue())
    return True


def groups(rows: Sequence[Row], by: Sequence[str], metrics: Sequence[str]) -> list[Row]:
    """Count, mean and 95 % interval of every metric in each group, in the order of first appearance."""
    unknown = [name for name in [*by, *metrics] if name not in rows[0]]
    if unknown:
        raise ValueError(f"no column {unknown[0]!r}; there are {', '.join(rows[0])}")
    gathered: dict[str, list[Row]] = {}
    for row in rows:
        gathered.setdefault(dumps([row[name] for name in by]), []).append(row)
    summary = []
    for members in gathered.values():
        line: Row = {name: members[0][name] for name in by} | {"runs": len(members)}
        for name in metrics:
            values = np.array([np.nan if m[name] is None else float(m[name]) for m in members])
            mean, low, high = bootstrap(values)
            line |= {f"{name} mean": mean, f"{name} low": low, f"{name} high": high}
        summary.append(line)
    return summary


def _metrics(rows: Sequence[Row], varied: Sequence[str]) -> list[str]:
    """The columns of numbers that are results."""
    apart = {*varied, *ORIGIN}
    numbers = {n for n, v in rows[0].items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return [name for name in rows[0] if name in numbers - apart]


def bootstrap(values: np.ndarray, *, resamples: int = 4000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and its percentile bootstrap interval, with a fixed seed; NaN when any value is not finite."""
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(values).all():
        return mean, float("nan"), float("nan")
    picks = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
