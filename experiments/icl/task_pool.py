"""Linear attention fitted on a finite pool of tasks: nearer to dMMSE or to ridge, and from how many tasks on."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl import descent
from attnreg.icl.linear_limit import least_squares, linear_features
from attnreg.icl.task_pool import discrete_mean, from_pool
from attnreg.icl.tasks import Documents, TaskConfig, sample, stream
from experiments.icl.arms import section_of
from experiments.runner.about import NEITHER, About, Metric
from experiments.runner.figures import MARKERS, PALETTE, canvas
from experiments.runner.record import Record

ABOUT = About(
    "How many tasks make a learner general",
    "Linear attention fitted on documents from k tasks, beside the Bayes answers for the pool and for all tasks.",
    (
        Metric("crossover", "tasks from which the learner is nearer to ridge than to dMMSE on fresh tasks", NEITHER),
        Metric("fresh", "its loss over ridge's on fresh tasks, most tasks", path="rows.*.fresh_over_ridge", over="min"),
    ),
)
COLUMNS = ("tasks", "learner", "dmmse", "ridge", "fresh learner", "fresh dmmse", "fresh ridge", "to dmmse", "to ridge")


def run(config: Any, record: Record) -> dict[str, Any]:
    """One row a size of the pool, means over seeds; losses are mean squares without the query's noise."""
    task = section_of(TaskConfig, "config.task", config.task.to_dict(), dtype=config.precision)
    rows = []
    record.expect(len(config.tasks))
    for i, tasks in enumerate(config.tasks):
        keys = [jax.random.fold_in(jax.random.key(config.seed), 1000 * i + seed) for seed in range(config.seeds)]
        each = np.array([np.asarray(_row(key, task, tasks, config.fit, config.final)) for key in keys])
        row = dict(zip(COLUMNS, (tasks, *map(float, each.mean(axis=0))), strict=True))
        rows.append(row | {"fresh_over_ridge": row["fresh learner"] / row["fresh ridge"]})
        record.log(i + 1, **{name.replace(" ", "_"): value for name, value in rows[-1].items()})
    record.table("task_pool", COLUMNS, [tuple(row[name] for name in COLUMNS) for row in rows])
    record.figure("task_pool", _figure(rows), caption=f"Means over {config.seeds} seeds.")
    return {"rows": rows, "crossover": crossover(rows)}


def crossover(rows: list[dict[str, Any]]) -> float:
    """The number of tasks at which the two distances are equal, on log axes; infinite where they never are."""
    gaps = [np.log(row["to ridge"] / row["to dmmse"]) for row in rows]
    for (before, after), (a, b) in zip(itertools.pairwise(gaps), itertools.pairwise(rows), strict=True):
        if before > 0.0 >= after:
            share = before / (before - after)
            return float(np.exp((1 - share) * np.log(a["tasks"]) + share * np.log(b["tasks"])))
    return float("inf") if gaps[-1] > 0.0 else float(rows[0]["tasks"])


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _row(key: jax.Array, task: TaskConfig, tasks: int, fit: int, final: int) -> jax.Array:
    of_pool, of_train, of_choice, of_mark = jax.random.split(key, 4)
    pool = task.weight_scale * jax.random.normal(of_pool, (tasks, task.dimension), task.dtype)
    train = from_pool(of_choice, sample(stream(of_train, "train"), task, fit), pool)
    gamma = least_squares(linear_features(train.context, train.targets, train.queries[:, 0]), train.answers[:, 0])
    fresh = sample(stream(of_mark, "evaluate"), task, final)
    known = from_pool(jax.random.fold_in(of_choice, 1), fresh, pool)
    (of_known, _), (of_fresh, predictions) = (_losses(batch, task, pool, gamma) for batch in (known, fresh))
    learner, discrete, ridge = predictions
    apart = [jnp.mean((learner - other) ** 2) for other in (discrete, ridge)]
    return jnp.stack([*of_known, *of_fresh, *apart])


def _losses(batch: Documents, task: TaskConfig, pool: jax.Array, gamma: jax.Array) -> tuple[Any, Any]:
    """Mean squares of learner, dMMSE and ridge on a batch, and their answers."""
    query, strength = batch.queries[:, 0], task.noise**2 / task.weight_scale**2
    discrete = jax.lax.map(lambda d: discrete_mean(d, pool, task.noise), batch, batch_size=256)
    ridge = jax.vmap(lambda d: descent.ridge(d, strength))(batch)
    learner = jnp.sum(linear_features(batch.context, batch.targets, query) * gamma[None], axis=(1, 2))
    answers = (learner, jnp.sum(query * discrete, axis=1), jnp.sum(query * ridge, axis=1))
    return [jnp.mean((answer - batch.answers[:, 0]) ** 2) for answer in answers], answers


def _figure(rows: list[dict[str, Any]]) -> Any:
    figure, axes = canvas(1, 2, width=3.4, height=2.8)
    tasks = [row["tasks"] for row in rows]
    for panel, names, title in (
        (axes[0][0], ("fresh learner", "fresh dmmse", "fresh ridge"), "loss on fresh tasks"),
        (axes[0][1], ("to dmmse", "to ridge"), "mean square between answers"),
    ):
        for i, name in enumerate(names):
            panel.loglog(tasks, [row[name] for row in rows], color=PALETTE[i], marker=MARKERS[i], label=name)
        panel.set(xlabel="tasks in training", title=title)
        panel.legend(fontsize=7)
    return figure
