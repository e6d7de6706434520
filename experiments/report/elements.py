"""The pieces of a page: every text is escaped here, and nowhere is a script, a font or an image loaded."""

import base64
import html
import os
import struct
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runner.screen import short

MOST_ROWS = 40  # of a table; its file has all
SAID = 24  # letters; a cell of more is a sentence, which gets room on a phone
STYLE = """
:root{--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--panel:#f6f8fa;--accent:#0072b2;--good:#0a7d55;--bad:#b0451a}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);max-width:68rem;margin:0 auto;
padding:1.5rem 1rem 4rem;background:#fff;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0 .4rem}
h2{font-size:1.15rem;margin:2.4rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--line)}
p{margin:.4rem 0}.lead{font-size:1.08rem}.soft,figcaption,caption{color:var(--soft);font-size:.9rem}
a{color:var(--accent)}code,pre{font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;margin:.5rem 0;
white-space:pre-wrap}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,13rem),1fr));gap:.8rem;margin:1.2rem 0}
.card{border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem}
.card b{display:block;font-size:1.6rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.25}
.card .name{font-size:.85rem;color:var(--soft)}.card .what{font-size:.9rem}
.verdict{display:inline-block;margin-top:.4rem;font-size:.85rem;border-radius:1rem;padding:.05rem .6rem;
background:var(--panel)}
.met{color:var(--good)}.missed{color:var(--bad);font-weight:600}
.wide{overflow-x:auto;margin:.6rem 0 1.2rem}table{border-collapse:collapse;font-size:.88rem}
caption{text-align:left;padding-bottom:.4rem}
th,td{padding:.28rem .8rem .28rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:normal}
thead th{border-bottom:2px solid var(--line);font-weight:600}th.group{text-align:center;color:var(--soft)}
td{min-width:3.2rem;max-width:26rem}td.said{min-width:13rem}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
figure{margin:1rem 0}img{max-width:100%;height:auto;display:block}img.broad{min-width:46rem}
figcaption{margin-top:.3rem}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--accent)}ul{padding-left:1.2rem}
"""


def page(title: str, body: str) -> str:
    """A whole HTML document that loads nothing; `title` is escaped here, `body` is HTML already."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>"
    )


class Html(str):
    """A text that is HTML already."""


def text(value: Any) -> str:
    """A value as escaped text: numbers with six significant digits, nothing for None."""
    return value if isinstance(value, Html) else html.escape(short(value))


def tag(name: str, value: Any, kind: str = "") -> str:
    """An element around a text."""
    return f"<{name}{f' class={kind}' if kind else ''}>{text(value)}</{name}>"


def link(path: Path, base: Path, words: str = "") -> Html:
    """A link to a file, relative to where the page is."""
    target = urllib.parse.quote(os.path.relpath(path.absolute(), base))
    return Html(f'<a href="{html.escape(target)}">{text(words or path.name)}</a>')


def details(summary: str, body: str) -> str:
    """Something that is folded away until it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def picture(image: bytes, caption: str, alternative: str) -> str:
    """A PNG inside the page, with its caption; a broad one can be moved sideways on a phone, and so be read."""
    data = base64.b64encode(image).decode()
    across, down = struct.unpack(">II", image[16:24]) if len(image) > 24 else (1, 1)
    kind = " class=broad" if across > 2 * down else ""
    return (
        f'<figure><div class=wide><img{kind} alt="{text(alternative)}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]], *, caption: str = "") -> str:
    """An HTML table. What all rows share goes to the caption; a leading cell like the one above it stays empty."""
    names, rows, shared = _shared([str(column) for column in columns], [list(row) for row in rows])
    caption = " ".join(part for part in (caption, f"In every row: {shared}." if shared else "") if part)
    numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(names))]
    head = "".join(f"<th{' class=n' if n else ''}>{text(name)}</th>" for name, n in zip(names, numeric, strict=True))
    lines = "".join(f"<tr>{_cells(row, numeric)}</tr>" for row in _once(rows)[:MOST_ROWS])
    more = f"<p class=soft>{len(rows) - MOST_ROWS} more rows are in the file.</p>" if len(rows) > MOST_ROWS else ""
    words = f"<caption>{text(caption)}</caption>" if caption else ""
    return f"<div class=wide><table>{words}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>{more}"


def _is_numeric(column: Sequence[Any]) -> bool:
    """Whether a column holds numbers, and none but numbers, where it holds anything."""
    filled = [cell for cell in column if cell not in (None, "")]
    return bool(filled) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in filled)


def _cells(row: Sequence[Any], numeric: Sequence[bool]) -> str:
    kinds = (
        "n" if n else "said" if isinstance(cell, str) and len(cell) > SAID else ""
        for cell, n in zip(row, numeric, strict=True)
    )
    return "".join(tag("td", cell, kind) for cell, kind in zip(row, kinds, strict=True))


def _shared(names: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]], str]:
    """The columns whose cells differ, and what the others say in every row."""
    same = [i for i in range(len(names)) if len(rows) > 1 and len({short(row[i]) for row in rows}) == 1]
    if len(same) == len(names):
        return names, rows[:1], ""
    words = ", ".join(f"{names[i]} {short(rows[0][i])}" for i in same if short(rows[0][i]))
    kept = [i for i in range(len(names)) if i not in same]
    return [names[i] for i in kept], [[row[i] for i in kept] for row in rows], words


def _once(rows: list[list[Any]]) -> list[list[Any]]:
    """The rows, with the leading cells that repeat the row above left empty."""
    out, above = [], None
    for row in rows:
        again = 0
        while above is not None and again < len(row) - 1 and short(row[again]) == short(above[again]):
            again += 1
        out.append([None if i < again else cell for i, cell in enumerate(row)])
        above = row
    return out


def grouped(flat: Mapping[str, Any]) -> str:
    """Dotted names and their values, grouped by what stands before the last dot."""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, value in flat.items():
        before, _, last = name.rpartition(".")
        groups.setdefault(before, []).append((last, value))
    lines = []
    for before, entries in groups.items():
        heading = f'<tr><th class=group colspan="2">{text(before)}</th></tr>' if before else ""
        lines.append(heading + "".join(f"<tr><td>{text(n)}</td><td>{text(v)}</td></tr>" for n, v in entries))
    return f"<div class=wide><table><tbody>{''.join(lines)}</tbody></table></div>"
