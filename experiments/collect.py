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

import numpy as np

from experiments.runner.command import EXIT_FAILED, called, command, unreadable_is_usage
from experiments.runner.results import ORIGIN, Row, gather
from experiments.runner.screen import clean, console
from experiments.runner.sheet import sheet
from experiments.runner.statistics import bootstrap_band
from experiments.runner.store.encoding import dumps, write_atomic


def main(argv: Sequence[str] | None = None) -> int:
    """Collect what the command line names; the exit code."""
    parser = argparse.ArgumentParser(prog=called("collect"), description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("root", type=Path, help="a sweep's folder, or any folder of runs")
    parser.add_argument("--by", default="", help="comma-separated columns to group by")
    parser.add_argument("--metric", default="", help="comma-separated result columns (default: all numbers)")
    options = parser.parse_args(argv)
    return command(lambda: _collect(options))


def _collect(options: argparse.Namespace) -> int:
    with unreadable_is_usage():
        rows, varied, missing = gather(options.root)
    write_csv(options.root / "results.csv", list(rows[0]), rows)
    parquet = write_parquet(options.root / "results.parquet", rows)
    screen = console()
    screen.print(f"{len(rows)} runs in {options.root / 'results.csv'}{' and .parquet' if parquet else ''}")
    if options.by:
        metrics = [name for name in options.metric.split(",") if name] or _metrics(rows, varied)
        with unreadable_is_usage():
            grouped = groups(rows, options.by.split(","), metrics)
        write_csv(options.root / "groups.csv", list(grouped[0]), grouped)
        screen.print(sheet("groups", list(grouped[0]), [list(row.values()) for row in grouped]))
    for name, why in missing:
        print(clean(f"missing: {name} ({why})"), file=sys.stderr)
    return EXIT_FAILED if missing else 0


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


def bootstrap(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval; NaN when any value is not finite, and for the interval of one value."""
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(values).all():
        return mean, float("nan"), float("nan")
    _, (low,), (high,) = bootstrap_band(values[:, None], level=0.95, resamples=4000)
    return mean, float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
