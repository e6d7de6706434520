"""Fit the unknown matrix of an attention map, watch it converge beside other methods, and judge it on unseen data."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnreg import parallel
from attnreg.fit.solve import METHODS, choose_method, make_solver
from attnreg.lift.streaming import sum_over_blocks
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import check_choice, check_integer, check_number
from attnreg.solvers import History, Optax, Solver, Status, settled
from attnreg.solvers.base import finished
from attnreg.solvers.host import Stopwatch
from experiments.fit import data as fit_data
from experiments.fit.report import Fit, Scale, matrix, report, value_at_zero
from experiments.runner.about import About, Metric
from experiments.runner.record import Record

ABOUT = About(
    "The matrix behind an attention map",
    "A solver fits X to attention maps, beside others on the same objective, and is judged on unseen documents.",
    (
        Metric("heldout", "loss on unseen documents, in the unit of loss_unit"),
        Metric("loss", "loss on the training documents, in the unit of loss_unit"),
        Metric("gradient_ratio", "gradient at the end over that at the start"),
        Metric("steps", "steps of the solver"),
        Metric("seconds", "wall seconds of the solver, compiling apart"),
        Metric("logit_error", "logits, relative error", always=False),
    ),
)

SHARED = "the rows of the fits, documents first"


def run(config: Any, record: Record) -> dict[str, Any]:
    """Solve with `config.solver`, then with each method of `config.compare`; leave tables and figures."""
    for name in (config.solver.method, *config.compare):
        check_choice("method", name, METHODS)
    data = fit_data.load(config)
    record.say(f"{data.title}: {describe_sizes(data.problem)}")
    scale = loss_scale(data)
    objective, start, spent = unknown(config, data.problem)
    method, why = (config.solver.method, "as configured")
    if method == "auto":
        method, why = choose_method(objective)
    record.say(f"method {method}: {why}")
    record.expect(config.solver.max_steps)
    solver = build(config, method, config.solver.max_steps)
    main = fit(record, data, objective, start, solver, scale, config.solver.seconds, spent)
    record.arrays("solution", **solution(main.state.params))
    curves = {method: main}
    for name in config.compare:
        record.say(f"for comparison: {name}, at most {config.compare_seconds:g} s")
        solver = build(config, name, max_steps=10**6)
        other, other_start, spent = unknown(config, data.problem, full=config.compare_full)
        curves[name] = fit(None, data, other, other_start, solver, scale, config.compare_seconds, spent)
    return report(config, record, data, curves, method, scale)


def unknown(config: Any, problem: AttentionRegression, *, full: bool = False) -> tuple[Any, Any, float]:
    """The objective in X, or in factors when `config.rank` is set, where it starts, and the seconds that start took.

    On many devices its rows are spread over all of them.
    """
    if not config.rank or full:
        objective = parallel.spread(AttentionObjective(problem))
        return objective, objective.start(), 0.0
    objective = parallel.spread(FactoredObjective(problem, config.rank))
    first = spectral_start(objective, config.start_damping)
    jax.block_until_ready(first())  # compilation is not on the clock
    begun = time.perf_counter()
    start = jax.block_until_ready(first())
    return objective, start, time.perf_counter() - begun


def spectral_start(objective: Any, damping: float) -> Callable[[], Any]:
    """`FactoredObjective.spectral_start` on as many devices as the objective is spread over."""
    if not isinstance(objective, parallel.Spread):
        return lambda: objective.spectral_start(damping)
    return jax.jit(lambda: objective.on_mesh(lambda local: local.spectral_start(damping)))


def solution(x: Any) -> dict[str, Any]:
    """The unknown by name: X, or the factors Q and K."""
    return x._asdict() if isinstance(x, Factors) else {"X": x}


def build(config: Any, method: str, max_steps: int) -> Solver:
    """A solver with the options of its own section, where it has one; Adam with a cosine schedule."""
    options = config.solver[method].to_dict() if method in config.solver else {}
    if method == "adam":
        rate, steps = options["learning_rate"], options["steps"]
        check_number("solver.adam.learning_rate", rate, above=0)
        check_integer("solver.adam.steps", steps, at_least=1)
        schedule = optax.cosine_decay_schedule(rate, steps)
        return Optax(optax.adam(schedule), tol=config.solver.tol, max_steps=min(max_steps, steps))
    return make_solver(method, tol=config.solver.tol, max_steps=max_steps, **options)


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
    rotary = data.rotary is not None  # then there is no full X
    unseen = FactoredObjective(data.heldout, start.Q.shape[1]) if rotary else AttentionObjective(data.heldout)
    held = parallel.spread(unseen, strict=False)
    held_loss = jax.jit(lambda objective, x: objective.value(x if rotary else matrix(x)))
    spread = isinstance(objective, parallel.Spread)
    rows: list[tuple[float, float, float]] = []
    found, clock = None, Stopwatch(spent)
    if record is not None:
        blank = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: solver.init(objective, start)))
        kept = (objective.place(blank) if spread else blank, np.zeros((solver.max_steps + 1, 3)))
        step, (saved, curve) = record.restore(kept)
        if step:
            found, rows = saved, [tuple(row) for row in np.asarray(curve)[: step + 1]]
            clock = Stopwatch(rows[-1][0])
    state = None
    for now in clock.time(solver.iterate(objective, start, state=found)):
        state = now
        if found is not None and int(state.steps) == int(found.steps):
            continue  # where the run goes on: logged before it stopped
        late = parallel.agree(clock.seconds >= budget) and int(state.status) == Status.RUNNING
        params = state.params if isinstance(held, parallel.Spread) else parallel.gathered(state.params)
        loss, heldout = float(state.value) / scale.train, float(held_loss(held, params)) / scale.heldout
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
    blank = jnp.full(1, state.start_gradient_norm)
    result = settled(objective, start, finished(state, History(blank, blank, blank, blank)))
    return Fit(parallel.gathered(state._replace(status=result.status)), *np.asarray(rows).T)


def describe_sizes(problem: AttentionRegression) -> str:
    """Sizes in words."""
    k, n, m, d1, d2 = problem.sizes
    return f"{k} document(s) of {n} queries × {m} keys, X is {d1} × {d2} = {d1 * d2} unknowns, {problem.dtype}"


def loss_scale(data: fit_data.FitData) -> Scale:
    """The unit of losses: `‖B‖²` where the loss is in its units, else the loss at X = 0.

    Rescaled losses have the units of exp(2 logit), and "kl" is in nats.
    """
    if data.problem.loss in ("normalized", "linear"):
        return Scale(_norm2(data.problem), _norm2(data.heldout), "‖B‖²")
    train, heldout = (value_at_zero(p) for p in (data.problem, data.heldout))
    return Scale(train, heldout, "loss at X = 0")


def _norm2(problem: AttentionRegression) -> float:
    def emit(block):
        return jnp.sum(jnp.where(block.fresh[:, None], block.b, jnp.zeros((), block.b.dtype)) ** 2)

    return float(jax.jit(lambda p: sum_over_blocks(p, emit))(problem))
