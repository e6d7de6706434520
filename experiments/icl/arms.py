"""The arms of an in-context-learning experiment: from a config to tasks, models, references and their evaluation."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl import constructions, descent, metrics, models, training, tuning
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample, stream
from attnreg.icl.tokens import TokenConfig
from attnreg.icl.training import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One learner on one task distribution; hashable, static.

    Attributes:
        name: key in the results.
        series: label in figures.
        x: its place on the axis of a summary figure.
        task: documents.
        model: learner.
        train: training.
        block: documents evaluated at a time, so that memory stays bounded.
    """

    name: str
    series: str
    x: float
    task: TaskConfig
    model: ModelConfig
    train: TrainConfig
    block: int

    @property
    def steps_like_descent(self):
        """Whether the model can be the construction: no MLP, no layer norm, concatenated tokens, a step per layer."""
        simple = not self.model.mlp and not self.model.layer_norm and self.model.tokens.layout == "concatenated"
        return simple and (self.model.depth == 1 or self._deep_linear)

    @property
    def _deep_linear(self):
        return self.task.problem == "linear" and set(self.model.attention) == {"linear"}

    @property
    def plus(self):
        """Whether GD++ is a reference: linear problem, more than one linear layer."""
        return self._deep_linear and self.model.depth > 1


class Reference(NamedTuple):
    """What an algorithm answers: logits B×m, slopes B×m×d (or B×1×d when every query has the same)."""

    logits: jax.Array
    slopes: jax.Array


class Tuned(NamedTuple):
    """Step sizes chosen on tuning documents: eta (K,) of gradient descent, GD++ steps (or None), ridge strength."""

    eta: jax.Array
    plus: Any
    ridge: jax.Array


def build(config: Any) -> tuple[Arm, ...]:
    """The arms of a config: its task, model and train sections, overridden by each arm's own."""
    found = []
    for name, arm in config.arms.items():
        given = {part: config[part].to_dict() | dict(arm.get(part, {})) for part in ("task", "model", "train")}
        targets = "plain" if given["task"]["problem"] == "linear" else "simplex"
        tokens = TokenConfig(targets=targets, **given["model"].pop("tokens"))
        given["model"]["attention"] = tuple(given["model"]["attention"])
        found.append(
            Arm(
                name=name,
                series=arm.series,
                x=float(arm.x),
                task=TaskConfig(dtype=config.precision, **given["task"]),
                model=ModelConfig(tokens=tokens, **given["model"]),
                train=TrainConfig(**given["train"]),
                block=config.evaluation.block,
            )
        )
    return tuple(found)


def runs_of(config: Any, arm: Arm) -> training.Runs:
    """The seeds of one config as runs of one program; seed i of config seed s is 1000 s + i."""
    seeds = [1000 * config.seed + i for i in range(config.seeds)]
    return training.make_runs(arm.task, arm.model, seeds=seeds, learning_rates=(config.learning_rate,))


def documents(config: Any, arm: Arm, name: str, count: int, rows: Any, *, part: int = 0) -> Any:
    """`count` documents of a stream; `part` separates the curve's evaluation documents from the final ones."""
    key = jax.random.fold_in(stream(jax.random.key(config.evaluation.seed), name), part)
    draw = jax.jit(sample, static_argnums=(1, 2))
    return draw(key, dataclasses.replace(arm.task, pool=0), count, rows=rows)


def _spread(eta: Any, steps: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(eta, jnp.result_type(float)), (steps,))


def tune(arm: Arm, tuning_documents: Any) -> Tuned:
    """Every step size of the arm's references: closed form where it exists, else line search, else learning."""
    task, steps = arm.task, arm.model.depth
    exact = task.problem == "linear" and steps == 1 and task.inputs != "rows" and not task.distractors
    if exact:
        eta = tuning.closed_form(task).eta
    else:
        eta, _ = jax.jit(lambda d: tuning.tune_descent(task.problem, d, steps))(tuning_documents)
    eta = _spread(eta, steps).astype(task.dtype)
    plus = None
    if arm.plus:
        learn = functools.partial(tuning.learn_plus, steps=steps, shared=arm.model.shared, eta=float(eta[0]))
        gamma = 1.0 / (task.length * float(jnp.mean(tuning_documents.context**2)) * task.dimension)
        plus, _ = jax.jit(lambda d: learn(d, gamma=gamma))(tuning_documents)
    solve = descent.ridge if task.problem == "linear" else descent.log_ratio
    bayes = task.problem == "linear" and task.inputs != "rows" and not task.distractors
    if bayes:  # exact for Gaussian weights; with no noise, least squares (its minimum-norm limit when n < d)
        strength = max(task.noise**2 / task.weight_scale**2, 1e-10 * task.length)
    else:
        strength, _ = jax.jit(lambda d: tuning.tune_ridge(d, solve, problem=task.problem))(tuning_documents)
    return Tuned(eta, plus, jnp.asarray(strength, task.dtype))


@functools.partial(jax.jit, static_argnames="arm")
def answers(arm: Arm, tuned: Tuned, batch: Any) -> dict[str, Reference]:
    """What every reference answers: "gd", "gd_plus" where it exists, and "best" (ridge on targets or logits)."""
    problem = arm.task.problem
    solve = descent.ridge if problem == "linear" else descent.log_ratio

    def linear(solver):
        w = jax.vmap(solver)(batch)
        return Reference(jnp.einsum("bmd,bd->bm", batch.queries, w, precision="highest"), w[:, None, :])

    found = {
        "gd": linear(lambda d: descent.gradient_descent(problem, d, tuned.eta)),
        "best": linear(lambda d: solve(d, tuned.ridge)),
    }
    if tuned.plus is not None:
        logits = jax.vmap(lambda d: descent.gd_plus_logits(d, tuned.plus))(batch)
        found["gd_plus"] = Reference(logits, jax.vmap(lambda d: descent.gd_plus_sensitivities(d, tuned.plus))(batch))
    return found


def construction(arm: Arm, tuned: Tuned) -> models.Attention:
    """Weights that perform the arm's nearest algorithm: GD++ where it exists, else gradient descent."""
    layers, task = arm.model.layers, arm.task
    eta, gammas = tuned.eta, None
    if tuned.plus is not None:
        eta, gammas = tuned.plus.eta, tuned.plus.gamma[:layers] * task.length
    gains = constructions.gain(task.problem, eta[:layers], task.length)
    return models.merge(
        constructions.linear_descent(gains, task.dimension, tokens=arm.model.tokens, dtype=task.dtype, gammas=gammas)
    )


@functools.partial(jax.jit, static_argnames="arm")
def evaluate(arm: Arm, weights: Any, batch: Any, tuned: Tuned, references: dict[str, Reference]) -> dict[str, Any]:
    """Every metric of R models on one batch of documents, a dict of (R,) arrays."""
    problem, d = arm.task.problem, arm.task.dimension

    def loss(logits):
        return tuning.mean_loss(problem, batch, logits)

    def one(weights):
        logits, slopes = models.answer(weights, arm.model, batch, block=arm.block)
        found = {"loss": loss(logits)}
        for name in ("gd", "gd_plus"):
            if name in references:
                wide = jnp.broadcast_to(references[name].slopes, slopes.shape)
                measured = metrics.compare(problem, logits, slopes, references[name].logits, wide)
                found |= {f"{name}/{metric}": value for metric, value in measured.items()}
        if arm.steps_like_descent:
            target, attention = construction(arm, tuned), models.merge(weights)
            found["weight_distance"] = metrics.weight_distance(attention, target, dimension=d)
            if arm.model.heads == 1:
                # Signed sharpness of the first layer; negative attends to the least similar rows and subtracts them.
                found["sharpness"] = jnp.trace(attention.KQ[0, 0, :d, :d]) / d
                mixed = metrics.interpolate(attention, target, dimension=d)
                merged = dataclasses.replace(arm.model, parametrisation="merged")
                found["interpolated_loss"] = loss(models.answer(mixed, merged, batch, block=arm.block)[0])
        return found

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


def label(name: str, group: str) -> str:
    """A learner's name with its group."""
    return f"{name}, {group}" if group else name


def reference_losses(arm: Arm, batch: Any, references: dict[str, Reference]) -> dict[str, float]:
    """Loss of each reference and of the zero predictor on the same documents."""
    problem = arm.task.problem
    losses = {name: tuning.mean_loss(problem, batch, r.logits) for name, r in references.items()}
    losses["zero"] = tuning.mean_loss(problem, batch, jnp.zeros_like(batch.answers))
    return {name: float(np.asarray(value)) for name, value in losses.items()}
