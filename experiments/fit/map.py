"""Fit the unknown matrix of an attention map, watch it converge beside other methods, and judge it on unseen data."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from attnreg.fit.identifiability import identifiability, logit_distance
from attnreg.fit.solve import METHODS, choose_method, make_solver
from attnreg.lift.streaming import map_over_blocks, sum_over_blocks
from attnreg.lift.tensor_trick import logits
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.factored import FactoredObjective, Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.rows import softmax
from attnreg.solvers import Status, describe
from attnreg.solvers.base import Solver, State, Stopwatch
from experiments.fit import data as fit_data
from experiments.fit import figures as fit_figures
from experiments.runner.config import UsageError
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


def run(config: Any, record: Record) -> dict[str, Any]:
    """Solve with `config.solver`, then with each method of `config.compare`; leave tables and figures."""
    for name in (config.solver.method, *config.compare):
        if name not in METHODS:
            raise UsageError(f"method {name!r} is not one of {', '.join(METHODS)}")
    data = fit_data.load(config)
    record.say(f"{data.title}: {describe_sizes(data.problem)}")
    scale = loss_scale(data)
    objective, start, spent = unknown(config, data.problem)
    method, why = (config.solver.method, "as configured")
    if method == "auto":
        method, why = choose_method(objective)
    record.say(f"method {method}: {why}")
    record.expect(config.solver.max_steps)
    main = fit(record, data, objective, start, build(config, method), scale, config.solver.seconds, spent)
    curves = {method: main}
    for name in config.compare:
        record.say(f"for comparison: {name}, at most {config.compare_seconds:g} s")
        solver = make_solver(name, tol=config.solver.tol, max_steps=10**6, learning_rate=config.learning_rate)
        other, other_start, spent = unknown(config, data.problem, full=config.compare_full)
        curves[name] = fit(None, data, other, other_start, solver, scale, config.compare_seconds, spent)
    return report(config, record, data, curves, method, scale)


def unknown(config: Any, problem: AttentionRegression, *, full: bool = False) -> tuple[Any, Any, float]:
    """The objective in X, or in factors when `config.rank` is set, where it starts, and the seconds that start took."""
    if not config.rank or full:
        objective = AttentionObjective(problem)
        return objective, objective.zeros(), 0.0
    objective = FactoredObjective(problem, config.rank)
    spectral = jax.jit(lambda o: o.spectral_start(config.start_damping))
    jax.block_until_ready(spectral(objective))  # compilation is not on the clock, the start itself is
    begun = time.perf_counter()
    start = jax.block_until_ready(spectral(objective))
    return objective, start, time.perf_counter() - begun


def build(config: Any, method: str) -> Solver:
    """The main solver, with the options of its own section."""
    options = config.solver.get(method)
    return make_solver(
        method,
        tol=config.solver.tol,
        max_steps=config.solver.max_steps,
        learning_rate=config.learning_rate,
        **(options.to_dict() if options is not None else {}),
    )


def fit(
    record: Record | None,
    data: fit_data.FitData,
    objective: Any,
    start: Any,
    solver: Solver,
    scale: Scale,
    budget: float,
    spent: float,
) -> Fit:
    """Run a solver from the host with `spent` seconds on the clock; with a `record`, log every step and checkpoint."""
    held = AttentionObjective(data.heldout)
    held_loss = jax.jit(lambda objective, x: objective.value(matrix(x)))
    rows: list[tuple[float, float, float]] = []
    found, clock = None, Stopwatch(spent)
    if record is not None:
        blank = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: solver.init(objective, start)))
        kept = (blank, np.zeros((solver.max_steps + 1, 3)))
        step, (saved, curve) = record.restore(kept)
        if step:
            found, rows = saved, [tuple(row) for row in np.asarray(curve)[: step + 1]]
            clock = Stopwatch(rows[-1][0])
    state = None
    for now in clock.time(solver.iterate(objective, start, state=found)):
        state = now
        if found is not None and int(state.steps) == int(found.steps):
            continue  # where the run goes on: logged before it stopped
        late = clock.seconds >= budget and int(state.status) == Status.RUNNING
        loss, heldout = float(state.value) / scale.train, float(held_loss(held, state.params)) / scale.heldout
        rows.append((clock.seconds, loss, heldout))
        if record is not None:
            step = int(state.steps)
            gradient = float(state.gradient_norm / state.start_gradient_norm)
            record.log(step, loss=loss, heldout=heldout, gradient=gradient, seconds=clock.seconds)
            curve = np.zeros((solver.max_steps + 1, 3))
            curve[: len(rows)] = rows
            record.save(step, (state, curve))
        if late:
            state = state._replace(status=jnp.asarray(Status.OUT_OF_TIME, jnp.int32))
            break
    assert state is not None, "a solver hands out its start"
    if int(state.status) == Status.RUNNING:
        state = state._replace(status=jnp.asarray(Status.MAX_STEPS, jnp.int32))
    return Fit(state, *np.asarray(rows).T)


def matrix(x: Any) -> jax.Array:
    """X, whatever the unknown."""
    return x.product() if isinstance(x, Factors) else x


def describe_sizes(problem: AttentionRegression) -> str:
    """Sizes in words."""
    k, n, m, d1, d2 = problem.sizes
    return f"{k} document(s) of {n} queries × {m} keys, X is {d1} × {d2} = {d1 * d2} unknowns, {problem.dtype}"


def loss_scale(data: fit_data.FitData) -> Scale:
    """`‖B‖²` where the loss is in its units; the loss at X = 0 for the rescaled family, in units of exp(2 logit)."""
    if data.problem.loss in ("normalized", "linear"):
        return Scale(_norm2(data.problem), _norm2(data.heldout), "‖B‖²")
    train, heldout = (
        float(AttentionObjective(p).value(jnp.zeros(p.shape, p.dtype))) for p in (data.problem, data.heldout)
    )
    return Scale(train, heldout, "loss at X = 0")


def _norm2(problem: AttentionRegression) -> float:
    def emit(block):
        return jnp.sum(jnp.where(block.fresh[:, None], block.b, jnp.zeros((), block.b.dtype)) ** 2)

    return float(jax.jit(lambda p: sum_over_blocks(p, emit))(problem))


def attention_maps(problem: AttentionRegression, X: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """True and fitted map of the first document (for the linear loss: the logits)."""
    first = jax.tree.map(lambda a: a[:1] if a.ndim == 3 else a, problem)

    def emit(block):
        s = logits(block.query, X, block.keys)
        return block.b, s if problem.loss == "linear" else softmax(s, block.mask)

    true, fitted = map_over_blocks(first, emit)
    return np.asarray(true[0]), np.asarray(fitted[0])


def report(config, record: Record, data, curves: dict[str, Fit], method: str, scale: Scale) -> dict[str, Any]:
    """Tables, figures and the content of result.json."""
    main = curves[method]
    X = matrix(main.state.params)
    zero = jnp.zeros(data.problem.shape, data.problem.dtype)
    at_zero = float(AttentionObjective(data.problem).value(zero)) / scale.train
    held_at_zero = float(AttentionObjective(data.heldout).value(zero)) / scale.heldout
    known = identifiability(data.problem)
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
        counts={name: int(value) for name, value in main.state.counts._asdict().items()},
    )
    if data.truth is not None:
        result["logit_error"] = float(logit_distance(data.problem, X, data.truth))
        result["heldout_logit_error"] = float(logit_distance(data.heldout, X, data.truth))
    record.table("fit", ("quantity", "value"), summary(result, known.describe()))
    if len(curves) > 1:
        record.table(
            "methods", ("method", "status", "loss", "held-out", "|g|/|g0|", "steps", "seconds"), methods(curves)
        )
        result["methods"] = {name: dict(loss=f.loss[-1], seconds=f.seconds[-1]) for name, f in curves.items()}
    floor = float(np.finfo(config.precision).eps)
    record.figure(
        "convergence", fit_figures.convergence({k: (f.seconds, f.loss) for k, f in curves.items()}, data.title, floor)
    )
    over_time = {name: (f.seconds, f.loss, f.heldout) for name, f in curves.items()}
    record.figure("heldout", fit_figures.heldout_over_time(over_time, data.title))
    if data.problem.sizes[1] > 1:
        for name, problem, labels in (
            ("maps_train", data.problem, data.labels.train),
            ("maps_heldout", data.heldout, data.labels.heldout),
        ):
            record.figure(name, fit_figures.maps(*attention_maps(problem, X), labels, f"{data.title}, {name[5:]}"))
    return result


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
