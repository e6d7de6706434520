"""Algorithm 1 of arXiv 2309.07418 as published: its sketches, its weights, and what its steps cost."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from attnreg.lift.sketches import TensorSparse, TensorSRHT, kronecker_gram, sketched_gram
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.objectives.sampled import spectral_error
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from experiments.benchmarks.timing import interleave
from experiments.bounds import published_weights
from experiments.runner import figures
from experiments.runner.config import UsageError
from experiments.runner.record import Record


def run(config: Any, record: Record) -> dict[str, Any]:
    """The parts that `config.parts` names."""
    parts: dict[str, Callable[[Any, Record], Any]] = {"embedding": embedding, "weights": weights, "costs": costs}
    if unknown := set(config.parts) - set(parts):
        raise UsageError(f"config.parts has {unknown.pop()!r}; there are {', '.join(parts)}")
    return {name: part(config, record) for name, part in parts.items() if name in config.parts}


def drawn(kind: str, blocks: int) -> Callable[..., Any]:
    """`draw` of a sketch by name."""
    return TensorSRHT.draw if kind == "srht" else functools.partial(TensorSparse.draw, blocks=blocks)


def embedding(config: Any, record: Record) -> list[dict[str, Any]]:
    """ε of the sketched Gram matrix against its rows, over seeds, for data with even rows and with one heavy row."""
    n, d = config.n, config.d
    rng = np.random.default_rng(config.seed)
    A1, A2 = rng.normal(size=(2, n, d))
    heavy = [A * np.where(np.arange(n) == 0, config.heavy, 1.0)[:, None] for A in (A1, A2)]
    figure, axes = figures.canvas(1, 2)
    rows = []
    for kind, blocks in config.sketches:
        errors = {name: [_errors(kind, blocks, m, config.seeds, jnp.asarray(A), jnp.asarray(B)) for m in config.rows]
                  for name, (A, B) in (("even", (A1, A2)), ("heavy", heavy))}  # fmt: skip
        for at, (name, found) in enumerate(errors.items()):
            median, worst = (np.array([float(of(e)) for e in found]) for of in (np.median, np.max))
            power = float(np.polyfit(np.log(config.rows), np.log(median), 1)[0])
            label = kind if kind == "srht" else f"{kind}, s = {blocks}"
            for m, a, b in zip(config.rows, median, worst, strict=True):
                needed = d * d / a**2 * np.log(n * d / (a * config.failure)) ** 3
                rows.append(dict(sketch=label, data=name, rows=m, median=float(a), worst=float(b), published=needed))
                record.log(len(rows), part="embedding", **rows[-1])
            rows[-1]["power"] = power
            axes[0][at].loglog(config.rows, median, "o-", label=f"{label}: m^{power:.2f}")
    for at, name in enumerate(("even rows", "one heavy row")):
        axes[0][at].loglog(config.rows, 2 * d / np.sqrt(config.rows), "k:", label="2d/√m")
        axes[0][at].set(xlabel="rows m", ylabel="ε, median", title=name)
        axes[0][at].legend(fontsize=7)
    record.figure("embedding", figure)
    columns = ("sketch", "data", "rows", "median", "worst", "published")
    record.table("embedding", columns, [[row[c] for c in columns] for row in rows])
    return rows


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _errors(kind: str, blocks: int, rows: int, seeds: int, A1: jax.Array, A2: jax.Array) -> jax.Array:
    exact = kronecker_gram(A1, A2)

    def one(key: jax.Array) -> jax.Array:
        sketch = drawn(kind, blocks)(key, A1.shape[0], A2.shape[0], rows=rows, dtype=A1.dtype)
        return spectral_error(sketched_gram(sketch, A1, A2), exact)

    return jax.lax.map(one, jax.random.split(jax.random.key(rows), seeds))


def weights(config: Any, record: Record) -> list[dict[str, Any]]:
    """One row a size and rule for the weight: the regularized minimiser, and how the steps contract."""
    rows = []
    for n, d in config.sizes:
        study = published_weights.studied(config.seed, n, d, config)
        asked = published_weights.rules(study, config.rate)
        enough = max(asked[f"ours, rate {config.rate:g} from zero"], 1.0)
        for rate in config.searched:
            asked[f"searched, rate {rate:g}"] = published_weights.searched(study, rate, enough)
        asked["none: a weight that lets the fit through"] = config.weak
        for rule, w2 in asked.items():
            rows.append(published_weights.measured(study, rule, w2))
            record.log(len(rows), part="weights", **rows[-1])
            record.say(f"n = {n}, d = {d}, {rule}: w² = {w2:.3g}, worst step {rows[-1]['worst step']:.3g}")
    record.table("weights", published_weights.COLUMNS, [list(row.values()) for row in rows])
    return rows


def costs(config: Any, record: Record) -> dict[str, float]:
    """Least CPU seconds of each part of a step against n and d, and fitted exponents."""
    rows, fits = [], {}
    cases = [("n", n, config.cost_d) for n in config.cost_n] + [("d", config.cost_n_fixed, d) for d in config.cost_ds]
    measured: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for axis, n, d in cases:
        for name, samples in interleave(contenders(config, n, d), rounds=config.repeats).items():
            measured.setdefault((axis, name), []).append((n if axis == "n" else d, samples.fastest_cpu))
            rows.append([axis, n, d, name, samples.fastest_cpu])
            record.log(len(rows), part="costs", axis=axis, n=n, d=d, quantity=name, cpu=samples.fastest_cpu)
    for (axis, name), points in measured.items():
        if len(points) > 1:
            sizes, seconds = np.log(np.array(points).T)
            fits[f"{name}, exponent in {axis}"] = float(np.polyfit(sizes, seconds, 1)[0])
    record.table("costs", ("axis", "n", "d", "what", "CPU seconds"), rows)
    record.table("exponents", ("what", "exponent"), list(fits.items()))
    return fits


def contenders(config: Any, n: int, d: int) -> dict[str, Callable[[], Any]]:
    """Calls by name: parts of a step. Those with a pass over n² pairs only up to `config.largest_pass`."""
    rng = np.random.default_rng(config.seed)
    A1, A2 = (jnp.asarray(A) for A in rng.normal(size=(2, n, d)) / np.sqrt(d))
    chosen = rng.integers(0, d, size=(2, n))
    stored = [sparse.BCOO((A[np.arange(n), k], jnp.asarray(np.stack([np.arange(n), k], 1))), shape=(n, d))
              for A, k in zip((A1, A2), chosen, strict=True)]  # fmt: skip
    key, options = jax.random.key(config.seed), dict(rows=config.cost_rows * d * d, dtype=A1.dtype)
    # A sketch is drawn once, before the clock starts: the regularizer does not change from step to step.
    srht, hashed = (jax.jit(lambda key, draw=draw: draw(key, n, n, **options))(key)
                    for draw in (drawn("srht", 1), drawn("sparse", config.cost_blocks)))  # fmt: skip
    gram, of = jax.jit(kronecker_gram), jax.jit(sketched_gram)
    calls: dict[str, Callable[[], Any]] = {
        "exact Gram": lambda: gram(A1, A2),
        "SRHT": lambda: of(srht, A1, A2),
        "TensorSparse": lambda: of(hashed, A1, A2),
        "TensorSparse, one entry a row": lambda: of(hashed, *stored),
    }
    if n <= config.largest_pass:
        objective = OneLayerObjective(OneLayerRegression(A1, A2, A2, A1, weight=1.0, value_weight=1.0))
        at = Unknowns(jnp.zeros((d, d)), jnp.ones((d, d)))
        # The methods are compiled with the data as arguments, which no compiler folds into constants.
        calls |= {"gradient": lambda: objective.value_and_grad(at)}
        calls |= {"true Hessian": lambda: objective.value_grad_hessian(at)}
    return calls
