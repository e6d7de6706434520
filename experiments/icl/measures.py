"""What is measured of trained models: losses, distances from the references, and what became of each seed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from attnreg.icl import metrics, models, tuning
from attnreg.icl.tasks import Documents
from attnreg.icl.training import SEEDS
from experiments.icl.arms import Arm
from experiments.icl.references import Comparison, construction

CLOSENESS = ("prediction_difference", "sensitivity_difference", "cosine")


def names(arm: Arm) -> list[str]:
    """What is measured of an arm along its curve."""
    found = ["loss", "train_loss"] + [f"gd/{m}" for m in CLOSENESS]
    found += [f"gd_plus/{m}" for m in CLOSENESS] if arm.plus else []
    if arm.steps_like_descent:
        found += ["weight_distance"] + ["interpolated_loss", "sharpness"] * (arm.model.heads == 1)
    return found


@functools.partial(jax.jit, static_argnames=("arm", "mesh"))
def measure(arm: Arm, weights: Any, comparison: Comparison, mesh: Mesh | None = None) -> dict[str, jax.Array]:
    """Every metric but the training loss of R models on one batch of documents, a dict of (R,) arrays.

    On a mesh of `training_mesh` each device has the models of its place along the axis of seeds.
    """
    if mesh is None:
        return _measure(arm, weights, comparison)
    call = functools.partial(_measure, arm)
    seeds, same = PartitionSpec(SEEDS), PartitionSpec()
    return jax.shard_map(call, mesh=mesh, in_specs=(seeds, same), out_specs=seeds, check_vma=False)(weights, comparison)


def _measure(arm: Arm, weights: Any, comparison: Comparison) -> dict[str, jax.Array]:
    batch = comparison.batch

    def one(weights):
        logits, slopes = models.answer(weights, arm.model, batch, block=arm.evaluation.block)
        found = {"loss": tuning.mean_loss(arm.task, batch, logits)}
        for name in ("gd", "gd_plus"):
            if name in comparison.references:
                reference = comparison.references[name]
                wide = jnp.broadcast_to(reference.slopes, slopes.shape)
                compared = metrics.compare(arm.task, logits, slopes, reference.logits, wide)
                found |= {f"{name}/{metric}": value for metric, value in compared.items()}
        if arm.steps_like_descent:
            found |= _against_construction(arm, models.merge(weights), comparison)
        return found

    return jax.lax.map(one, weights)


def _against_construction(arm: Arm, attention: models.Attention, comparison: Comparison) -> dict[str, jax.Array]:
    """Distance from the weights that perform the nearest algorithm and, for one head, the loss half way to them."""
    target, batch = construction(arm, comparison.tuned), comparison.batch
    found = {"weight_distance": metrics.weight_distance(attention, target)}
    if arm.model.heads == 1:
        # Signed sharpness of the first layer; negative attends to the least similar tokens and subtracts them.
        d = arm.task.dimension
        found["sharpness"] = jnp.trace(attention.KQ[0, 0, :d, :d]) / d
        merged = dataclasses.replace(arm.model, parametrisation="merged")
        mixed = metrics.interpolate(attention, target)
        logits, _ = models.answer(mixed, merged, batch, block=arm.evaluation.block)
        found["interpolated_loss"] = tuning.mean_loss(arm.task, batch, logits)
    return found


@functools.partial(jax.jit, static_argnames="arm")
def model_losses(arm: Arm, weights: Any, batch: Documents) -> jax.Array:
    """Losses (R,) of R models on documents of the arm's kind of task."""

    def one(w):
        logits, _ = models.answer(w, arm.model, batch, block=arm.evaluation.block)
        return tuning.mean_loss(arm.task, batch, logits)

    return jax.lax.map(one, weights)


def groups(arm: Arm, final: dict[str, Any], losses: dict[str, float], stopped: Any) -> dict[str, list[int]]:
    """Seeds that must not be averaged together, by what became of them; empty groups are left out.

    "stuck": stopped, or less than half of the way from the zero predictor to gradient descent. One softmax head has two
    branches (docs/theory/icl.md): "attends away" (negative sharpness) and "attends to". All other seeds: "".
    """
    found: dict[str, list[int]] = {}
    for seed, loss in enumerate(np.asarray(final["loss"])):
        if np.asarray(stopped)[seed] >= 0 or not loss <= (losses["zero"] + losses["gd"]) / 2:
            name = "stuck"
        elif arm.model.attention == ("softmax",) and "sharpness" in final:
            name = "attends away" if final["sharpness"][seed] < 0 else "attends to"
        else:
            name = ""
        found.setdefault(name, []).append(seed)
    return dict(sorted(found.items()))
