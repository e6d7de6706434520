"""The figures of arXiv 2304.13276 from the sweep of configs/icl_paper.py: `python -m experiments.icl.paper SWEEP`.

Writes paper.md and paper-<n>.png into the sweep's folder: in the paper's order, ours beside what it claims. Tasks that
have not finished are left out and named; the exit code is then 1.
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.runner.command import EXIT_FAILED, command, unreadable_is_usage
from experiments.runner.figures import MARKERS, PALETTE, band, canvas
from experiments.runner.results import listed
from experiments.runner.screen import clean
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json, write_atomic

WIDTH = 20  # d of the figures over training
MEASURES = (
    ("loss", "loss"),
    ("gd/prediction_difference", "prediction difference"),
    ("gd/sensitivity_difference", "model difference"),
    ("gd/cosine", "model cosine"),
)
OVER_TRAINING = "one softmax layer comes to the loss of one gradient step, both differences to 0 and the cosine near 1"
AGAINST_D = "the two losses stay together for every d"


class Cell(NamedTuple):
    """A finished task of the sweep: n words, dimension d, its folder and its arms in result.json."""

    n: int
    d: int
    workdir: Path
    arms: Mapping[str, Any]


def cells(root: Path) -> tuple[list[Cell], list[str]]:
    """The finished cells of a sweep, and the names of the tasks that are missing."""
    found, missing = [], []
    for workdir, _ in listed(root):
        if (workdir / folder.RESULT).exists():
            task = read_json(workdir / folder.CONFIG)["task"]
            found.append(Cell(task["length"], task["dimension"], workdir, folder.result(workdir)["arms"]))
        else:
            missing.append(workdir.name)
    return found, missing


def against_d(members: Sequence[Cell]) -> bytes:
    """Final measures against d for one n, a PNG: means over the seeds with their 95% bootstrap bands."""
    members = sorted(members, key=lambda cell: cell.d)
    d = [cell.d for cell in members]
    figure, (panels,) = canvas(1, len(MEASURES), width=3.0)
    for panel, (name, title) in zip(panels, MEASURES, strict=True):
        for i, kind in enumerate(members[0].arms):
            runs = np.array([cell.arms[kind]["final"][name] for cell in members], float).T
            band(panel, d, runs, label=f"{kind} attention", color=PALETTE[i], marker=MARKERS[i])
        if name == "loss":
            known = [next(iter(cell.arms.values()))["references"] for cell in members]
            for key, style, text in (("gd", "k.--", "gradient step"), ("zero", "k.:", "zero")):
                panel.plot(d, [losses[key] for losses in known], style, label=text)
        panel.set(title=title, xlabel="d", xscale="log")
        panel.set_xticks(d, [str(value) for value in d])
        panel.minorticks_off()
    panels[0].legend(fontsize=7)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def lines(members: Sequence[Cell]) -> str:
    """A Markdown table of one n: losses and cosines with their spread over the seeds, by d."""
    columns = ("d", "zero", "gradient step", "learner", "loss (least to most)", "cosine", "past the plateau")
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for cell in sorted(members, key=lambda cell: cell.d):
        for kind, arm in cell.arms.items():
            loss, known = np.array(arm["final"]["loss"], float), arm["references"]
            share = f"{round(arm['past_plateau'] * len(loss))} of {len(loss)}"
            rows.append(
                f"| {cell.d} | {known['zero']:.4f} | {known['gd']:.4f} | {kind} attention | {loss.mean():.4f} "
                f"({loss.min():.4f} to {loss.max():.4f}) | {np.mean(arm['final']['gd/cosine']):.4f} | {share} |"
            )
    return "\n".join(rows) + "\n"


def page(root: Path) -> tuple[str, dict[str, bytes], list[str]]:
    """The page as Markdown, its own figures by file name, and the missing tasks."""
    found, missing = cells(root)
    if not found:
        raise ValueError(f"no task of {root} has finished")
    parts, images = ["# One softmax layer against one gradient step, after arXiv 2304.13276\n"], {}
    lengths = sorted({cell.n for cell in found})
    for n in lengths:
        parts += [_training(cell, root) for cell in found if (cell.n, cell.d) == (n, WIDTH)]
    for n in reversed(lengths):
        members, name = [cell for cell in found if cell.n == n], f"paper-{n}.png"
        images[name] = against_d(members)
        head = f"## Loss against d, n = {n}\n\nPublished: {AGAINST_D}.\n"
        parts += [head, f"![against d]({name})\n", lines(members)]
    parts += [_training(cell, root) for cell in found if cell.d != WIDTH]
    if missing:
        parts.append(f"Not finished: {', '.join(missing)}.\n")
    return "\n".join(parts), images, missing


def _training(cell: Cell, root: Path) -> str:
    figure = (cell.workdir / folder.FIGURES / "curves.png").relative_to(root).as_posix()
    return f"## Over training, n = {cell.n}, d = {cell.d}\n\nPublished: {OVER_TRAINING}.\n\n![curves]({figure})\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the sweep on the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.icl.paper", description=__doc__, allow_abbrev=False)
    parser.add_argument("root", type=Path, metavar="SWEEP", help="the folder of a sweep of configs/icl_paper.py")
    return command(lambda: _main(parser.parse_args(argv).root))


def _main(root: Path) -> int:
    with unreadable_is_usage():
        text, images, missing = page(root)
    for name, image in images.items():
        write_atomic(root / name, image)
    write_atomic(root / "paper.md", text.encode())
    print(clean(str(root / "paper.md")))
    return EXIT_FAILED if missing else 0


if __name__ == "__main__":
    sys.exit(main())
