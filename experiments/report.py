"""One self-contained HTML page of a run or a sweep: `python -m experiments.report runs/x` writes report.html.

Everything shown is escaped: names and values come from configs and results, which may be someone else's.
"""

import argparse
import base64
import html
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.runner.command import command, unreadable_is_usage
from experiments.runner.results import flat, gather, is_sweep, tables
from experiments.runner.screen import clean
from experiments.runner.store import folder
from experiments.runner.store.encoding import dumps, read_json, write_atomic

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-size:13px}td,th{border:1px solid #ccc;padding:.2em .6em}
th{background:#f3f3f3;text-align:left}td{font-variant-numeric:tabular-nums}img{max-width:100%}
pre{background:#f7f7f7;padding:1em;overflow:auto;font-size:13px}div.wide{overflow-x:auto}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the folder on the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("root", type=Path, help="a run's or a sweep's folder")
    root = parser.parse_args(argv).root
    return command(lambda: _report(root))


def _report(root: Path) -> int:
    with unreadable_is_usage():
        body = sweep_page(root) if is_sweep(root) else run_page(root)
    path = root / "report.html"
    write_atomic(path, page(root.name, body).encode())
    print(clean(str(path)))
    return 0


def page(title: str, body: str) -> str:
    """A whole HTML document that loads nothing; `title` is escaped here, `body` is HTML already."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>"
    )


def run_page(root: Path) -> str:
    """Result, tables, figures, config and environment of one run."""
    config = read_json(root / folder.CONFIG)
    result = root / folder.RESULT
    parts = [table(("result", ""), flat(folder.result(root)).items()) if result.exists() else "<p>Not finished.</p>"]
    for name, columns, rows in tables(root):
        parts.append(f"<h2>{html.escape(name)}</h2>{table(columns, rows)}")
    for path in sorted((root / folder.FIGURES).glob("*.png")):
        image = base64.b64encode(path.read_bytes()).decode()
        name = html.escape(path.stem, quote=True)
        parts.append(f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{image}">')
    parts.append(f"<h2>config</h2><pre>{html.escape(dumps(config, indent=2))}</pre>")
    environment = root / folder.ENVIRONMENT
    if environment.exists():
        parts.append(f"<h2>environment</h2><pre>{html.escape(dumps(read_json(environment), indent=2))}</pre>")
    return "".join(parts)


def sweep_page(root: Path) -> str:
    """The table of all results of a sweep, and what is missing."""
    rows, _, missing = gather(root)
    body = table(list(rows[0]), [row.values() for row in rows])
    return body + (f"<h2>missing</h2>{table(('folder', 'why'), missing)}" if missing else "")


def table(columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """An HTML table, every cell escaped."""
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    lines = ("".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row) for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>' + "".join(f"<tr>{x}</tr>" for x in lines) + "</table></div>"


def _text(cell: Any) -> str:
    return "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    sys.exit(main())
