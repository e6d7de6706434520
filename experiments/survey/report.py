"""What a survey leaves: a table of all heads, a picture by layer and head, and their medians."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from experiments.runner import figures
from experiments.runner.record import Record
from experiments.survey.fits import FITS
from experiments.survey.statistics import STATISTICS

TITLES = {
    "of_uniform": "entropy, of the largest",
    "sharpness": "sd of centred logits",
    "token_0": "mass on token 0",
    "at_zero": "loss at zero",
    "start": "held-out loss of the start",
    "heldout": "held-out loss of the fit",
    "seconds": "seconds of the fit",
}
COLUMNS = (*STATISTICS, "start", *FITS, "determined", "unknowns")
LOSSES, FLOOR = ("start", "heldout"), 1e-12


def report(record: Record, config: Any, table: np.ndarray, layers: list[int], seconds: float) -> dict[str, Any]:
    """The table of the heads (layers, heads, columns), the picture, and the content of result.json."""
    # A column that nobody asked for has no number; it is left out.
    kept = [i for i, _ in enumerate(COLUMNS) if np.isfinite(table[layers][..., i]).any()]
    names = [COLUMNS[i] for i in kept]
    rows = [[layer, head, *table[layer, head, kept]] for layer in layers for head in range(table.shape[1])]
    record.arrays("solution", table=table)
    record.table("heads", ("layer", "head", *names), rows)
    by_layer = np.nanmedian(table[layers][..., kept], axis=1)
    record.table("layers", ("layer", *names), [[layer, *row] for layer, row in zip(layers, by_layer, strict=True)])
    words = "A square a head, layers from top to bottom; the table heads has the numbers."
    texts = config.data.documents + config.data.heldout_documents
    title = f"{config.data.model}: {len(rows)} heads, {texts} texts of {config.data.tokens} tokens"
    record.figure("heads", picture(table[layers], layers, title), caption=words)
    medians = {name: float(np.nanmedian(table[layers][..., i])) for name, i in zip(names, kept, strict=True)}
    return {"model": config.data.model, "heads": len(rows), "wall_seconds": seconds, "median": medians}


def picture(table: np.ndarray, layers: list[int], title: str) -> Any:
    """One panel a column, layers from top to bottom; losses in colours of their logarithm."""
    shown = [name for name in TITLES if np.isfinite(table[..., COLUMNS.index(name)]).any()]
    across = min(len(shown), 4)
    figure, axes = figures.canvas(-(-len(shown) // across), across, width=3.2, height=1.2 + 0.13 * len(layers))
    for axis, name in zip(axes.flat, shown, strict=False):
        values = table[..., COLUMNS.index(name)]
        scale: dict[str, Any] = dict(norm=LogNorm(FLOOR, 1.0)) if name in LOSSES else dict(vmin=0.0)
        image = axis.imshow(np.maximum(values, FLOOR) if name in LOSSES else values, aspect="auto", **scale)
        axis.grid(False)
        axis.set(title=TITLES[name], xlabel="head", ylabel="layer")
        axis.set_xticks(range(0, table.shape[1], -(-table.shape[1] // 12)))
        some = range(0, len(layers), -(-len(layers) // 10))
        axis.set_yticks(list(some), [str(layers[i]) for i in some])
        figure.colorbar(image, ax=axis)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return figure
