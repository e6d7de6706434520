"""What trained learners are compared with: descent with tuned steps, ridge, and the weights that perform descent."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.icl import constructions, descent, models, tuning
from attnreg.icl.tasks import Documents
from experiments.icl.arms import Arm


class Tuned(NamedTuple):
    """Step sizes chosen on tuning documents.

    eta (K,) of gradient descent, GD++ steps and the scale of Newton's iteration (or None), ridge strength.
    """

    eta: jax.Array
    plus: descent.PlusSteps | None
    ridge: jax.Array
    newton: jax.Array | None = None


class Reference(NamedTuple):
    """What an algorithm answers: logits (B, m), slopes (B, m, d), or (B, 1, d) when every query has the same."""

    logits: jax.Array
    slopes: jax.Array


class Comparison(NamedTuple):
    """Documents to mark a learner on, and what the references answer there with steps tuned elsewhere."""

    tuned: Tuned
    batch: Documents
    references: dict[str, Reference]


def tune(arm: Arm, batch: Documents) -> Tuned:
    """Every step size of the arm's references: closed form where it exists, else line search, else learning."""
    task, steps = arm.task, arm.model.depth
    if steps == 1 and tuning.has_closed_form(task):
        eta: Any = tuning.closed_form(task).eta
    else:
        eta, _ = jax.jit(lambda d: tuning.tune_descent(task, d, steps))(batch)
    eta = jnp.broadcast_to(jnp.asarray(eta, jnp.result_type(float)), (steps,)).astype(task.dtype)
    plus = newton = None
    if arm.plus:
        newton, _ = jax.jit(lambda d: tuning.tune_inverse_newton(task, d, steps))(batch)
        learn = functools.partial(tuning.learn_plus, task, steps=steps, shared=arm.model.shared, eta=float(eta[0]))
        gamma = 1.0 / (task.length * float(jnp.mean(batch.context**2)) * task.dimension)
        plus, _ = jax.jit(lambda d: learn(d, gamma=gamma))(batch)
    if tuning.has_closed_form(task):
        # Exact for Gaussian weights; with no noise, least squares (its minimum-norm limit when n < d).
        strength: Any = max(task.noise**2 / task.weight_scale**2, 1e-10 * task.length)
    else:
        strength, _ = jax.jit(lambda d: tuning.tune_ridge(task, d))(batch)
    return Tuned(eta, plus, jnp.asarray(strength, task.dtype), newton)


def compare(arm: Arm, tuned: Tuned, batch: Documents) -> Comparison:
    """The answers on a batch of "gd" and "best" (ridge on targets or logits), at depth also "gd_plus" and "newton"."""
    return Comparison(tuned, batch, _answers(arm, tuned, batch))


@functools.partial(jax.jit, static_argnames="arm")
def _answers(arm: Arm, tuned: Tuned, batch: Documents) -> dict[str, Reference]:
    def linear(solver):
        w = jax.vmap(solver)(batch)
        return Reference(tuning.linear_logits(batch, w), w[:, None, :])

    found = {
        "gd": linear(lambda d: descent.gradient_descent(arm.task, d, tuned.eta)),
        "best": linear(lambda d: descent.best_linear(arm.task, d, tuned.ridge)),
    }
    if tuned.newton is not None:
        found["newton"] = linear(lambda d: descent.inverse_newton(d, arm.model.depth, tuned.newton))
    if (plus := tuned.plus) is not None:
        logits = jax.vmap(lambda d: descent.gd_plus_logits(d, plus))(batch)
        found["gd_plus"] = Reference(logits, jax.vmap(lambda d: descent.gd_plus_sensitivities(d, plus))(batch))
    return found


def losses(arm: Arm, comparison: Comparison) -> dict[str, float]:
    """Loss of each reference and of the zero predictor on the same documents."""
    batch = comparison.batch
    found = {name: r.logits for name, r in comparison.references.items()} | {"zero": jnp.zeros_like(batch.answers)}
    return {name: float(tuning.mean_loss(arm.task, batch, logits)) for name, logits in found.items()}


def construction(arm: Arm, tuned: Tuned) -> models.Attention:
    """Weights that perform the arm's nearest algorithm: GD++ where it exists, else gradient descent."""
    layers, task = arm.model.layers, arm.task
    eta, gammas = tuned.eta, None
    if tuned.plus is not None:
        eta, gammas = tuned.plus.eta, tuned.plus.gamma[:layers] * task.length
    gains = constructions.gain(task, eta[:layers])
    return models.merge(constructions.linear_descent(gains, task.dimension, dtype=task.dtype, gammas=gammas))
