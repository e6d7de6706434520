"""Trained self-attention against gradient descent: train every arm of a config over seeds, compare, explain.

One config section each for task, model and training; `arms` are named overrides of them. All seeds (and, in a
sweep, all configs that differ in seed or learning rate) train in one vmapped program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl import metrics, training
from experiments.icl import analyses as icl_analyses
from experiments.icl import arms as icl_arms
from experiments.icl import features as icl_rows
from experiments.icl import figures as icl_figures
from experiments.icl.arms import Arm
from experiments.runner.batch import Records
from experiments.runner.record import Record

BATCHED = ("seed", "learning_rate")


def run(config: Any, record: Record) -> dict[str, Any]:
    """Train and compare one config; the result holds per-seed final numbers and curves."""
    return run_batch([config], Records([record]))[0]


def run_batch(configs: Sequence[Any], records: Records) -> list[dict[str, Any]]:
    """Train configs that differ in `BATCHED` fields in one program; one result each."""
    config, arms = configs[0], icl_arms.build(configs[0])
    for arm in arms:
        if arm.train.steps % config.chunk:
            raise ValueError(f"arm {arm.name!r}: steps={arm.train.steps} is no multiple of chunk={config.chunk}")
    rows = icl_rows.features(config.rows, config.precision)
    runs = {arm.name: _join([icl_arms.runs_of(c, arm) for c in configs]) for arm in arms}
    start = {arm.name: _start(config, arm, runs[arm.name], len(configs)) for arm in arms}
    records.expect(sum(arm.train.steps for arm in arms))
    done, state = records.restore(start)
    setups, before = {}, 0
    for arm in arms:
        setups[arm.name] = _setup(config, arm, rows)
        state = _train(config, arm, runs[arm.name], state, done, before, records, rows, setups[arm.name])
        before += arm.train.steps
        done = max(done, before)
    return [_finish(c, arms, _pick(state, i), records[i], rows, setups) for i, c in enumerate(configs)]


def _setup(config: Any, arm: Arm, rows: Any) -> tuple[Any, Any, Any]:
    """Tuned step sizes, the curve's evaluation documents and the references' answers on them."""
    sizes = config.evaluation
    tuned = icl_arms.tune(arm, icl_arms.documents(config, arm, "tune", sizes.tune, rows))
    batch = icl_arms.documents(config, arm, "evaluate", sizes.curve, rows)
    return tuned, batch, icl_arms.answers(arm, tuned, batch)


def _join(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _pick(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _fold(tree: Any, configs: int) -> Any:
    """Leaves (C·S, …) to (C, S, …): the batch's record keeps one entry a config."""
    return jax.tree.map(lambda leaf: leaf.reshape(configs, -1, *leaf.shape[1:]), tree)


def _flat(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _metric_names(arm: Arm) -> list[str]:
    measures = ("prediction_difference", "sensitivity_difference", "cosine")
    names = ["loss", "train_loss"] + [f"gd/{m}" for m in measures]
    names += [f"gd_plus/{m}" for m in measures] if arm.plus else []
    if arm.steps_like_descent:
        names += ["weight_distance"] + ["interpolated_loss", "sharpness"] * (arm.model.heads == 1)
    return names


def _start(config: Any, arm: Arm, runs: Any, configs: int) -> dict[str, Any]:
    fresh = jax.jit(lambda r: training.start(r, task=arm.task, model=arm.model, train=arm.train))(runs)
    points = arm.train.steps // config.chunk + 1
    curves = np.full((configs, config.seeds, points), np.nan, arm.task.dtype)
    # Sorted, as a checkpoint gives them back: the lines of the metrics file do not show where a run resumed.
    named = {name: jnp.asarray(curves) for name in sorted(_metric_names(arm))}
    return {"state": _fold(fresh, configs), "curves": named}


def _train(
    config: Any,
    arm: Arm,
    runs: Any,
    state: dict[str, Any],
    done: int,
    before: int,
    records: Records,
    rows: Any,
    setup: tuple[Any, Any, Any],
) -> dict[str, Any]:
    """Chunks of training steps of one arm, each followed by an evaluation, a log line and perhaps a checkpoint."""
    tuned, batch, references = setup
    current, curves = _flat(state[arm.name]["state"]), state[arm.name]["curves"]
    configs = len(records)

    def measure(point, **more):
        measured = icl_arms.evaluate(arm, current.weights, batch, tuned, references) | more
        return {name: curve.at[:, :, point].set(_fold(measured[name], configs)) for name, curve in curves.items()}

    unknown = jnp.full(runs.seed.shape, jnp.nan, arm.task.dtype)
    if done <= before:
        curves = measure(0, train_loss=unknown)
    for step in range(max(done - before, 0), arm.train.steps, config.chunk):
        current, losses = training.train_chunk(
            current,
            runs,
            task=arm.task,
            model=arm.model,
            train=arm.train,
            length=config.chunk,
            rows=rows if arm.task.inputs == "rows" else None,
        )
        point = step // config.chunk + 1
        curves = measure(point, train_loss=jnp.mean(losses, axis=1))
        state = state | {arm.name: {"state": _fold(current, configs), "curves": curves}}
        shown = {f"{arm.name}/{name}": np.asarray(curve[:, :, point]).mean(1) for name, curve in curves.items()}
        records.log(before + step + config.chunk, **shown)
        records.save(before + step + config.chunk, state)
    return state


def _finish(
    config: Any,
    arms: tuple[Arm, ...],
    state: dict[str, Any],
    record: Record,
    rows: Any,
    setups: dict[str, Any],
) -> dict[str, Any]:
    """Final numbers on fresh documents, the table, the figures and the analyses of one config."""
    result: dict[str, Any] = {"arms": {}}
    finals = {}
    for arm in arms:
        trained, curves = state[arm.name]["state"], state[arm.name]["curves"]
        tuned = setups[arm.name][0]
        batch = icl_arms.documents(config, arm, "evaluate", config.evaluation.final, rows, part=1)
        references = icl_arms.answers(arm, tuned, batch)
        losses = icl_arms.reference_losses(arm, batch, references)
        final = icl_arms.evaluate(arm, trained.weights, batch, tuned, references)
        summary = _summary(config, arm, trained, curves, final, losses, setups[arm.name], record)
        finals[arm.name] = (trained.weights, tuned, batch, references, summary["groups"])
        result["arms"][arm.name] = summary
    _table(arms, result, record)
    icl_figures.curves(arms, result, config, record)
    if config.chart:
        icl_figures.chart(arms, result, config, record)
    for name in config.analyses:
        result[name] = icl_analyses.ANALYSES[name](config, arms, finals, record)
    return result


def _summary(
    config: Any, arm: Arm, trained: Any, curves: Any, final: Any, losses: Any, setup: Any, record: Record
) -> dict[str, Any]:
    tuned, batch, references = setup
    on_curve = icl_arms.reference_losses(arm, batch, references)
    steps = [config.chunk * i for i in range(arm.train.steps // config.chunk + 1)]
    final = {name: np.asarray(value, dtype=float) for name, value in final.items()}
    stopped = np.asarray(trained.stopped)
    for seed in np.flatnonzero(stopped >= 0):
        record.say(f"{arm.name}: seed {seed} met a non-finite loss at step {stopped[seed]} and was stopped there")
    ends = [metrics.plateau_end(steps, c, on_curve["zero"], on_curve["gd"]) for c in np.asarray(curves["loss"])]
    groups = icl_arms.groups(arm, final, losses, stopped)
    summary = {
        "series": arm.series,
        "x": arm.x,
        "references": losses,
        "curve_references": on_curve,
        "groups": groups,
        "eta": np.asarray(tuned.eta),
        "ridge": tuned.ridge,
        "final": final,
        "stopped": stopped,
        "plateau_end": ends,
        "past_plateau": 1 - len(groups.get("stuck", ())) / config.seeds,
        "steps": steps,
        "curves": {name: np.asarray(curve) for name, curve in curves.items()},
    }
    if tuned.plus is not None:
        summary |= {"plus_eta": tuned.plus.eta, "plus_gamma": tuned.plus.gamma}
    summary["mean"] = {
        group: {
            name: [float(b[0]) for b in metrics.bootstrap_band(value[seeds][:, None])] for name, value in final.items()
        }
        for group, seeds in groups.items()
    }
    return summary


def _table(arms: tuple[Arm, ...], result: dict[str, Any], record: Record) -> None:
    """One line a group of an arm's seeds: their means, with the 90% bootstrap band of the loss."""
    columns = ("arm", "seeds", "zero", "gd", "gd_plus", "best", "trained", "low", "high", "cosine", "cosine_plus")
    columns += ("prediction_difference", "interpolated")
    lines = []
    for arm in arms:
        r = result["arms"][arm.name]
        for group, mean in r["mean"].items():
            losses = r["references"]
            lines.append(
                (
                    icl_arms.label(arm.name, group),
                    len(r["groups"][group]),
                    losses["zero"],
                    losses["gd"],
                    losses.get("gd_plus"),
                    losses["best"],
                    *mean["loss"],
                    mean["gd/cosine"][0],
                    mean["gd_plus/cosine"][0] if arm.plus else None,
                    mean["gd/prediction_difference"][0],
                    mean["interpolated_loss"][0] if "interpolated_loss" in mean else None,
                )
            )
    record.table("final", columns, lines)
