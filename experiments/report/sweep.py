"""The page of a sweep: its headline metrics against what was varied, a row a task, and what is missing."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import plot
from experiments.report.elements import details, link, picture, table, tag
from experiments.report.run import repeat
from experiments.runner import past
from experiments.runner.past import Past
from experiments.runner.results import ORIGIN, SWEEP, Row, gather, listed
from experiments.runner.screen import age
from experiments.runner.store.encoding import read_json

PLOTS = 3  # metrics that are drawn
Begun = list[tuple[Past, dict[str, Any]]]  # the tasks of a sweep that have a folder, with their overrides


def page(root: Path, base: Path) -> tuple[str, str]:
    """Title and body; ValueError where no task has been begun."""
    begun: Begun = [(past.read(workdir), overrides) for workdir, overrides in past.members(root)]
    if not begun:
        raise ValueError(f"no task of {root} has been begun")
    words = begun[0][0].told.about
    number, finished = len(list(listed(root))), [one for one in begun if one[0].state == past.FINISHED]
    newest = age(min(run.seconds_ago for run, _ in begun))
    counts = f"{len(finished)} of {number} tasks finished; the newest {newest} before this page was made"
    head = tag("h1", f"{words.title}: a sweep") + tag("p", words.summary, "lead") + tag("p", counts, "soft")
    varied = list(dict.fromkeys(name for _, overrides in begun for name in overrides))
    body = [head, figures(finished, varied), repeat(_command(root))]
    body += [tasks(begun, varied, base), missing(root, begun)]
    if finished:
        body.append(details("Every number of the results", others(root)))
    return words.title, "".join(body)


def _command(root: Path) -> str:
    content = read_json(root / SWEEP)
    spec, overrides = str(content.get("config", "")), content.get("overrides") or ()
    command = ["python", "-m", "experiments.sweep", "--config", spec, *map(str, overrides)]
    return shlex.join([*command, "--workdir", str(root)]) if spec else ""


def figures(finished: Begun, varied: Sequence[str]) -> str:
    """The first headline metrics against the field that was varied most."""
    if len(finished) < 2 or not varied:
        return ""
    parts = []
    for place, line in enumerate(finished[0][0].headline[:PLOTS]):
        values = [run.headline[place].value if place < len(run.headline) else None for run, _ in finished]
        drawn = plot.against([overrides for _, overrides in finished], values, line.metric, varied)
        if drawn is not None and len(set(values)) > 1:  # a number that is everywhere the same is in the table
            parts.append(picture(drawn.image, drawn.caption, line.metric.name))
    return f"<div class=pair>{''.join(parts)}</div>" if parts else ""


def tasks(begun: Begun, varied: Sequence[str], base: Path) -> str:
    """A row a task: what it varies, its headline numbers, and a link to its folder."""
    metrics = list(dict.fromkeys(line.metric.name for run, _ in begun for line in run.headline))
    rows = []
    for run, overrides in begun:
        values = {line.metric.name: line.value for line in run.headline}
        fields = (overrides.get(name) for name in varied)
        rows.append((*fields, *(values.get(n) for n in metrics), run.state, link(run.workdir, base, "folder")))
    return f"<h2>Tasks</h2>{table((*varied, *metrics, 'state', 'files'), rows)}"


def missing(root: Path, begun: Begun) -> str:
    """The tasks that have no result, with the reason."""
    states = {run.workdir: run for run, _ in begun}
    rows = []
    for workdir, overrides in listed(root):
        run = states.get(workdir)
        if run is None or run.state != past.FINISHED:
            why = "not begun" if run is None else past.failure(workdir) if run.state == past.FAILED else run.state
            rows.append((workdir.name, " ".join(f"{k}={v}" for k, v in (overrides or {}).items()), why))
    return f"<h2>Missing</h2>{table(('folder', 'task', 'why'), rows)}" if rows else ""


def others(root: Path) -> str:
    """Every number of the results over the tasks: least, median and largest, grouped by the first part of its name."""
    rows, varied, _ = gather(root)
    groups: dict[str, list[tuple[str, float, float, float]]] = {}
    for name in rows[0]:
        values = _numbers(rows, name)
        if name in (*varied, *ORIGIN) or not len(values):
            continue
        first, _, rest = name.partition(".")
        low, middle, high = (float(v) for v in np.quantile(values, (0, 0.5, 1)))
        groups.setdefault(first if rest else "", []).append((rest or first, low, middle, high))
    columns = ("number", "least", "median", "largest")
    return "".join(table(columns, lines, caption=first) for first, lines in groups.items())


def _numbers(rows: Sequence[Row] | Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    found = [row.get(name) for row in rows]
    found = [v for v in found if isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v)]
    return np.asarray(found, dtype=float)
