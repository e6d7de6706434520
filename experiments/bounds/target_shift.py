"""Weight moves and data moves as shifts of the targets: identity, both bounds, gradient step versus attention layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds import Point, published_shift
from attnreg.bounds import target_shift as ts
from attnreg.bounds.domain import Norms
from attnreg.data.minilm import cache as minilm_cache
from attnreg.data.minilm.embedded import load_embedded_head
from attnreg.data.minilm.encoder import load_minilm
from attnreg.data.minilm.instance import attention_map, layer_inputs, principal_components
from attnreg.data.minilm.texts import windows
from experiments.runner.figures import PALETTE, canvas

COLUMNS = ("source", "problem", "move", "size", "shift", "sharp", "norm by norm", "identity in eps")


class Line(NamedTuple):
    """One measured move."""

    source: str
    problem: str
    move: str
    size: float
    shift: float
    sharp: float
    published: float
    identity: float


class BoundBroken(AssertionError):
    """A measured shift beats a bound, or the identity fails: the message says where and by how much."""


def run(config: Any, record: Any) -> dict:
    """All moves of all sources; fails on a broken bound or identity."""
    key = jax.random.key(config.seed)
    lines: list[Line] = []
    angles, paths, skipped = [], [], []
    for s, source in enumerate(config.sources):
        if source == "minilm" and not minilm_cache.is_cached():
            skipped.append(source)
            record.say("minilm: the weights are not in the cache (python -m attnreg.data.tools.fetch_minilm): skipped")
            continue
        for document, (tokens, following) in enumerate(documents(source, config, jax.random.fold_in(key, s))):
            for problem in config.problems:
                p = instance(tokens, problem, jax.random.fold_in(key, 1000 * s + document), config)
                of_steps = [
                    measure(source, problem, "gradient", z, p, weight_move(p, problem, z), config) for z in config.steps
                ]
                of_layers = []
                for kind in config.kinds:
                    moves = [(z, data_move(p, kind, z)) for z in config.scales]
                    of_layers += [measure(source, problem, kind, z, p, moved, config) for z, moved in moves]
                if following is not None:
                    of_layers.append(measure(source, problem, "next layer", 1.0, p, with_tokens(p, following), config))
                lines += [*(x for x, _ in of_steps), *(x for x, _ in of_layers)]
                angles += compare(source, problem, of_steps, of_layers)
                paths += [sequence(source, problem, p, config, kind) for kind in ("gradient", *config.kinds)]
            record.log(len(lines), documents=document + 1)
    record.table("shift", COLUMNS, summary(lines))
    record.table(
        "gradient_against_layer", ("source", "problem", "layer", "cosine", "relative difference"), angles_table(angles)
    )
    record.table(
        "sequences",
        ("source", "problem", "move", "T", "shift", "telescoped"),
        [(*p[:3], config.sequence, p[3][-1], p[4][-1]) for p in paths],
    )
    record.figure("shift", shift_figure(lines, config))
    record.figure("sequence", sequence_figure(paths, config))
    worst = max(x.identity for x in lines)
    loosest = [max((x.shift / x.sharp for x in lines if x.problem == q), default=0.0) for q in config.problems]
    return {
        "lines": len(lines),
        "identity_worst_in_eps": worst,
        "tightness_best": dict(zip(config.problems, loosest, strict=True)),
        "broken": 0,
        "skipped": skipped,
        "published_M_synthetic": published_shift(config.n, config.radius),
    }


# --- sources ---------------------------------------------------------------------------------------------------


def documents(source: str, config: Any, key: jax.Array):
    """(tokens, the next layer's tokens or None) of every document, float arrays (n, d) of spectral norm `radius`."""
    if source == "synthetic":
        for k in jax.random.split(key, config.documents):
            yield scaled(np.asarray(jax.random.normal(k, (config.n, config.d))), config.radius), None
    elif source == "embedded":
        for tokens in load_embedded_head(dtype=np.float64).A[: config.documents, : config.real_tokens]:
            yield scaled(tokens, config.radius), None
    else:
        encoder = load_minilm()
        ids = windows("docs", config.real_tokens, config.documents)
        for layer in (1, 4):
            before, after = (layer_inputs(encoder, ids, layer + z).astype(np.float64) for z in (0, 1))
            reduced, moved = principal_components(before, after, config.d)
            for tokens, following in zip(reduced, moved, strict=True):
                size = np.linalg.norm(tokens, 2) / config.radius
                yield tokens / size, following / size


def scaled(tokens: np.ndarray, radius: float) -> np.ndarray:
    """`tokens` with spectral norm `radius`."""
    return tokens * (radius / np.linalg.norm(tokens, 2))


def instance(tokens: np.ndarray, problem: str, key: jax.Array, config: Any) -> Point:
    """Self-attention on one document: A1 = A2 = A3 = tokens, weights and targets drawn."""
    n, d = tokens.shape
    keys = jax.random.split(key, 4)
    A, dtype = jnp.asarray(tokens), jnp.asarray(tokens).dtype
    X = jax.random.normal(keys[0], (d, d), dtype) / d
    if problem == "one_layer":
        Y = jax.random.normal(keys[1], (d, config.columns), dtype) / d**0.5
        return Point(A, A, X, jax.random.normal(keys[2], (n, config.columns), dtype), A, Y)
    factors = jax.random.normal(keys[3], (2, n, d), dtype)
    return Point(A, A, X, jnp.asarray(attention_map(np.asarray(factors[0]), np.asarray(factors[1]))))


# --- moves ----------------------------------------------------------------------------------------------------------


def weight_move(p: Point, problem: str, step: float) -> Point:
    """One gradient step of length `step` times the unit of 1/‖∇‖: the weights move by `step` in all."""
    unit = _unit_step(p, problem)
    return ts.gradient_step(p, problem, step * unit)


_gradient_step = jax.jit(ts.gradient_step, static_argnums=1)


def _unit_step(p: Point, problem: str) -> float:
    moved = _gradient_step(p, problem, jnp.ones((), p.X.dtype))
    parts = [moved.X - p.X] + ([moved.Y - p.Y] if p.Y is not None and moved.Y is not None else [])
    return 1.0 / float(np.sqrt(sum(np.sum(np.asarray(z) ** 2) for z in parts)))


def data_move(p: Point, kind: str, scale: float) -> Point:
    """One self-attention layer on the tokens: scores by X itself, values by the identity."""
    d = p.A1.shape[1]
    return with_tokens(p, ts.attention_layer(p.A1, p.X, jnp.eye(d, dtype=p.X.dtype), scale=scale, kind=kind))


def with_tokens(p: Point, tokens: Any) -> Point:
    """`p` with new tokens in every place where tokens stand."""
    A = jnp.asarray(tokens, p.A1.dtype)
    return p._replace(A1=A, A2=A, A3=None if p.A3 is None else A)


def measure(
    source: str, problem: str, move: str, size: float, p: Point, moved: Point, config: Any
) -> tuple[Line, np.ndarray]:
    """One line and the shift itself; raises when the identity or the order of the bounds fails."""
    B = ts.shifted_targets(p, moved, problem)
    left, right = ts.residual(moved._replace(B=p.B), problem), ts.residual(p._replace(B=B), problem)
    terms = {"rescaled": float(jnp.max(ts.Q.alpha(moved))) + float(jnp.max(ts.Q.alpha(p)))}.get(problem, 1.0)
    scale = max(terms, float(jnp.max(jnp.abs(p.B))), float(jnp.max(jnp.abs(left))))
    identity = float(jnp.max(jnp.abs(left - right))) / (scale * float(jnp.finfo(B.dtype).eps))
    shift = np.asarray(B - p.B)
    line = Line(
        source, problem, move, size, float(np.linalg.norm(shift)), ts.shift_limit(p, moved, problem),
        ts.published_limit(p, moved, problem), identity,
    )  # fmt: skip
    slack = 1.0 + 1e-9
    if (
        identity > config.identity_eps
        or not line.shift <= line.sharp * slack
        or not line.sharp <= line.published * slack
    ):
        raise BoundBroken(f"identity, or shift ≤ sharp ≤ norm by norm, fails: {line} on {Norms.of(p, moved)}")
    return line, shift


def sequence(source: str, problem: str, p: Point, config: Any, kind: str) -> tuple:
    """T successive updates: the total shift after each, and the telescoped bound."""
    path, shifts, limits = [p], [], []
    for _ in range(config.sequence):
        here = path[-1]
        moved = (
            weight_move(here, problem, config.sequence_step)
            if kind == "gradient"
            else data_move(here, kind, config.sequence_step / 4)
        )
        path.append(moved)
        shifts.append(float(np.linalg.norm(np.asarray(ts.shifted_targets(p, moved, problem) - p.B))))
        limits.append(ts.telescoped_limit(path, problem))
        if not shifts[-1] <= limits[-1] * (1.0 + 1e-9):
            raise BoundBroken(f"{source} {problem} {kind}: total shift {shifts[-1]} > telescoped {limits[-1]}")
    return source, problem, kind, shifts, limits


def compare(source: str, problem: str, of_steps: list, of_layers: list) -> list[tuple]:
    """Cosine and relative difference of the two kinds of shift, the layer against the gradient step nearest in size."""
    out = []
    for line, shift in of_layers:
        _, other = min(of_steps, key=lambda s: abs(np.log((s[0].shift + 1e-300) / (line.shift + 1e-300))))
        norms = np.linalg.norm(shift) * np.linalg.norm(other)
        cosine = float(np.sum(shift * other) / norms) if norms else 0.0
        out.append((source, problem, line.move, cosine, float(np.linalg.norm(shift - other) / np.linalg.norm(other))))
    return out


# --- tables and figures ---------------------------------------------------------------------------------------------


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


def shift_figure(lines: list[Line], config: Any):
    """Shift and both bounds against the size of the move; one row of panels per kind of move."""
    moves = ("gradient", config.kinds[0])
    figure, axes = canvas(len(moves), len(config.problems), width=2.9, height=2.4)
    for i, move in enumerate(moves):
        for j, problem in enumerate(config.problems):
            rows = [r for r in summary(lines) if r[0] == config.sources[0] and r[1:3] == (problem, move)]
            x, panel = [r[3] for r in rows], axes[i, j]
            for k, (label, color, style) in enumerate(
                (("measured", "k", "x--"), ("sharp bound", PALETTE[0], "o-"), ("norm by norm", PALETTE[1], "s-"))
            ):
                panel.loglog(x, [r[4 + k] for r in rows], style, color=color, markersize=3, label=label)
            panel.set_title(
                f"{problem.replace('_', '-')}, {'gradient step' if move == 'gradient' else move + ' layer'}"
            )
            panel.set_xlabel("length of the step" if move == "gradient" else "strength of the layer")
    for panel in axes[:, 0]:
        panel.set_ylabel("‖B̃ − B‖")
    axes[0, 0].legend(fontsize=7)
    return figure


def sequence_figure(paths: list[tuple], config: Any):
    """Total shift of T successive updates and its telescoped bound, first document of the first source."""
    figure, axes = canvas(1, len(config.problems), width=2.9, height=2.4)
    for panel, problem in zip(axes[0], config.problems, strict=True):
        for color, kind in zip(PALETTE, ("gradient", *config.kinds), strict=False):
            first = next(p for p in paths if p[:3] == (config.sources[0], problem, kind))
            t = np.arange(1, config.sequence + 1)
            panel.semilogy(t, first[3], color=color, label=kind)
            panel.semilogy(t, first[4], color=color, linestyle=":")
        panel.set_title(f"{problem.replace('_', '-')} (dotted: bound)")
        panel.set_xlabel("T")
    axes[0, 0].set_ylabel("‖B̃ − B‖")
    axes[0, 0].legend(fontsize=7)
    return figure
