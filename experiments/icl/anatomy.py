"""Why trained softmax attention leaves the gradient step: kernels between the two, and the parts of its slopes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl import constructions, kernels, metrics, models, tuning
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import Documents
from experiments.icl import arms as icl_arms
from experiments.icl import figures
from experiments.icl.measures import model_losses
from experiments.icl.runs import Run
from experiments.runner.config import UsageError
from experiments.runner.record import Record


def anatomy(config: Any, runs: Sequence[Run], record: Record) -> dict[str, Any]:
    """The kernels fitted to the first one-layer, one-head softmax arm, and the anatomy of every one-layer learner."""
    softmax = [r for r in runs if r.arm.model.attention == ("softmax",) and r.arm.model.heads == 1]
    if not softmax:
        raise UsageError("config.analyses has 'anatomy', which needs an arm of one softmax layer with one head")
    run = softmax[0]
    losses = np.asarray(model_losses(run.arm, run.weights, run.comparison.batch), dtype=float)
    best_seed = jax.tree.map(lambda leaf: leaf[int(np.nanargmin(losses))], run.weights)
    answer = jax.jit(lambda w, d: models.answer(w, run.arm.model, d, block=run.arm.evaluation.block))
    trained, _ = answer(best_seed, run.comparison.batch)
    fits = _kernels(run, trained, record)
    beta, gain = (fits["softmax"][name] for name in ("beta", "gain"))
    learners = {"trained softmax": trained, "best softmax kernel": _answer("softmax", beta, gain, run)[0]}
    parts = _parts(runs, run, fits["softmax"])
    names = list(next(iter(parts.values())))
    record.table("anatomy", ("learner", *names), [(who, *(float(p[k]) for k in names)) for who, p in parts.items()])
    figures.curvature(run.comparison.references["gd"].logits, learners, record)
    return {"kernels": fits, "parts": parts}


def _kernels(run: Run, trained: jax.Array, record: Record) -> dict[str, dict[str, Any]]:
    """The best member of every kernel family, its loss and its distance from the trained logits."""
    arm, batch = run.arm, run.comparison.batch
    tuning_batch = icl_arms.documents(arm, "tune", arm.evaluation.fit, None, part=1)
    gain = constructions.gain(arm.task, run.tuned.eta[0])
    found = jax.jit(lambda d: kernels.fit_kernels(arm.task, arm.model, d, gain=gain))(tuning_batch)
    fits = {}
    for name, fit in found.items():
        logits = _answer(name, fit.beta, fit.gain, run)[0]
        distance = metrics.targets_of(arm.task, logits) - metrics.targets_of(arm.task, trained)
        fits[name] = {
            "beta": fit.beta,
            "gain": fit.gain,
            "loss": tuning.mean_loss(arm.task, batch, logits),
            "to_trained": jnp.mean(jnp.linalg.norm(distance, axis=-1)),
        }
    lines = [(name, *(float(v) for v in fit.values())) for name, fit in fits.items()]
    record.table("kernels", ("kernel", "beta", "gain", "loss", "difference to trained"), lines)
    return fits


def _answer(name: str, beta: Any, gain: Any, run: Run, batch: Documents | None = None) -> tuple[jax.Array, jax.Array]:
    """Logits and slopes of a kernel on the run's documents, or on others."""
    batch = run.comparison.batch if batch is None else batch
    return _kernel_answer(name, beta, gain, run.arm.model, batch, run.arm.evaluation.block)


@functools.partial(jax.jit, static_argnames=("name", "model", "block"))
def _kernel_answer(
    name: str, beta: Any, gain: Any, model: ModelConfig, batch: Documents, block: int
) -> tuple[jax.Array, jax.Array]:
    def one(document):
        def total(queries):
            found = kernels.kernel_logits(name, beta, gain, model, document, queries)
            return jnp.sum(found), found

        slopes, found = jax.grad(total, has_aux=True)(document.queries)
        return found, slopes

    return jax.lax.map(one, batch, batch_size=block)


def _parts(runs: Sequence[Run], subject: Run, fit: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Loss and `kernels.anatomy` of every one-layer learner (mean over a group's seeds), and of the best kernel."""
    parts = {}
    for run in (run for run in runs if run.arm.model.depth == 1):
        arm, batch, step = run.arm, run.comparison.batch, run.comparison.references["gd"].slopes[:, 0]
        losses = np.asarray(model_losses(arm, run.weights, batch), dtype=float)

        @jax.jit
        def dissect(weights, batch, step, arm=arm):
            def one(w):
                return kernels.anatomy(
                    lambda d: models.answer(w, arm.model, d, block=arm.evaluation.block), batch, step
                )

            return jax.tree.map(jnp.mean, jax.lax.map(one, weights))

        for group, seeds in run.groups.items():
            chosen = jax.tree.map(lambda leaf, seeds=seeds: leaf[np.array(seeds)], run.weights)
            found = dissect(chosen, batch, step)
            parts[icl_arms.label(arm.name, group)] = {"seeds": len(seeds), "loss": losses[seeds].mean()} | found

    @jax.jit
    def dissect_kernel(batch, step):
        return kernels.anatomy(lambda d: _answer("softmax", fit["beta"], fit["gain"], subject, d), batch, step)

    found = dissect_kernel(subject.comparison.batch, subject.comparison.references["gd"].slopes[:, 0])
    return parts | {"best softmax kernel": {"seeds": 0, "loss": fit["loss"]} | found}
