"""Many small heads fitted one at a time, by one program that takes them in turn, and by one that takes all at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.objectives import AttentionObjective, FactoredObjective
from attnreg.problems import AttentionRegression, Teacher
from attnreg.solvers import NewtonCG
from experiments.benchmarks.timing import interleave
from experiments.runner.about import About, Metric
from experiments.runner.record import Record

ABOUT = About(
    "Many heads in one program",
    "Heads a second of CPU: one at a time, `lax.map` and `vmap` of the same solver.",
    (
        Metric("mapped", "heads a CPU second by lax.map over one at a time, worst", "higher", "cases.*.map", "min"),
        Metric("batched", "the same by vmap, best", "", "cases.*.vmap", "max"),
        Metric("apart", "losses of lax.map and one at a time, largest difference", "lower", "cases.*.apart"),
    ),
)
COLUMNS = ("d", "rank", "one at a time", "lax.map", "vmap", "map", "vmap ratio", "apart")


def run(config: Any, record: Record) -> dict[str, Any]:
    """A row for each (d, rank); rank 0 is the full unknown. Numbers are heads a CPU second, medians over rounds."""
    cases = []
    for d, rank in config.cases:
        cases.append(dict(d=d, rank=rank) | compared(d, rank, config))
        record.say(", ".join(f"{name} {value:.3g}" for name, value in cases[-1].items()))
        jax.clear_caches()
    record.table("heads", COLUMNS, [list(case.values()) for case in cases])
    return {"cases": cases}


def objectives(d: int, rank: int, config: Any) -> list[Any]:
    """One objective a head: a random document, and the map of random queries and keys of rank 8 or less."""
    rng = np.random.default_rng(config.seed)
    made = []
    for _ in range(config.heads):
        A = jnp.asarray(2 * rng.normal(size=(config.n, d)) / np.sqrt(d))
        Q, K = (A @ jnp.asarray(rng.normal(size=(d, min(8, d))) / np.sqrt(8)) for _ in range(2))
        problem = AttentionRegression(A, A, Teacher(Q, K))
        made.append(FactoredObjective(problem, rank) if rank else AttentionObjective(problem))
    return made


def compared(d: int, rank: int, config: Any) -> dict[str, float]:
    """Heads a CPU second by each way, the two ratios to one at a time, and how far the losses are apart."""
    heads = objectives(d, rank, config)
    start, solver = heads[0].start(), NewtonCG(tol=config.tol, max_steps=config.max_steps)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *heads)

    def fit(objective: Any) -> Any:
        return solver.run(objective, start)

    single = jax.jit(fit).lower(heads[0]).compile()
    mapped = jax.jit(lambda all_heads: jax.lax.map(fit, all_heads)).lower(stacked).compile()
    batched = jax.jit(jax.vmap(fit)).lower(stacked).compile()
    apart = jnp.max(jnp.abs(mapped(stacked).value - jnp.stack([single(head).value for head in heads])))
    runs = {
        "one at a time": lambda: [single(head) for head in heads],
        "lax.map": lambda: mapped(stacked),
        "vmap": lambda: batched(stacked),
    }
    times = interleave(runs, rounds=config.rounds)
    rates = {name: len(heads) / samples.median_cpu for name, samples in times.items()}
    alone = rates["one at a time"]
    return {f"{name}, heads a CPU s": rate for name, rate in rates.items()} | {
        "map": rates["lax.map"] / alone,
        "vmap": rates["vmap"] / alone,
        "apart": float(apart),
    }
