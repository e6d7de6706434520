"""What a compression leaves: errors by rank and method, ours over the best closed form, and a picture."""

from typing import Any

import numpy as np

from attnreg.data.models import key_cache_bytes
from experiments.compress.data import PARTS, Texts
from experiments.compress.methods import CLOSED, METHODS, OURS
from experiments.runner import figures
from experiments.runner.record import Record

KINDS = ("maps", "outputs")
EXACT = 1e-9  # errors below are rounding: at the full width every method is exact
NAMES = {
    "weights": "closed form, weights",
    "logits": "closed form, logits",
    "centred": "closed form, centred logits",
    "ours": "after the softmax",
}


def progress(state: dict[str, Any], layer: int, index: int) -> dict[str, float]:
    """One line about a layer at one rank: medians over its heads on test texts."""
    errors = state["errors"][index, :, layer, -1, 0]
    return {
        "ours": float(np.median(errors[-1])),
        "closed": float(np.median(np.min(errors[:-1], axis=0))),
        "seconds": float(np.sum(state["seconds"][index, layer])),
    }


def report(
    record: Record, texts: Texts, ranks: tuple[int, ...], state: dict[str, Any], layers: int, whole: tuple[str, ...]
) -> dict[str, Any]:
    """Tables, the figure and the content of result.json, over the first `layers` layers."""
    config = texts.model.config
    found = {rank: _of_rank(state, i, layers) for i, rank in enumerate(ranks)}
    for i, rank in enumerate(ranks):
        found[rank]["key_cache_bytes"] = key_cache_bytes(config, rank)
        if whole:
            found[rank]["whole"] = {
                name: dict(zip(whole, map(float, state["whole"][i, m]), strict=True)) for m, name in enumerate(METHODS)
            }
    _tables(record, ranks, found, state, layers, whole)
    compared = [i for i, rank in enumerate(ranks) if not found[rank]["exact"]]
    if compared:
        errors = state["errors"][compared][:, :, :layers, -1]
        heads = errors.shape[2] * errors.shape[4]
        words = f"Median over {heads} heads, and the middle half of them, on texts that decided nothing."
        record.figure("errors", errors_by_rank([ranks[i] for i in compared], errors, texts.title), caption=words)
    return {
        "title": texts.title,
        "heads": layers * config.heads,
        "key_cache_bytes_uncompressed": key_cache_bytes(config),
        "ranks": {str(rank): found[rank] for rank in ranks},
        "seconds": float(np.sum(state["seconds"])),
    }


def gains(errors: np.ndarray) -> np.ndarray:
    """The least error of a closed form over ours, for each head, from errors (methods, …): above 1 ours is better.

    The closed form is chosen by the very errors that judge it, which favours it.
    """
    best = np.min(errors[: len(CLOSED)], axis=0)
    return np.maximum(best, EXACT) / np.maximum(errors[METHODS.index(OURS)], EXACT)


def _of_rank(state: dict[str, Any], i: int, layers: int) -> dict[str, Any]:
    errors = state["errors"][i][:, :layers]
    test = errors[:, :, PARTS.index("test")]
    each = gains(test[:, :, 0])
    return {
        "exact": bool(np.max(test) < EXACT),
        "gain": {"median": float(np.median(each)), "worst": float(np.min(each)), "best": float(np.max(each))},
        "gain_outputs": float(np.median(gains(test[:, :, 1]))),
        "better": float(np.mean(each > 1)),
        "errors": {
            name: {
                part: {kind: float(np.median(errors[m, :, p, k])) for k, kind in enumerate(KINDS)}
                for p, part in enumerate(PARTS)
            }
            for m, name in enumerate(METHODS)
        },
        "layer_outputs": {name: float(np.median(state["layers"][i, m, :layers, -1])) for m, name in enumerate(METHODS)},
        "seconds": float(np.sum(state["seconds"][i])),
    }


def _tables(record: Record, ranks: Any, found: dict[int, Any], state: Any, layers: int, whole: tuple[str, ...]) -> None:
    heads = state["errors"].shape[-1]
    rows = [
        [
            rank,
            layer,
            h,
            name,
            part,
            *map(float, state["errors"][i, m, layer, p, :, h]),
            float(state["pull"][i, layer, h]),
        ]
        for i, rank in enumerate(ranks)
        for layer in range(layers)
        for h in range(heads)
        for m, name in enumerate(METHODS)
        for p, part in enumerate(PARTS)
    ]
    record.table("heads", ("rank", "layer", "head", "method", "texts", *KINDS, "pull"), rows)
    # The last tables are the first that a reader sees.
    medians = lambda rank, name: [found[rank]["errors"][name]["test"][kind] for kind in KINDS]  # noqa: E731
    lines = [
        [rank, name, *medians(rank, name), found[rank]["layer_outputs"][name]] for rank in ranks for name in METHODS
    ]
    record.table("errors", ("rank", "method", "maps", "head outputs", "layer outputs"), lines)
    columns = (
        "rank",
        "key bytes a token",
        "median gain",
        "worst head",
        "best head",
        "better, share",
        "outputs, median",
    )
    lines = [
        [rank, of["key_cache_bytes"], *of["gain"].values(), of["better"], of["gain_outputs"]]
        for rank, of in found.items()
    ]
    record.table("gains", columns, lines)
    if whole:
        lines = [[rank, name, *found[rank]["whole"][name].values()] for rank in ranks for name in METHODS]
        record.table("whole", ("rank", "method", *whole), lines)


def errors_by_rank(ranks: list[int], errors: np.ndarray, title: str) -> Any:
    """Median over heads and the band that holds the middle half of them, for maps and for head outputs.

    `errors` are (rank, method, layer, maps or outputs, head).
    """
    figure, axes = figures.canvas(1, 2, width=4.2, height=3.4)
    for k, (panel, kind) in enumerate(zip(axes[0], ("attention maps", "head outputs"), strict=True)):
        for m, name in enumerate(METHODS):
            values = errors[:, m, :, k].reshape(len(ranks), -1)
            low, middle, high = np.percentile(values, (25, 50, 75), axis=1)
            color = figures.PALETTE[(1, 2, 3, 0)[m]]
            panel.fill_between(ranks, low, high, color=color, alpha=0.15, linewidth=0)
            style = dict(linestyle="-" if name == OURS else "--", marker=figures.MARKERS[m], markersize=3.5)
            panel.plot(ranks, middle, color=color, label=NAMES[name], **style)
        panel.set(xscale="log", yscale="log", xlabel="rank", xticks=ranks, xticklabels=ranks, title=kind)
        panel.minorticks_off()
    axes[0, 1].sharey(axes[0, 0])
    axes[0, 0].set_ylabel("squared error, relative, test texts")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(METHODS), frameon=False)
    figure.suptitle(f"{title}: median head, and the middle half of them", fontsize="medium")
    return figure
