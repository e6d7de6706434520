"""All heads of a sweep in one table and one picture: `python -m experiments.recover.survey runs/x-sweep`.

Reads the finished runs of a sweep over `data.layer` and `data.head`. Writes heads.csv (held-out and test loss, cosine
of the logits, seconds, why it ended; the worst head first) and heads.png (layers by heads, coloured by held-out loss).
Exit code 1 when a run is missing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from experiments.runner import figures
from experiments.runner.command import EXIT_FAILED, command, unreadable_is_usage
from experiments.runner.results import Row, gather
from experiments.runner.screen import clean, console
from experiments.runner.sheet import sheet
from experiments.runner.store.encoding import write_atomic

PLACE = ("data.layer", "data.head")
COLUMNS = (*PLACE, "heldout", "test", "least_cosine", "largest_distance", "seconds", "reason")
LEVELS = (1e-3, 1e-4, 1e-6)
WORST = 12  # rows shown


def main(argv: Sequence[str] | None = None) -> int:
    """Survey the sweep that the command line names; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.recover.survey", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("root", type=Path, help="a sweep's folder")
    root = parser.parse_args(argv).root
    return command(lambda: _survey(root))


def _survey(root: Path) -> int:
    with unreadable_is_usage():
        rows, _, missing = gather(root)
        if absent := [name for name in COLUMNS if name not in rows[0]]:
            raise ValueError(f"{root}: its runs have no {absent[0]}; it is no sweep of configs/recover_head.py")
    ordered = sorted(rows, key=lambda row: -row["heldout"])
    lines = [",".join(COLUMNS), *(",".join(_text(row[name]) for name in COLUMNS) for row in ordered)]
    write_atomic(root / "heads.csv", "\n".join([*lines, ""]).encode())
    figure = picture(rows, rows[0]["unit"])
    figure.savefig(root / "heads.png")
    plt.close(figure)
    screen = console()
    screen.print(sheet("worst heads", COLUMNS, [[row[name] for name in COLUMNS] for row in ordered[:WORST]]))
    for level in LEVELS:
        screen.print(f"held out at most {level:.0e}: {count(rows, level)} of {len(rows)}")
    for name, why in missing:
        print(clean(f"missing: {name} ({why})"), file=sys.stderr)
    return EXIT_FAILED if missing else 0


def count(rows: Sequence[Row], level: float) -> int:
    """How many heads have a held-out loss of at most `level`."""
    return sum(row["heldout"] <= level for row in rows)


def picture(rows: Sequence[Row], unit: str) -> Any:
    """Held-out loss of every head, layers from top to bottom; a head that is missing stays white."""
    layers, heads = (1 + max(row[name] for row in rows) for name in PLACE)
    losses = np.full((layers, heads), np.nan)
    for row in rows:
        losses[row[PLACE[0]], row[PLACE[1]]] = max(row["heldout"], 1e-16)
    low = min(float(np.nanmin(losses)), 1e-9)
    figure, axes = figures.canvas(width=0.62 * heads + 1.6, height=0.55 * layers + 1.2)
    image = axes[0, 0].imshow(losses, norm=LogNorm(low, 1.0), cmap="viridis", aspect="auto")
    for (layer, head), loss in np.ndenumerate(losses):
        if np.isfinite(loss):
            dark = np.log(loss / low) < 0.6 * np.log(1 / low)
            color = "white" if dark else "black"
            axes[0, 0].text(head, layer, str(round(np.log10(loss))), ha="center", va="center", color=color, fontsize=7)
    axes[0, 0].grid(False)
    axes[0, 0].set(xlabel="head", ylabel="layer", xticks=range(heads), yticks=range(layers))
    axes[0, 0].set_title("held-out loss, and its power of ten")
    figure.colorbar(image, ax=axes[0, 0], label=unit)
    return figure


def _text(value: Any) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
