"""A real head's output, or a whole layer's, as a one-layer problem; the ridge is chosen on held-out text."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data import load_embedded_head, minilm_head
from attnreg.data.minilm.encoder import HEADS
from attnreg.fit.layer import variation
from attnreg.lift.streaming import map_over_blocks
from attnreg.objectives.one_layer_rows import attend, streamable, values_of
from attnreg.objectives.reduced import VariableProjection
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from attnreg.solvers import NewtonCG
from experiments.benchmarks.timing import Clock
from experiments.runner import figures
from experiments.runner.config import UsageError
from experiments.runner.record import Record


class Data(NamedTuple):
    """Inputs (k, n, d) and outputs (k, n, c) of training, validation and test documents."""

    train: tuple[jax.Array, jax.Array]
    validation: tuple[jax.Array, jax.Array]
    test: tuple[jax.Array, jax.Array]
    factors: list[Any]
    name: str


def load(config: Any) -> Data:
    """Activations, and the output of the head or of the whole layer; unseen documents in two halves."""
    for name, choices in (("source", ("embedded", "minilm")), ("target", ("head", "layer"))):
        if config[name] not in choices:
            raise UsageError(f"config.{name} is {config[name]!r}; it must be {' or '.join(choices)}")
    heads = _heads(config)

    def pair(suffix: str) -> tuple[jax.Array, jax.Array]:
        B = sum(_output(head, suffix, projected=config.target == "layer") for head in heads)
        return jnp.asarray(getattr(heads[0], "A" + suffix), config.precision), jnp.asarray(B, config.precision)

    A, B = pair("_heldout")
    # Even documents choose the ridge, odd ones are looked at once.
    return Data(pair(""), (A[0::2], B[0::2]), (A[1::2], B[1::2]),
                [head.true_factors for head in heads], f"{heads[0].name}, target: {config.target}")  # fmt: skip


def _heads(config: Any) -> list[Any]:
    if config.source == "embedded":
        return [load_embedded_head(dtype=jnp.dtype(config.precision))]
    return [
        minilm_head(
            config.layer,
            head,
            n=config.tokens,
            train=dict(config.train),
            heldout=dict(config.heldout),
            components=config.components or None,
            dtype=jnp.dtype(config.precision),
        )
        for head in (range(HEADS) if config.target == "layer" else [config.head])
    ]


def _output(head: Any, suffix: str, *, projected: bool) -> np.ndarray:
    """`softmax(Q Kᵀ) V` of a head (k, n, c), and `projected` to the layer's output."""
    Q, K, V = (np.asarray(getattr(head, name + suffix), np.float64) for name in "QKV")
    S = np.einsum("knr,kmr->knm", Q, K)
    F = np.exp(S - S.max(-1, keepdims=True))
    out = (F / F.sum(-1, keepdims=True)) @ V
    return out @ head.W_O if projected else out


def predict(problem: OneLayerRegression, params: Unknowns) -> jax.Array:
    """`softmax(A1 X A2ᵀ) A3 Y` for all rows, (k, n, c)."""

    def emit(block: Any) -> jax.Array:
        return attend(block, params.X, values_of(problem, block))[2] @ params.Y

    return map_over_blocks(streamable(problem), emit)


def relative(problem: OneLayerRegression, heads: list[Unknowns]) -> float:
    """Loss of the sum of the heads' outputs over `‖B − column mean‖²`."""
    total = sum(jax.jit(predict)(problem, head) for head in heads)
    return float(jnp.sum((total - problem.B) ** 2) / variation(problem))


def run(config: Any, record: Record) -> dict[str, Any]:
    """Fit for each ridge, from the largest down and each from the last; keep the one best on validation text."""
    clock, data = Clock(), load(config)
    record.say(data.name)
    pairs = {"train": data.train, "validation": data.validation, "test": data.test}
    problems = {name: OneLayerRegression(A, A, A, B) for name, (A, B) in pairs.items()}
    rows, best, fitted = [], (np.inf, None, None), _starts(config, data, problems["train"])
    for ridge in config.ridges:
        if clock.wall > config.total_seconds:
            record.say(f"total_seconds is over: ridges from {ridge:g} down were not tried")
            break
        fitted = _fit_heads(config, data, problems["train"], fitted, ridge, clock)
        losses = {name: relative(problem, fitted) for name, problem in problems.items()}
        rows.append(dict(ridge=ridge, seconds=clock.wall, **losses))
        record.log(len(rows), **rows[-1])
        if losses["validation"] < best[0]:
            best = (losses["validation"], rows[-1], fitted)
    if not rows:
        raise UsageError("no ridge was tried: raise config.total_seconds or give config.ridges")
    if best[2] is not None:  # X (heads, d, d) and Y (heads, d, c)
        record.arrays("solution", **jax.tree.map(lambda *heads: jnp.stack(heads), *best[2])._asdict())
    columns = tuple(rows[0])
    record.table("ridge_path", columns, [[row[c] for c in columns] for row in rows])
    _figure(record, rows, data.name)
    return {"name": data.name, "path": rows, "chosen": best[1]}


def _starts(config: Any, data: Data, problem: OneLayerRegression) -> list[Unknowns]:
    """X = 0; or, with `config.near_truth`, the true X with noise of that relative size in its factors.

    The latter is no fit: it asks whether the texts hold enough to know the head once a start is in its basin.
    """
    X, Y = (jnp.zeros(shape, problem.dtype) for shape in problem.shapes)
    if not config.near_truth:
        return [Unknowns(X, Y) for _ in range(config.heads)]
    starts = []
    for h, factors in enumerate(data.factors):
        if factors is None:
            raise UsageError("config.near_truth needs the true factors: config.components=0 and the fetched model")
        keys = jax.random.split(jax.random.key(config.seed + h))
        Q, K = (jnp.asarray(factor, problem.dtype) for factor in factors)
        Q, K = (
            factor + config.near_truth * jnp.std(factor) * jax.random.normal(key, factor.shape, factor.dtype)
            for key, factor in zip(keys, (Q, K), strict=True)
        )
        starts.append(Unknowns(Q @ K.T, Y))
    return starts


def _fit_heads(
    config: Any, data: Data, train: OneLayerRegression, fitted: list[Unknowns], ridge: float, clock: Clock
) -> list[Unknowns]:
    """Backfitting: each head in turn fits what the others leave, Y always in closed form."""
    A, B = data.train
    fitted, width = list(fitted), A.shape[2]
    # Ridges in the units of the curvature: mean eigenvalue of 2ZᵀZ is about 2·rows·mean(z²); of X, that times ‖Y‖².
    scale = float(2 * jnp.mean(A**2)) * A.shape[0] * A.shape[1]
    unit = float(variation(train)) / (width * width)
    solver = NewtonCG(
        tol=config.tol, max_steps=config.max_steps, curvature="gauss_newton", max_cg=config.max_cg, forcing=0.1
    )
    for sweep in range(config.sweeps if config.heads > 1 else 1):
        for h in range(config.heads):
            left = config.total_seconds - clock.wall
            if left <= 0:
                return fitted
            rest = sum((jax.jit(predict)(train, other) for i, other in enumerate(fitted) if i != h), jnp.zeros_like(B))
            problem = OneLayerRegression(A, A, A, B - rest, ridge=ridge * unit, ridge_y=ridge * scale)
            objective, start = VariableProjection(problem), fitted[h].X
            if config.heads > 1 and sweep == 0 and not bool(jnp.any(start)):
                # Heads that start alike stay alike.
                start = 0.01 / width**0.5 * jax.random.normal(jax.random.key(config.seed + h), start.shape, start.dtype)
            result = solver.run_on_host(objective, start, seconds=left)
            fitted[h] = objective.complete(result.params)
    return fitted


def _figure(record: Record, rows: list[dict], title: str) -> None:
    figure, axes = figures.canvas(width=4.4)
    for name in ("train", "validation", "test"):
        axes[0][0].loglog([r["ridge"] for r in rows], [r[name] for r in rows], "o-", label=name)
    axes[0][0].axhline(1.0, color="k", linewidth=0.8, linestyle=":")
    axes[0][0].set(xlabel="relative ridge", ylabel="relative loss", title=title[:60])
    axes[0][0].legend()
    record.figure("ridge_path", figure)
