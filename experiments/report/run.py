"""The page of one run: what was asked, what came out beside what was expected, figures, tables, files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report.elements import details, grouped, link, picture, table, tag, text
from experiments.runner import past
from experiments.runner.about import in_words
from experiments.runner.past import Headline, Past
from experiments.runner.results import flat, tables
from experiments.runner.screen import age, duration, short
from experiments.runner.store import folder
from experiments.runner.store.encoding import dumps, read_json, read_lines

LONG = 120  # letters of a value that is not shown in the page
FILES = (folder.RESULT, folder.CONFIG, folder.METRICS, folder.ENVIRONMENT, folder.LOG, "solution.npz", folder.FAILURE)


def page(run: Past, base: Path) -> tuple[str, str]:
    """Title and body."""
    parts = [opening(run), cards(run.headline), repeat(run.command), figures(run), all_tables(run, base)]
    return run.told.about.title, "".join([*parts, files(run, base), folded(run)])


def opening(run: Past) -> str:
    """The title, what was asked in a sentence, and when and by which code it was answered."""
    last = run.sessions[-1] if run.sessions else {}
    took = _seconds(run)
    commit = str(last.get("commit") or "")[:10]
    facts = [
        run.told.config and f"{run.told.config}{' with ' + ' '.join(run.told.overrides) if run.told.overrides else ''}",
        f"{run.state}{f' in {duration(took)}' if took else ''}, {age(run.seconds_ago)} before this page was made",
        commit and f"commit {commit}{' with changes' if last.get('dirty') else ''}",
        _device(last),
    ]
    words = run.told.about
    why = tag("p", past.failure(run.workdir), "missed") if run.state == past.FAILED else ""
    lead = tag("p", words.summary, "lead") + tag("p", " · ".join(fact for fact in facts if fact), "soft")
    return tag("h1", words.title) + lead + why


def _seconds(run: Past) -> float | None:
    """Of work, at the last line of the metrics."""
    try:
        lines = read_lines(run.workdir / folder.METRICS)
    except ValueError:
        return None
    found = lines[-1].get("time") if lines else None
    return found if isinstance(found, int | float) else None


def _device(session: Mapping[str, Any]) -> str:
    devices = session.get("devices")
    if not isinstance(devices, dict):
        return ""
    return f"{devices.get('count')} {devices.get('kind')}, {session.get('precision')}"


def cards(headline: Sequence[Headline]) -> str:
    """A card a headline metric: its value, what it is, and what was expected of it."""
    made = []
    for line in headline:
        verdict = ""
        if line.expected is not None:
            kind, word = {True: ("met", "as expected"), False: ("missed", "not as expected"), None: ("", "")}[line.met]
            words = f"{word}: {in_words(line.expected)}" if word else f"expected {in_words(line.expected)}"
            verdict = f'<span class="verdict {kind}">{text(words)}</span>'
        value = f"{line.value:.4g}" if line.value is not None else "–"
        what = tag("div", line.metric.meaning, "what")
        made.append(f"<div class=card>{tag('div', line.metric.name, 'name')}<b>{text(value)}</b>{what}{verdict}</div>")
    return f"<div class=cards>{''.join(made)}</div>" if made else ""


def repeat(command: str) -> str:
    """The command that makes it again."""
    return f"<p class=soft>The command that repeats it:</p>{tag('pre', command)}" if command else ""


def captions(run: Past) -> dict[str, str]:
    """What the experiment said of its figures and tables, in the order in which it made them."""
    try:
        found = read_json(run.workdir / folder.CAPTIONS)
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): str(words) for name, words in found.items()} if isinstance(found, dict) else {}


def pictures(run: Past) -> dict[str, str]:
    """Every figure of a run, by name, in its order."""
    said, where = captions(run), run.workdir / folder.FIGURES
    order = list(said)
    paths = sorted(where.glob("*.png"), key=lambda p: (_place(order, f"{folder.FIGURES}/{p.stem}"), p.name))
    return {
        path.stem: picture(path.read_bytes(), said.get(f"{folder.FIGURES}/{path.stem}") or path.stem, path.stem)
        for path in paths
        if not path.is_symlink()
    }


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def figures(run: Past) -> str:
    """All figures under one heading."""
    made = pictures(run)
    return f"<h2>Figures</h2>{''.join(made.values())}" if made else ""


def all_tables(run: Past, base: Path) -> str:
    """All tables under one heading, each with a link to its file."""
    said, parts = captions(run), []
    for name, columns, rows in sorted(tables(run.workdir), key=lambda t: _place(list(said), f"{folder.TABLES}/{t[0]}")):
        words = said.get(f"{folder.TABLES}/{name}") or name.replace("_", " ")
        file = link(run.workdir / folder.TABLES / f"{name}.csv", base)
        parts.append(f"{table(columns, rows, caption=words)}<p class=soft>All digits: {file}</p>")
    return f"<h2>Tables</h2>{''.join(parts)}" if parts else ""


def files(run: Past, base: Path) -> str:
    """Links to the raw files."""
    there = [run.workdir / name for name in FILES if (run.workdir / name).exists()]
    others = [path for path in sorted(run.workdir.glob("*.npz")) if path not in there]
    drawn = sorted(p for p in (run.workdir / folder.FIGURES).glob("*") if p.suffix in (".svg", ".pdf"))
    links = "".join(f"<li>{link(path, base)}</li>" for path in (*there, *others, *drawn))
    return f"<h2>Files</h2><ul>{links}</ul>"


def folded(run: Past) -> str:
    """Config, result and environment in full, folded."""
    result = {name: value for name, value in flat(run.result).items() if len(short(value)) <= LONG}
    parts = [details("Every field of the config", grouped(flat(run.config)))]
    if result:
        parts.append(details("Every number of the result", grouped(result)))
    if run.sessions:
        parts.append(details("Sessions and versions", tag("pre", dumps(run.sessions, indent=2))))
    return "".join(parts)
