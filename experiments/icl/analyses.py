"""What is asked of trained learners beyond their curves: why they differ, how they shift, what they do on real data."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl import descent, tuning
from attnreg.icl.tasks import Documents, Scales, TaskConfig, sample, stream
from experiments.icl import figures, tables
from experiments.icl.anatomy import anatomy
from experiments.icl.arms import Arm, shifted_task
from experiments.icl.measures import model_losses
from experiments.icl.references import Tuned
from experiments.icl.runs import Run
from experiments.runner.record import Record


@functools.partial(jax.jit, static_argnames=("arm", "task"))
def _shifted(
    arm: Arm, task: TaskConfig, key: jax.Array, scales: Scales, weights: Any, tuned: Tuned
) -> dict[str, jax.Array]:
    """Losses of R models, gradient descent and the best reference on a shifted distribution."""
    batch = sample(key, task, arm.evaluation.shift, scales=scales)
    found = {"trained": model_losses(arm, weights, batch), "zero": jnp.zeros_like(batch.answers)}
    found["zero"] = tuning.mean_loss(task, batch, found["zero"])
    for name, solver in (
        ("gd", lambda d: descent.gradient_descent(task, d, tuned.eta)),
        ("best", lambda d: descent.best_linear(task, d, tuned.ridge)),
    ):
        found[name] = tuning.mean_loss(task, batch, tuning.linear_logits(batch, jax.vmap(solver)(batch)))
    return found


def shifts(config: Any, runs: Sequence[Run], record: Record) -> dict[str, Any]:
    """Losses off the training distribution, along each axis of `config.shifts`; nothing is tuned again."""
    result: dict[str, Any] = {}
    lines = []
    key = jax.random.fold_in(stream(jax.random.key(0), "evaluate"), 2)
    for run in runs:
        result[run.arm.name] = {axis: [] for axis in config.shifts}
        for axis, value in ((axis, value) for axis, values in config.shifts.items() for value in values):
            task, scales = shifted_task(run.arm.task, axis, value)
            found = _shifted(run.arm, task, key, scales, run.weights, run.tuned)
            losses = {name: np.asarray(v, dtype=float) for name, v in found.items()}
            result[run.arm.name][axis].append({"value": value, **losses})
            trained, *others = (losses[name] for name in ("trained", "gd", "best", "zero"))
            lines.append((run.arm.name, axis, value, trained.mean(), trained.std(), *map(float, others)))
    record.table("shifts", ("arm", "axis", "value", "trained", "std", "gd", "best", "zero"), lines)
    figures.shifts(result, record)
    return result


def real(config: Any, runs: Sequence[Run], record: Record) -> dict[str, Any]:
    """Documents with real targets: trained models, descent tuned on synthetic and on real tuning documents, ridge."""
    table = tables.load(config.table)
    result: dict[str, Any] = {}
    lines = []
    of_tune, of_test = jax.random.split(jax.random.key(0))
    for run in runs:
        sizes = run.arm.evaluation
        cut = functools.partial(tables.real_documents, task=run.arm.task, standardise=config.table == "diabetes")
        tune, test = cut(of_tune, table.train, count=sizes.tune), cut(of_test, table.test, count=sizes.final)
        losses = _real_losses(run, tune, test)
        result[run.arm.name] = losses
        lines += [(run.arm.name, name, float(np.mean(v)), float(np.std(v))) for name, v in losses.items()]
    record.table("real", ("arm", "learner", "loss", "std over seeds"), lines)
    figures.real(result, config.table, record)
    return result


def _real_losses(run: Run, tune: Documents, test: Documents) -> dict[str, Any]:
    task, eta = run.arm.task, run.tuned.eta
    descent_loss = jax.jit(lambda d, eta: tuning.mean_loss(task, d, tuning.descent_logits(task, d, eta)))
    losses: dict[str, Any] = {"trained on synthetic targets": model_losses(run.arm, run.weights, test)}
    losses[f"gd, {len(eta)} steps, tuned on synthetic targets"] = descent_loss(test, eta)
    for steps in sorted({len(eta), 1, 5, 20}):
        best, _ = jax.jit(lambda d, k=steps: tuning.tune_descent(task, d, k))(tune)
        etas = jnp.broadcast_to(best.astype(task.dtype), (steps,))
        losses[f"gd, {steps} steps, tuned on real targets"] = descent_loss(test, etas)
    strength, _ = jax.jit(lambda d: tuning.tune_ridge(task, d))(tune)

    @jax.jit
    def ridge_loss(d, strength):
        w = jax.vmap(lambda one: descent.best_linear(task, one, strength))(d)
        return tuning.mean_loss(task, d, tuning.linear_logits(d, w))

    name = "ridge" if task.kind == "linear" else "ridge on log targets"
    losses[f"{name}, tuned on real targets"] = ridge_loss(test, strength.astype(task.dtype))
    return losses | {"zero": tuning.mean_loss(task, test, jnp.zeros_like(test.answers))}


ANALYSES = {"anatomy": anatomy, "shifts": shifts, "real": real}
