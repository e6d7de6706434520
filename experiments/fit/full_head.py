"""Recover the shipped head at its full width from its attention maps, beside L-BFGS and Adam on the same objective."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnreg import parallel
from attnreg.data import HeadInstance, attention_map, load_full_head
from attnreg.fit import Progress, fit_attention, logit_distance, make_solver
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import check_choice
from attnreg.solvers import Optax, Solver
from attnreg.solvers.host import Stopwatch
from experiments.fit import head_figures
from experiments.runner.about import About, Metric
from experiments.runner.command import called
from experiments.runner.maps import maps
from experiments.runner.record import Record

ABOUT = About(
    "A head from its attention maps, at full width",
    "fit_attention recovers the shipped head from four texts and is judged on texts that no method has seen.",
    (
        Metric("heldout", "loss on unseen texts, of ‖B‖²"),
        Metric("loss", "loss on the training texts, of ‖B‖²"),
        Metric("logit_error", "logits of unseen texts, relative error", path="heldout_logit_error"),
        Metric("seconds", "wall seconds of the fit, compiling included"),
    ),
)

SHARED = "the rows of the fits, documents first"
MAIN, PEERS = "fit_attention", ("lbfgs", "adam")
NAMES = {MAIN: MAIN, "lbfgs": "L-BFGS", "adam": "Adam, cosine schedule"}
ROWS = 256  # of a curve, at most, in a checkpoint
NEXT = (
    "any other head of the model: python -m attnreg.data.tools.fetch_minilm && "
    f"{called('run', 'attention_head')} --config.data.layer=5 --config.data.head=2"
)

Emit = Callable[[float, float, float, Factors], None]  # seconds, training loss, held-out loss, where the method is


class Data(NamedTuple):
    """The training and the unseen documents, the true X, and the token strings of the first unseen one."""

    problem: AttentionRegression
    heldout: AttentionRegression
    truth: jax.Array
    tokens: tuple[str, ...]


class Outcome(NamedTuple):
    """Factors, and a curve of rows (seconds, training loss, held-out loss)."""

    factors: Factors
    curve: np.ndarray


def run(config: Any, record: Record) -> dict[str, Any]:
    """Every method in turn; a run that was stopped goes on with the method that it stopped in."""
    head = load_full_head(dtype=jnp.dtype(config.precision))
    data = load(config, head)
    k, n, m, d, _ = data.problem.sizes
    sizes = f"{d} × {d} = {d * d} unknowns as factors of rank {config.rank}, {k} map{'s' * (k > 1)} of {n} × {m}"
    record.say(f"{head.name}: {sizes}")
    for name in config.compare:
        check_choice("compare", name, PEERS)
    makers: dict[str, Callable[[Emit], None]] = {
        MAIN: partial(recover, config, data),
        "lbfgs": partial(descend, config, data, lbfgs(config)),
        "adam": partial(descend, config, data, adam(config)),
    }
    methods = {name: makers[name] for name in (MAIN, *config.compare)}
    blank = Outcome(FactoredObjective(data.problem, config.rank).zeros(), np.full((ROWS, 3), np.nan))
    step, found = record.restore({name: blank for name in methods})
    outcomes = {name: Outcome(*found[name]) for name in methods}  # a checkpoint sorts the names
    # A step is one line of one method's curve.
    done = sum(bool(np.isfinite(outcome.curve[0, 0])) for outcome in outcomes.values())
    for name in list(methods)[done:]:
        step, outcomes[name] = follow(record, name, methods[name], step)
        record.save(step, outcomes)
    outcomes = {name: Outcome(one.factors, trimmed(np.asarray(one.curve))) for name, one in outcomes.items()}
    return report(config, record, data, outcomes, head.name)


def load(config: Any, head: HeadInstance) -> Data:
    """The shipped head, with fewer or shorter documents where the config says so."""
    tokens = config.data.tokens

    def problem(A, Q, K, count):
        A, Q, K = (jnp.asarray(part[:count, :tokens]) for part in (A, Q, K))
        maps = jax.nn.softmax(jnp.einsum("knr,kmr->knm", Q, K, precision="highest"), axis=-1)
        return AttentionRegression(A, A, maps)

    assert head.true_factors is not None, "it ships with its weights"
    return Data(
        problem(head.A, head.Q, head.K, config.data.train),
        problem(head.A_heldout, head.Q_heldout, head.K_heldout, None),
        Factors(*(jnp.asarray(part) for part in head.true_factors)).product(),
        head.tokens_heldout[0][:tokens],
    )


def recover(config: Any, data: Data, emit: Emit) -> None:
    """`fit_attention`: what a user would call on arrays of their own. Compiling is on its clock."""
    (A, maps), unseen = ((p.A1, jnp.asarray(p.B)) for p in (data.problem, data.heldout))

    def told(now: Progress) -> None:
        emit(now.seconds, now.train, now.heldout, now.weights)

    options = dict(config.fit)
    mesh = parallel.shared_mesh()
    fit = fit_attention(A, maps, rank=config.rank, heldout=unseen, callback=told, mesh=mesh, **options)
    if fit.heldout < fit.trace[-1][-1]:  # it keeps the best, which need not be the last
        emit(fit.seconds, fit.train, fit.heldout, fit.weights)


def lbfgs(config: Any) -> Solver:
    """The L-BFGS of optax."""
    return make_solver("lbfgs", max_steps=config.lbfgs.steps, memory_size=config.lbfgs.memory_size)


def adam(config: Any) -> Solver:
    """Adam whose learning rate falls to zero along a cosine."""
    schedule = optax.cosine_decay_schedule(config.adam.learning_rate, config.adam.steps)
    return Optax(optax.adam(schedule), max_steps=config.adam.steps)


def descend(config: Any, data: Data, solver: Solver, emit: Emit) -> None:
    """A solver on the factored objective; neither compiling nor judging is on its clock."""
    objective, unseen = (parallel.spread(FactoredObjective(p, config.rank)) for p in (data.problem, data.heldout))
    unit, unseen_unit = (float(jnp.sum(jnp.asarray(p.B) ** 2)) for p in (data.problem, data.heldout))
    clock = Stopwatch()
    for state in clock.time(solver.iterate(objective, objective.start(), chunk=config.judge_every)):
        heldout = float(unseen.value(state.params)) / unseen_unit
        emit(clock.seconds, float(state.value) / unit, heldout, parallel.gathered(state.params))


def follow(record: Record, name: str, method: Callable[[Emit], None], step: int) -> tuple[int, Outcome]:
    """Run a method and log its curve as it comes: the last step, and what came out. `step` is the one before."""
    rows: list[tuple[float, float, float]] = []
    found: list[Factors] = []

    def emit(seconds: float, train: float, heldout: float, factors: Factors) -> None:
        rows.append((seconds, train, heldout))
        found[:] = [factors]
        record.log(step + len(rows), method=name, loss=train, heldout=heldout, seconds=seconds)

    record.say(f"{NAMES[name]}: compiling, then fitting …")
    method(emit)
    record.say(f"{NAMES[name]}: loss {rows[-1][1]:.2g}, held out {rows[-1][2]:.2g}, after {rows[-1][0]:.1f} s")
    curve = np.full((ROWS, 3), np.nan)
    curve[: min(len(rows), ROWS)] = rows[: ROWS - 1] + rows[ROWS - 1 :][-1:]
    return step + len(rows), Outcome(found[0], curve)


def trimmed(curve: np.ndarray) -> np.ndarray:
    """The rows that were filled."""
    return curve[np.isfinite(curve[:, 0])]


def report(config: Any, record: Record, data: Data, outcomes: dict[str, Outcome], title: str) -> dict[str, Any]:
    """solution.npz, tables, figures and the content of result.json."""
    main = outcomes[MAIN]
    kept = record.arrays("solution", **main.factors._asdict())
    products = {name: jnp.asarray(one.factors.product()) for name, one in outcomes.items()}
    methods = {
        name: dict(
            loss=one.curve[-1, 1],
            heldout=one.curve[-1, 2],
            heldout_logit_error=float(logit_distance(data.heldout, products[name], data.truth)),
            seconds=one.curve[-1, 0],
        )
        for name, one in outcomes.items()
    }
    columns = ("method", "loss, of ‖B‖²", "on unseen text", "logits there, relative error", "seconds")
    rows = [(NAMES[name], *one.values()) for name, one in methods.items()]
    record.table("methods", columns, rows, caption="Every method at its end; losses are of ‖B‖².")
    draw(config, record, data, {NAMES[name]: one for name, one in outcomes.items()}, title)
    record.say(f"Q and K with X = QKᵀ: {kept}; figures: {kept.parent / 'figures'}")
    record.say(NEXT)
    sizes = dict(unknowns=int(data.truth.size), factors=sum(int(W.size) for W in main.factors))
    return dict(data=title, **sizes, **methods[MAIN], methods=methods)


def draw(config: Any, record: Record, data: Data, outcomes: dict[str, Outcome], title: str) -> None:
    """The curves, the maps of the first unseen document, and the logits of all unseen documents."""
    drawn = head_figures.curves({name: one.curve for name, one in outcomes.items()}, title)
    record.figure("curves", drawn, caption="Loss of every method over time on training and unseen texts; one run each.")
    factors = [jax.tree.map(np.asarray, one.factors) for one in outcomes.values()]
    A, truth = np.asarray(data.heldout.A1), np.asarray(data.truth)
    fitted = attention_map(A[0] @ factors[0].Q, A[0] @ factors[0].K)
    heldout = next(iter(outcomes.values())).curve[-1, 2]
    named = f"a text that the fit has not seen; loss on the unseen texts {heldout:.2g}"
    drawn = maps(np.asarray(data.heldout.B)[0], fitted, title=named, tokens=data.tokens, size=config.crop)
    record.figure("maps", drawn, caption="True and recovered map of a text that decided nothing, and their difference.")
    wanted = centred(A @ truth @ np.swapaxes(A, 1, 2))
    found = {name: centred(A @ x.Q @ np.swapaxes(A @ x.K, 1, 2)) for name, x in zip(outcomes, factors, strict=True)}
    words = "Fitted over true logits of all pairs of tokens of the unseen texts, a panel a method; colour counts pairs."
    record.figure("logits", head_figures.logits(wanted, found), caption=words)


def centred(S: np.ndarray) -> np.ndarray:
    """Logits (…, m) less the mean of their row, which softmax ignores."""
    return S - S.mean(axis=-1, keepdims=True)
