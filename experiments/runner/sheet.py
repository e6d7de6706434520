"""Tables for the screen, which fit its width: no number is ever folded.

A table that is too wide first wraps its texts, then turns (one column a row of before) where that fits, and at last
leaves columns out and says which. Files keep every column.
"""

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from experiments.runner.screen import clean, short

LEAST_TEXT, MOST_WORD = 18, 40  # columns that a wrapped text keeps; a longer word, such as a path, is broken
PADDING = 3  # a cell's blanks and its line


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table as texts; `keep` names the columns that stay when not all fit, after the first one."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    keep: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The layout for a width."""
        width = options.max_width
        if self._least() <= width:
            yield self._table(range(len(self.columns)), width)
            return
        turned = self._turned()
        if len(self.rows) < len(self.columns) and turned._least() <= width:
            yield turned._table(range(len(turned.columns)), width, head=False)
            return
        kept = self._kept(width)
        yield self._table(kept, width)
        left = [name for i, name in enumerate(self.columns) if i not in kept]
        yield Text(textwrap.fill(f"not shown: {', '.join(left)}", width))

    def _widths(self, i: int) -> tuple[int, int]:
        """The widest cell of a column, and the width that it can be wrapped to."""
        cells = [self.columns[i], *(row[i] for row in self.rows)]
        widest = max(map(cell_len, cells))
        words = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        least = min(widest, max(min(words, MOST_WORD), LEAST_TEXT))
        return widest, self._number_width(i) if self.numeric[i] else least

    def _number_width(self, i: int) -> int:
        """Numbers stay whole; their heading may wrap between words."""
        words = (cell_len(word) for word in self.columns[i].split())
        return max([*(cell_len(row[i]) for row in self.rows), *words], default=1)

    def _least(self, chosen: Iterable[int] | None = None) -> int:
        chosen = range(len(self.columns)) if chosen is None else chosen
        return 1 + sum(PADDING + self._widths(i)[1] for i in chosen)

    def _kept(self, width: int) -> list[int]:
        """The first column, those to keep, and then the others from the left, as long as they fit."""
        named = [i for i, name in enumerate(self.columns) if name in self.keep]
        chosen: list[int] = [0] if self.columns else []
        for i in [*named, *range(1, len(self.columns))]:
            if i not in chosen and self._least([*chosen, i]) <= width:
                chosen.append(i)
        return sorted(chosen)

    def _turned(self) -> "Sheet":
        cells = [(name, *(row[i] for row in self.rows)) for i, name in enumerate(self.columns)]
        return Sheet(self.title, ("",) * (1 + len(self.rows)), tuple(cells), (False, *(True,) * len(self.rows)))

    def _table(self, chosen: Sequence[int], width: int, *, head: bool = True) -> Table:
        table = Table(title=self.title, title_justify="left", box=box.ROUNDED, show_header=head)
        spare = max(width - self._least(chosen), 0)
        for i in chosen:
            widest, least = self._widths(i)
            given = least + min(max(widest - least, 0), spare)
            spare -= given - least
            table.add_column(
                self.columns[i], justify="right" if self.numeric[i] else "left", overflow="fold", width=given
            )
        for row in self.rows:
            table.add_row(*(row[i] for i in chosen))
        return table


def sheet(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, keep: Sequence[str] = ()) -> Sheet:
    """A table for the screen: numbers to the right, six significant digits."""
    rows = [list(row) for row in rows]
    filled = [[row[i] for row in rows if row[i] not in (None, "")] for i in range(len(columns))]
    numeric = tuple(bool(cells) and all(isinstance(v, int | float) for v in cells) for cells in filled)
    texts = tuple(tuple(short(v) for v in row) for row in rows)
    return Sheet(clean(title), tuple(clean(str(name)) for name in columns), texts, numeric, tuple(keep))
