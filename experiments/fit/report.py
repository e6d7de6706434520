"""What a fit leaves behind: tables, figures and the content of result.json."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from attnreg.data.layers import head_map
from attnreg.fit.coordinates import whitened
from attnreg.fit.determined import Determined, determined_maps
from attnreg.fit.identifiability import Identifiability, identifiability, logit_distance
from attnreg.lift.streaming import map_over_blocks
from attnreg.lift.tensor_trick import logits
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import replaced
from attnreg.problems.layer import LayerRegression
from attnreg.problems.registry import find_loss
from attnreg.problems.rotary import Rotary
from attnreg.rows import softmax
from attnreg.solvers import Counts, Status, describe
from attnreg.solvers.state import State
from experiments.fit import figures as fit_figures
from experiments.runner.maps import maps
from experiments.runner.record import Record


class Fit(NamedTuple):
    """One method's solve: the last state and its curves."""

    state: State
    seconds: np.ndarray
    loss: np.ndarray
    heldout: np.ndarray


class Scale(NamedTuple):
    """What losses are divided by, training and held-out, and the name of the quotient."""

    train: float
    heldout: float
    name: str


def matrix(x: Any) -> jax.Array:
    """X, whatever the unknown."""
    return x.product() if isinstance(x, Factors) else x


def value_at_zero(problem: AttentionRegression) -> float:
    """The loss at X = 0, where nothing turns."""
    still = replaced(problem, rotary=None)
    return float(AttentionObjective(still).value(jnp.zeros(problem.shape, problem.dtype)))


def attention_maps(problem: AttentionRegression, x: Any, rotary: Rotary | None) -> tuple[np.ndarray, np.ndarray]:
    """True and fitted map of the first document (for the linear loss: the logits)."""
    first = jax.tree.map(lambda a: a[:1] if a.ndim == 3 else a, problem)
    if rotary is not None:
        still = replaced(first, rotary=None)
        true = map_over_blocks(still, lambda block: block.b)
        q, k = (np.asarray(A[0], np.float64) @ np.asarray(W, np.float64) for A, W in ((first.A1, x.Q), (first.A2, x.K)))
        return np.asarray(true[0]), head_map(q, k, causal=problem.causal, rotary=rotary)
    X = matrix(x)

    def emit(block):
        s = logits(block.query, X, block.keys)
        return block.b, s if find_loss(problem.loss).fits == "logits" else softmax(s, block.mask)

    true, fitted = map_over_blocks(first, emit)
    return np.asarray(true[0]), np.asarray(fitted[0])


def report(config: Any, record: Record, data: Any, curves: dict[str, Fit], method: str, scale: Scale) -> dict[str, Any]:
    """Tables, figures and the content of result.json."""
    main = curves[method]
    x = main.state.params
    at_zero = value_at_zero(data.problem) / scale.train
    held_at_zero = value_at_zero(data.heldout) / scale.heldout
    known = directions(data, x)
    status = Status(int(main.state.status))
    result = dict(
        data=data.title,
        method=method,
        status=status.name,
        message=describe(status),
        loss_unit=scale.name,
        loss_at_zero=at_zero,
        loss=main.loss[-1],
        heldout_at_zero=held_at_zero,
        heldout=main.heldout[-1],
        heldout_best=float(np.nanmin(main.heldout)),
        gradient_ratio=float(main.state.gradient_norm / main.state.start_gradient_norm),
        steps=int(main.state.steps),
        seconds=main.seconds[-1],
        unknowns=int(ravel_pytree(main.state.params)[0].size),
        identifiability=known._asdict(),
        counts={name: int(value) for name, value in Counts(*main.state.counts)._asdict().items()},
    )
    if data.truth is not None:
        seen = matrix(x) if data.rotary is None else x
        result["logit_error"] = float(logit_distance(data.problem, seen, data.truth))
        result["heldout_logit_error"] = float(logit_distance(data.heldout, seen, data.truth))
    record.table("fit", ("quantity", "value"), summary(result, known.describe()))
    if len(curves) > 1:
        record.table(
            "methods", ("method", "status", "loss", "held-out", "|g|/|g0|", "steps", "seconds"), methods(curves)
        )
        result["methods"] = {name: dict(loss=f.loss[-1], seconds=f.seconds[-1]) for name, f in curves.items()}
    eps = float(np.finfo(config.precision).eps)
    over_time = {name: (f.seconds, f.loss, f.heldout) for name, f in curves.items()}
    drawn = fit_figures.convergence({name: curve[:2] for name, curve in over_time.items()}, data.title, eps)
    record.figure(
        "convergence", drawn, caption=f"Training loss, of {scale.name}, over time and over steps; one run each."
    )
    drawn = fit_figures.heldout_over_time(over_time, data.title)
    record.figure("heldout", drawn, caption="Training and held-out loss over time; one run a method.")
    if data.problem.sizes[1] > 1:
        for name, problem, labels, loss in (
            ("train", data.problem, data.labels.train, result["loss"]),
            ("heldout", data.heldout, data.labels.heldout, result["heldout"]),
        ):
            true, fitted = attention_maps(problem, x, data.rotary)
            title = f"{data.title}, {name}: loss {loss:.4g} (all documents; the first is shown)"
            words = f"True and fitted map of the first {name} document, and their difference."
            record.figure(f"maps_{name}", maps(true, fitted, title=title, tokens=labels), caption=words)
    return result


def directions(data: Any, x: Any) -> Identifiability | Determined:
    """What the data determine of X, or of the factors of a rotary head."""
    if data.rotary is None:
        return identifiability(data.problem)
    problem = data.problem
    input_rank = whitened(LayerRegression(problem.A1, problem.A1, causal=problem.causal))[1]
    return determined_maps(problem, x.Q.shape[1], input_rank, data.rotary)


def summary(result: dict[str, Any], identified: str) -> list[tuple[str, Any]]:
    """Rows of the table a person reads first."""
    unit = result["loss_unit"]
    rows = [
        ("method", result["method"]),
        ("status", f"{result['status']}: {result['message']}"),
        (f"loss at X = 0, of {unit}", result["loss_at_zero"]),
        (f"final loss, of {unit}", result["loss"]),
        ("held-out loss at X = 0", result["heldout_at_zero"]),
        ("held-out loss on unseen data", result["heldout"]),
        ("gradient norm, of its start", result["gradient_ratio"]),
        ("iterations", result["steps"]),
        ("seconds, compilation apart", result["seconds"]),
        ("identifiability", identified),
    ]
    if "logit_error" in result:
        rows.append(("row-centred logits, relative error", result["logit_error"]))
        rows.append(("the same on unseen data", result["heldout_logit_error"]))
    return rows


def methods(curves: dict[str, Fit]) -> list[tuple]:
    """One row a method."""
    return [
        (
            name,
            Status(int(fit.state.status)).name,
            fit.loss[-1],
            fit.heldout[-1],
            float(fit.state.gradient_norm / fit.state.start_gradient_norm),
            int(fit.state.steps),
            fit.seconds[-1],
        )
        for name, fit in curves.items()
    ]
