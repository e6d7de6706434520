"""Trained self-attention against gradient descent: train every arm of a config over seeds, compare, explain.

One config section each for task, model and training; `arms` are named overrides of them. All seeds (and, in a
sweep, all configs that differ in seed or learning rate) train in one vmapped program.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from attnreg import parallel
from attnreg.icl import training
from experiments.icl import arms as icl_arms
from experiments.icl import figures, measures, references, tables
from experiments.icl import runs as icl_runs
from experiments.icl.analyses import ANALYSES
from experiments.icl.arms import Arm
from experiments.icl.references import Comparison
from experiments.icl.runs import Run
from experiments.runner.about import About, Metric
from experiments.runner.batch import Records
from experiments.runner.config import UsageError
from experiments.runner.record import Record

ABOUT = About(
    "Trained attention beside gradient descent",
    "Attention layers learn a regression in context over several seeds and are compared with steps of descent.",
    (
        Metric("over_descent", "loss over that of the gradient steps, worst arm", path="arms.*.over_descent"),
        Metric("cosine", "cosine of sensitivities with descent, worst arm", "higher", "arms.*.cosine", over="min"),
        Metric(
            "past_plateau", "share of seeds past the plateau, worst arm", "higher", "arms.*.past_plateau", over="min"
        ),
    ),
)

BATCHED = ("seed", "learning_rate")
SHARED = "the seeds, then the documents of a step"


class Plan(NamedTuple):
    """One arm to train.

    The runs of all configs, what their curves are compared with, the step it begins at, and its mesh: None for one
    device.
    """

    arm: Arm
    runs: training.Runs
    curve: Comparison
    before: int
    mesh: Mesh | None

    def place(self, tree: Any, axis: str | None = None) -> Any:
        """A pytree of arrays on the mesh: along its axis, or on all devices alike."""
        if self.mesh is None:
            return tree
        return parallel.place(tree, self.mesh, PartitionSpec(axis) if axis else PartitionSpec())

    def measure(self, weights: Any, comparison: Comparison) -> dict[str, jax.Array]:
        """`measures.measure`, the models shared among the devices; (R,) arrays that every process has."""
        weights, comparison = self.place(weights, training.SEEDS), self.place(comparison)
        return parallel.gathered(measures.measure(self.arm, weights, comparison, self.mesh))


def run_batch(configs: Sequence[Any], records: Records) -> list[dict[str, Any]]:
    """Train configs that differ in `BATCHED` fields in one program; one result each."""
    config = configs[0]
    arms = icl_arms.build(config)
    if unknown := [name for name in config.analyses if name not in ANALYSES]:
        raise UsageError(f"config.analyses has {unknown[0]!r}; it may have {', '.join(ANALYSES)}")
    features = tables.features(config.table, config.precision)
    runs = {arm.name: _join([icl_arms.runs_of(c, arm) for c in configs]) for arm in arms}
    meshes = {arm.name: training.training_mesh(runs[arm.name].seed.size, arm.train.batch) for arm in arms}
    fresh = {arm.name: _start(config, arm, runs[arm.name], len(configs)) for arm in arms}
    records.expect(sum(arm.train.steps for arm in arms))
    done, state = records.restore(fresh)
    plans, before = [], 0
    for arm in arms:
        plan = Plan(arm, runs[arm.name], _curve(arm, features), before, meshes[arm.name])
        state = _train(config, plan, state, done, records, features)
        before += arm.train.steps
        done = max(done, before)
        plans.append(plan)
    return [_finish(c, plans, _pick(state, i), records[i], features) for i, c in enumerate(configs)]


def _curve(arm: Arm, features: Any) -> Comparison:
    """The references, tuned, and their answers on the curve's evaluation documents."""
    tuned = references.tune(arm, icl_arms.documents(arm, "tune", arm.evaluation.tune, features))
    return references.compare(arm, tuned, icl_arms.documents(arm, "evaluate", arm.evaluation.curve, features))


def _start(config: Any, arm: Arm, runs: training.Runs, configs: int) -> dict[str, Any]:
    """The state of an arm before its first step, with empty curves; leaves (configs, seeds, …)."""
    fresh = jax.jit(lambda r: training.start(r, task=arm.task, model=arm.model, train=arm.train))(runs)
    points = arm.train.steps // config.chunk + 1
    curves = np.full((configs, config.seeds, points), np.nan, arm.task.dtype)
    # Sorted, as a checkpoint gives them back: the lines of the metrics file do not show where a run resumed.
    named = {name: jnp.asarray(curves) for name in sorted(measures.names(arm))}
    return {"state": _fold(fresh, configs), "curves": named}


def _train(
    config: Any, plan: Plan, state: dict[str, Any], done: int, records: Records, features: Any
) -> dict[str, Any]:
    """Chunks of training steps of one arm, each followed by an evaluation, a log line and perhaps a checkpoint."""
    arm, configs = plan.arm, len(records)
    current, curves = _flat(state[arm.name]["state"]), state[arm.name]["curves"]
    placed, runs = (plan.place(tree, training.SEEDS) for tree in (current, plan.runs))
    features = plan.place(features)

    def measured(point: int, train_loss: Any) -> dict[str, Any]:
        found = plan.measure(current.weights, plan.curve) | {"train_loss": train_loss}
        return {name: curve.at[:, :, point].set(_fold(found[name], configs)) for name, curve in curves.items()}

    if done <= plan.before:
        curves = measured(0, jnp.full(plan.runs.seed.shape, jnp.nan, arm.task.dtype))
    for step in range(max(done - plan.before, 0), arm.train.steps, config.chunk):
        placed, losses = training.train_chunk(
            placed, runs, task=arm.task, model=arm.model, train=arm.train, length=config.chunk, features=features,
            mesh=plan.mesh,
        )  # fmt: skip
        current, losses = parallel.gathered((placed, losses))
        point = step // config.chunk + 1
        curves = measured(point, jnp.mean(losses, axis=1))
        state = state | {arm.name: {"state": _fold(current, configs), "curves": curves}}
        shown = {f"{arm.name}/{name}": np.asarray(curve[:, :, point]).mean(1) for name, curve in curves.items()}
        records.log(plan.before + step + config.chunk, **shown)
        records.save(plan.before + step + config.chunk, state)
    return state


def _finish(config: Any, plans: Sequence[Plan], state: dict[str, Any], record: Record, features: Any) -> dict[str, Any]:
    """Final numbers on fresh documents, the table, the figures and the analyses of one config."""
    runs = []
    for plan in plans:
        arm, reached = plan.arm, state[plan.arm.name]
        batch = icl_arms.documents(arm, "evaluate", arm.evaluation.final, features, part=1)
        final = references.compare(arm, plan.curve.tuned, batch)
        measured = plan.measure(reached["state"].weights, final)
        runs.append(Run.of(arm, config.chunk, reached["state"], reached["curves"], plan.curve, final, measured))
    if not record.session.primary:
        return {"arms": [run.arm.name for run in runs]}  # what is left is drawing and explaining, once
    icl_runs.say_stopped(runs, record)
    icl_runs.table(runs, record)
    figures.curves(runs, record)
    if config.chart:
        figures.chart(runs, config.chart, record)
    result: dict[str, Any] = {"arms": {run.arm.name: run.summary() for run in runs}}
    for name in config.analyses:
        result[name] = ANALYSES[name](config, runs, record)
    return result


def _join(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _pick(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _fold(tree: Any, configs: int) -> Any:
    """Leaves (C·S, …) to (C, S, …): the batch's record keeps one entry a config."""
    return jax.tree.map(lambda leaf: leaf.reshape(configs, -1, *leaf.shape[1:]), tree)


def _flat(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)
