"""The page of several runs side by side: the numbers they share, what their configs differ in, figure beside figure."""

from collections.abc import Sequence
from pathlib import Path

from experiments.compare import differences
from experiments.report import run as one
from experiments.report.elements import details, link, table, tag, text
from experiments.runner.about import in_words
from experiments.runner.past import Past


def page(runs: Sequence[Past], base: Path) -> tuple[str, str]:
    """Title and body."""
    titles = list(dict.fromkeys(run.told.about.title for run in runs))
    summaries = list(dict.fromkeys(run.told.about.summary for run in runs))
    head = tag("h1", " and ".join(titles)) + "".join(tag("p", words, "lead") for words in summaries)
    parts = [head, headline(runs, base), fields(runs), figures(runs)]
    for run in runs:
        whole = one.repeat(run.command) + one.all_tables(run, base) + one.files(run, base) + one.folded(run)
        parts.append(details(f"All of {run.workdir.name}", whole))
    return f"{len(runs)} runs", "".join(parts)


def headline(runs: Sequence[Past], base: Path) -> str:
    """A row a metric, a column a run."""
    metrics = {line.metric.name: line.metric for run in runs for line in run.headline}
    values = [{line.metric.name: line.value for line in run.headline} for run in runs]
    expected = {line.metric.name: line.expected for run in runs for line in run.headline if line.expected}
    names = [f"{link(run.workdir, base, run.workdir.name)} ({text(run.state)})" for run in runs]
    rows = [
        (name, *(found.get(name) for found in values), in_words(expected.get(name)), metric.meaning)
        for name, metric in metrics.items()
    ]
    columns = ("metric", *(f"run {i + 1}" for i in range(len(runs))), "expected", "what it is")
    listed = "".join(f"<li>{name}</li>" for name in names)
    return f"<ol>{listed}</ol>{table(columns, rows)}"


def fields(runs: Sequence[Past]) -> str:
    """The fields of the configs that are not the same in all runs."""
    rows = differences(runs)
    if not rows:
        return tag("p", "They have the same config.", "soft")
    columns = ("field", *(f"run {i + 1}" for i in range(len(runs))))
    return f"<h2>What was varied</h2>{table(columns, rows)}"


def figures(runs: Sequence[Past]) -> str:
    """Figures of the same name beside each other."""
    made = [one.pictures(run) for run in runs]
    parts = []
    for name in dict.fromkeys(name for found in made for name in found):
        beside = "".join(
            f"<div>{tag('div', f'run {i + 1}', 'soft')}{found[name]}</div>"
            for i, found in enumerate(made)
            if name in found
        )
        parts.append(f"<h2>{text(name.replace('_', ' '))}</h2><div class=pair>{beside}</div>")
    return "".join(parts)
