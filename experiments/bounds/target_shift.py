"""Weight moves and data moves as shifts of the targets: identity, both bounds, gradient step versus attention layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from attnreg.bounds import Point, published_shift
from attnreg.bounds import target_shift as ts
from attnreg.bounds.domain import Norms
from attnreg.data import cache as model_cache
from experiments.bounds.shift_moves import data_move, documents, instance, weight_move, with_tokens
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError
from experiments.runner.figures import MARKERS, PALETTE, canvas

ABOUT = About(
    "Moves as shifts of the targets",
    "A gradient step or an attention layer moves the targets: the identity, and two bounds on the size of the shift.",
    (
        Metric("identity", "worst error of the identity, in eps", path="identity_worst_in_eps"),
        Metric("tightness", "measured shift over the sharp bound, largest", "higher", "tightness_best.*"),
        Metric("broken", "bounds that failed"),
    ),
)

COLUMNS = ("source", "loss", "move", "size", "shift", "sharp", "norm by norm", "identity in eps")


class Line(NamedTuple):
    """One measured move."""

    source: str
    loss: str
    move: str
    size: float
    shift: float
    sharp: float
    published: float
    identity: float


Measured = list[tuple[Line, np.ndarray]]


class BoundBroken(AssertionError):
    """A measured shift beats a bound, or the identity fails: the message says where and by how much."""


def run(config: Any, record: Any) -> dict[str, Any]:
    """All moves of all sources; fails on a broken bound or identity."""
    if unknown := set(config.losses) - set(ts.LOSSES):
        raise UsageError(f"config.losses has {unknown.pop()!r}; there are {', '.join(ts.LOSSES)}")
    lines, angles, paths, skipped = [], [], [], []
    for s, source in enumerate(config.sources):
        if source == "minilm" and not model_cache.is_cached():
            skipped.append(source)
            record.say("minilm: the weights are not in the cache (python -m attnreg.data.tools.fetch_minilm): skipped")
            continue
        key = jax.random.fold_in(jax.random.key(config.seed), s)
        for document, (tokens, following) in enumerate(documents(source, config, key)):
            for loss in config.losses:
                p = instance(tokens, loss, jax.random.fold_in(jax.random.key(config.seed), 1000 * s + document), config)
                of_steps, of_layers = all_moves(source, loss, p, following, config)
                lines += [*(x for x, _ in of_steps), *(x for x, _ in of_layers)]
                angles += compare(source, loss, of_steps, of_layers)
                paths += [sequence(source, loss, p, config, kind) for kind in ("gradient", *config.kinds)]
            record.log(len(lines), documents=document + 1)
    report(config, record, lines, angles, paths)
    loosest = [max((x.shift / x.sharp for x in lines if x.loss == q), default=0.0) for q in config.losses]
    return {
        "lines": len(lines),
        "identity_worst_in_eps": max(x.identity for x in lines),
        "tightness_best": dict(zip(config.losses, loosest, strict=True)),
        "broken": 0,
        "skipped": skipped,
        "published_M_synthetic": published_shift(config.n, config.radius),
    }


def all_moves(source: str, loss: str, p: Point, following: Any, config: Any) -> tuple[Measured, Measured]:
    """Every weight move and every data move of one instance, measured."""
    of_steps = [measure(source, loss, "gradient", z, p, weight_move(p, loss, z), config) for z in config.steps]
    of_layers = [
        measure(source, loss, kind, z, p, data_move(p, kind, z), config) for kind in config.kinds for z in config.scales
    ]
    if following is not None:
        of_layers.append(measure(source, loss, "next layer", 1.0, p, with_tokens(p, following), config))
    return of_steps, of_layers


def report(config: Any, record: Any, lines: list[Line], angles: list[tuple], paths: list[tuple]) -> None:
    """The three tables and two figures."""
    record.table("shift", COLUMNS, summary(lines))
    columns = ("source", "loss", "layer", "cosine", "relative difference")
    record.table("gradient_against_layer", columns, angles_table(angles))
    ends = [(*p[:3], config.sequence, p[3][-1], p[4][-1]) for p in paths]
    record.table("sequences", ("source", "loss", "move", "T", "shift", "telescoped"), ends)
    record.figure("shift", shift_figure(lines, config))
    record.figure("sequence", sequence_figure(paths, config))


def measure(
    source: str, loss: str, move: str, size: float, p: Point, moved: Point, config: Any
) -> tuple[Line, np.ndarray]:
    """One line and the shift itself; raises when the identity or the order of the bounds fails."""
    B = ts.shifted_targets(p, moved, loss)
    left, right = ts.residual(moved._replace(B=p.B), loss), ts.residual(p._replace(B=B), loss)
    terms = 1.0
    if loss in ts.ACTIVATIONS:
        sizes = (jnp.sum(jnp.abs(ts.Q.activated(z, ts.ACTIVATIONS[loss])), axis=1) for z in (moved, p))
        terms = sum(float(jnp.max(size)) for size in sizes)
    scale = max(terms, float(jnp.max(jnp.abs(p.B))), float(jnp.max(jnp.abs(left))))
    identity = float(jnp.max(jnp.abs(left - right))) / (scale * float(jnp.finfo(B.dtype).eps))
    shift = np.asarray(B - p.B)
    line = Line(
        source, loss, move, size, float(np.linalg.norm(shift)), ts.shift_limit(p, moved, loss),
        ts.published_limit(p, moved, loss), identity,
    )  # fmt: skip
    slack = 1.0 + 1e-9
    if (
        identity > config.identity_eps
        or not line.shift <= line.sharp * slack
        or not line.sharp <= line.published * slack
    ):
        raise BoundBroken(f"identity, or shift ≤ sharp ≤ norm by norm, fails: {line} on {Norms.of(p, moved)}")
    return line, shift


def sequence(source: str, loss: str, p: Point, config: Any, kind: str) -> tuple:
    """T successive updates: the total shift after each, and the telescoped bound."""
    path, shifts, limits = [p], [], []
    for _ in range(config.sequence):
        here = path[-1]
        moved = (
            weight_move(here, loss, config.sequence_step)
            if kind == "gradient"
            else data_move(here, kind, config.sequence_step / 4)
        )
        path.append(moved)
        shifts.append(float(np.linalg.norm(np.asarray(ts.shifted_targets(p, moved, loss) - p.B))))
        limits.append(ts.telescoped_limit(path, loss))
        if not shifts[-1] <= limits[-1] * (1.0 + 1e-9):
            raise BoundBroken(f"{source} {loss} {kind}: total shift {shifts[-1]} > telescoped {limits[-1]}")
    return source, loss, kind, shifts, limits


def compare(source: str, loss: str, of_steps: list, of_layers: list) -> list[tuple]:
    """Cosine and relative difference of the two kinds of shift, the layer against the gradient step nearest in size."""
    out = []
    for line, shift in of_layers:
        _, other = min(of_steps, key=lambda s: abs(np.log((s[0].shift + 1e-300) / (line.shift + 1e-300))))
        norms = np.linalg.norm(shift) * np.linalg.norm(other)
        cosine = float(np.sum(shift * other) / norms) if norms else 0.0
        out.append((source, loss, line.move, cosine, float(np.linalg.norm(shift - other) / np.linalg.norm(other))))
    return out


def summary(lines: list[Line]) -> list[tuple]:
    """Means over documents of equal moves; the identity's worst."""
    groups: dict[tuple, list[Line]] = {}
    for x in lines:
        groups.setdefault(tuple(x[:4]), []).append(x)
    return [
        (*name, *(float(np.mean([getattr(x, k) for x in group])) for k in ("shift", "sharp", "published")),
         max(x.identity for x in group))
        for name, group in groups.items()
    ]  # fmt: skip


def angles_table(angles: list[tuple]) -> list[tuple]:
    """Means over documents and sizes of the cosine and relative difference."""
    groups: dict[tuple, list[tuple]] = {}
    for row in angles:
        groups.setdefault(row[:3], []).append(row[3:])
    return [(*name, *np.mean(rows, axis=0).tolist()) for name, rows in groups.items()]


def shift_figure(lines: list[Line], config: Any) -> Figure:
    """Shift and both bounds against the size of the move; one row of panels per kind of move."""
    moves = ("gradient", config.kinds[0])
    figure, axes = canvas(len(moves), len(config.losses), width=2.9, height=2.4)
    for i, move in enumerate(moves):
        for j, loss in enumerate(config.losses):
            rows = [r for r in summary(lines) if r[0] == config.sources[0] and r[1:3] == (loss, move)]
            x, panel = [r[3] for r in rows], axes[i, j]
            for k, (label, color, style) in enumerate(
                (("measured", "k", "x--"), ("sharp bound", PALETTE[0], "o-"), ("norm by norm", PALETTE[1], "s-"))
            ):
                panel.loglog(x, [r[4 + k] for r in rows], style, color=color, markersize=3, label=label)
            panel.set_title(f"{loss.replace('_', '-')}, {'gradient step' if move == 'gradient' else move + ' layer'}")
            panel.set_xlabel("length of the step" if move == "gradient" else "strength of the layer")
    for panel in axes[:, 0]:
        panel.set_ylabel("‖B̃ − B‖")
    axes[0, 0].legend(fontsize=7)
    return figure


def sequence_figure(paths: list[tuple], config: Any) -> Figure:
    """Total shift of T successive updates and its telescoped bound, first document of the first source."""
    figure, axes = canvas(1, len(config.losses), width=2.9, height=2.4)
    for panel, loss in zip(axes[0], config.losses, strict=True):
        for color, mark, kind in zip(PALETTE, MARKERS, ("gradient", *config.kinds), strict=False):
            first = next(p for p in paths if p[:3] == (config.sources[0], loss, kind))
            t = np.arange(1, config.sequence + 1)
            panel.semilogy(t, first[3], color=color, marker=mark, markersize=3, label=kind)
            panel.semilogy(t, first[4], color=color, linestyle=":", label=f"{kind}, bound")
        panel.set_title(loss.replace("_", "-"))
        panel.set_xlabel("T")
    axes[0, 0].set_ylabel("‖B̃ − B‖")
    axes[0, 0].legend(fontsize=7)
    return figure
