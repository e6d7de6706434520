"""What is asked of trained learners beyond their curves: why they differ, how they shift, what they do on real data."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl import constructions, descent, kernels, metrics, models, tuning
from attnreg.icl.tasks import Documents, TaskConfig, sample, stream
from experiments.icl import arms as icl_arms
from experiments.icl import features as icl_rows
from experiments.icl import figures as icl_figures
from experiments.icl.arms import Arm, Tuned
from experiments.runner.record import Record


def anatomy(config: Any, arms: tuple[Arm, ...], finals: dict[str, Any], record: Record) -> dict[str, Any]:
    """Why softmax attention leaves the gradient step: kernels between the two, and the parts of its sensitivity."""
    arm = next(arm for arm in arms if arm.model.attention == ("softmax",) and arm.model.heads == 1)
    weights, tuned, batch, references, _ = finals[arm.name]
    task, tokens = arm.task, arm.model.tokens.targets
    tuning_batch = icl_arms.documents(config, arm, "tune", config.evaluation.fit, None, part=1)
    gain = constructions.gain(task.problem, tuned.eta[0], task.length)
    losses = _losses(arm, weights, batch)
    best_seed = jax.tree.map(lambda leaf: leaf[int(np.nanargmin(losses))], weights)
    trained_logits, _ = jax.jit(lambda w, d: models.answer(w, arm.model, d, block=arm.block))(best_seed, batch)
    found = jax.jit(lambda d: kernels.fit_kernels(tokens, task.problem, d, gain=gain))(tuning_batch)
    lines, fits = [], {}
    for name, fit in found.items():
        logits = _kernel_answer(name, tokens, fit.beta, fit.gain, batch, arm.block)[0]
        distance = metrics.targets_of(task.problem, logits) - metrics.targets_of(task.problem, trained_logits)
        fits[name] = {
            "beta": fit.beta,
            "gain": fit.gain,
            "loss": tuning.mean_loss(task.problem, batch, logits),
            "to_trained": jnp.mean(jnp.linalg.norm(distance, axis=-1)),
        }
        lines.append((name, *(float(v) for v in fits[name].values())))
    record.table("kernels", ("kernel", "beta", "gain", "loss", "difference to trained"), lines)
    parts = _parts(arms, finals, tokens, fits["softmax"], (arm, batch, references))
    names = list(next(iter(parts.values())))
    record.table("anatomy", ("learner", *names), [(who, *(float(p[k]) for k in names)) for who, p in parts.items()])
    step = references["gd"].logits
    best = _kernel_answer("softmax", tokens, fits["softmax"]["beta"], fits["softmax"]["gain"], batch, arm.block)[0]
    icl_figures.curvature(step, {"trained softmax": trained_logits, "best softmax kernel": best}, record)
    return {"kernels": fits, "parts": parts}


def _losses(arm: Arm, weights: Any, batch: Documents) -> np.ndarray:
    """Loss of every seed."""

    @jax.jit
    def measure(weights, batch):
        def one(w):
            logits = models.answer(w, arm.model, batch, block=arm.block)[0]
            return tuning.mean_loss(arm.task.problem, batch, logits)

        return jax.lax.map(one, weights)

    return np.asarray(measure(weights, batch), dtype=float)


@functools.partial(jax.jit, static_argnames=("name", "tokens", "block"))
def _kernel_answer(name: str, tokens: str, beta: Any, gain: Any, batch: Documents, block: int) -> Any:
    def one(document):
        def total(queries):
            found = kernels.kernel_logits(name, beta, gain, tokens, document, queries)
            return jnp.sum(found), found

        slopes, found = jax.grad(total, has_aux=True)(document.queries)
        return found, slopes

    return jax.lax.map(one, batch, batch_size=block)


def _parts(
    arms: tuple[Arm, ...], finals: dict[str, Any], tokens: str, fit: dict[str, Any], subject: tuple[Any, ...]
) -> dict[str, Any]:
    """Loss and `kernels.anatomy` of every one-layer learner (mean over a branch's seeds), and of the best kernel."""
    parts = {}
    for arm in arms:
        if arm.model.depth > 1:
            continue
        weights, _, batch, references, groups = finals[arm.name]
        losses = _losses(arm, weights, batch)

        @jax.jit
        def dissect(weights, batch, step, arm=arm):
            def one(w):
                return kernels.anatomy(lambda d: models.answer(w, arm.model, d, block=arm.block), batch, step)

            return jax.tree.map(jnp.mean, jax.lax.map(one, weights))

        for group, seeds in groups.items():
            name = icl_arms.label(arm.name, group)
            chosen = jax.tree.map(lambda leaf, seeds=seeds: leaf[np.array(seeds)], weights)
            found = dissect(chosen, batch, references["gd"].slopes[:, 0])
            parts[name] = {"seeds": len(seeds), "loss": losses[seeds].mean()} | found
    arm, batch, references = subject

    def answer(d):
        return _kernel_answer("softmax", tokens, fit["beta"], fit["gain"], d, arm.block)

    found = jax.jit(lambda d, w: kernels.anatomy(answer, d, w))(batch, references["gd"].slopes[:, 0])
    parts["best softmax kernel"] = {"seeds": 0, "loss": fit["loss"]} | found
    return parts


@functools.partial(jax.jit, static_argnames=("arm", "task", "count"))
def _shifted(arm: Arm, task: TaskConfig, count: int, key: Any, scales: Any, weights: Any, tuned: Tuned) -> Any:
    """Losses of R models, gradient descent and the best reference on a shifted distribution."""
    batch = sample(key, task, count, scales=scales)
    problem = task.problem

    def model_loss(w):
        return tuning.mean_loss(problem, batch, models.answer(w, arm.model, batch, block=arm.block)[0])

    solve = descent.ridge if problem == "linear" else descent.log_ratio
    found = {"trained": jax.lax.map(model_loss, weights)}
    for name, solver in (
        ("gd", lambda d: descent.gradient_descent(problem, d, tuned.eta)),
        ("best", lambda d: solve(d, tuned.ridge)),
    ):
        w = jax.vmap(solver)(batch)
        found[name] = tuning.mean_loss(problem, batch, jnp.einsum("bmd,bd->bm", batch.queries, w, precision="highest"))
    found["zero"] = tuning.mean_loss(problem, batch, jnp.zeros_like(batch.answers))
    return found


def shifts(config: Any, arms: tuple[Arm, ...], finals: dict[str, Any], record: Record) -> dict[str, Any]:
    """Losses off the training distribution, along each axis of `config.shifts`; nothing is tuned again."""
    result: dict[str, Any] = {}
    lines = []
    key = jax.random.fold_in(stream(jax.random.key(config.evaluation.seed), "evaluate"), 2)
    for arm in arms:
        weights, tuned, *_ = finals[arm.name]
        for axis, values in config.shifts.items():
            for value in values:
                task, scales = _shift(arm.task, axis, value)
                found = _shifted(arm, task, config.evaluation.shift, key, scales, weights, tuned)
                losses = {name: np.asarray(v, dtype=float) for name, v in found.items()}
                result.setdefault(arm.name, {}).setdefault(axis, []).append({"value": value, **losses})
                mean = float(losses["trained"].mean())
                row = (float(losses[k]) for k in ("gd", "best", "zero"))
                lines.append((arm.name, axis, value, mean, float(losses["trained"].std()), *row))
    record.table("shifts", ("arm", "axis", "value", "trained", "std", "gd", "best", "zero"), lines)
    icl_figures.shifts(result, config, record)
    return result


def _shift(task: TaskConfig, axis: str, value: Any) -> tuple[TaskConfig, Any]:
    """A static task and traced scales: the scale axes share one compilation."""
    scales = task.scales
    if axis in ("input_scale", "weight_scale"):
        factor = jnp.asarray(value, task.dtype)  # a factor on the training scale
        name = axis.removesuffix("_scale")
        return task, scales._replace(**{name: getattr(scales, name) * factor})
    if axis == "noise":
        return dataclasses.replace(task, noise=1.0), scales._replace(noise=jnp.asarray(value, task.dtype))
    return dataclasses.replace(task, **{axis: value}), scales


def real(config: Any, arms: tuple[Arm, ...], finals: dict[str, Any], record: Record) -> dict[str, Any]:
    """Documents with real targets: trained models, descent tuned on synthetic and on real tuning documents, ridge."""
    table = icl_rows.load(config.rows)
    result: dict[str, Any] = {}
    lines = []
    of_tune, of_test = jax.random.split(jax.random.key(config.evaluation.seed))
    for arm in arms:
        weights, tuned, *_ = finals[arm.name]
        problem, cut = arm.task.problem, functools.partial(icl_rows.real_documents, task=arm.task)
        standardise = config.rows == "diabetes"
        tune = cut(of_tune, table.train, count=config.evaluation.tune, standardise=standardise)
        test = cut(of_test, table.test, count=config.evaluation.final, standardise=standardise)
        losses = _real_losses(arm, weights, tuned, tune, test)
        losses["zero"] = tuning.mean_loss(problem, test, jnp.zeros_like(test.answers))
        result[arm.name] = losses
        lines += [(arm.name, name, float(np.mean(v)), float(np.std(v))) for name, v in losses.items()]
    record.table("real", ("arm", "learner", "loss", "std over seeds"), lines)
    icl_figures.real(result, config, record)
    return result


def _real_losses(arm: Arm, weights: Any, tuned: Tuned, tune: Documents, test: Documents) -> dict[str, Any]:
    problem = arm.task.problem
    solve = descent.ridge if problem == "linear" else descent.log_ratio
    model_loss = jax.jit(
        lambda d, w: jax.lax.map(
            lambda one: tuning.mean_loss(problem, d, models.answer(one, arm.model, d, block=arm.block)[0]), w
        )
    )
    descent_loss = jax.jit(lambda d, eta: tuning.mean_loss(problem, d, tuning.descent_logits(problem, d, eta)))
    losses = {"trained on synthetic targets": model_loss(test, weights)}
    losses[f"gd, {len(tuned.eta)} steps, tuned on synthetic targets"] = descent_loss(test, tuned.eta)
    for steps in sorted({len(tuned.eta), 1, 5, 20}):
        eta, _ = jax.jit(lambda d, k=steps: tuning.tune_descent(problem, d, k))(tune)
        etas = jnp.broadcast_to(eta.astype(arm.task.dtype), (steps,))
        losses[f"gd, {steps} steps, tuned on real targets"] = descent_loss(test, etas)
    strength, _ = jax.jit(lambda d: tuning.tune_ridge(d, solve, problem=problem))(tune)

    @jax.jit
    def ridge_loss(d, strength):
        w = jax.vmap(lambda one: solve(one, strength))(d)
        return tuning.mean_loss(problem, d, jnp.einsum("bmd,bd->bm", d.queries, w, precision="highest"))

    name = "ridge" if problem == "linear" else "ridge on log targets"
    losses[f"{name}, tuned on real targets"] = ridge_loss(test, strength.astype(arm.task.dtype))
    return losses


ANALYSES = {"anatomy": anatomy, "shifts": shifts, "real": real}
