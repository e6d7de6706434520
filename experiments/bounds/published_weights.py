"""Algorithm 1 of arXiv 2309.07418 at the weights that its lemmas, this project's and a search ask for."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds.layer_curvature import LayerSizes, greedy_weight, sandwich_weight, zero_start_weight
from attnreg.bounds.layer_region import printed_radius
from attnreg.bounds.statements import printed_c0
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.objectives.regularizer import RegularizerHessian
from attnreg.objectives.sampled import sampled_joint_hessian, spectral_error
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from attnreg.solvers import Newton
from attnreg.solvers.sketched import SketchedNewton

COLUMNS = (
    "n", "d", "rule", "w²", "rate at the minimiser", "worst step", "worst sketched step", "worst step, sampled Hessian",
    "‖X‖", "map error", "loss / ‖B‖²", "loss / optimum",
)  # fmt: skip
ALIVE = 1e-9  # a distance below this share of the start's is rounding


class Study(NamedTuple):
    """Data, the truth behind them, and what is compiled once for all weights."""

    data: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    truth: Unknowns
    minimise: Callable[[OneLayerObjective, Unknowns], Unknowns]
    optimum: float
    rows: int
    draws: int
    steps: int

    def objective(self, w2: float) -> OneLayerObjective:
        """The problem with the paper's squared weight w2 = w² = v²; the library's loss has no ½, hence the 2."""
        w = float(np.sqrt(2.0 * w2))
        A1, A2, A3, B = self.data
        return OneLayerObjective(OneLayerRegression(A1, A2, A3, B, weight=w, value_weight=w))


def studied(seed: int, n: int, d: int, config: Any) -> Study:
    """A layer drawn as `attnreg.data.synthetic.layer_instance` draws it, with the truth kept."""
    rng = np.random.default_rng(seed)
    A1, A2, A3 = (jnp.asarray(rng.normal(size=(n, d)) / np.sqrt(d)) for _ in range(3))
    truth = Unknowns(*(jnp.asarray(rng.normal(size=(d, d))) for _ in range(2)))
    B = softmax_map(A1, truth.X, A2) @ A3 @ truth.Y
    B = B + config.noise * jnp.sqrt(jnp.mean(B**2)) * jnp.asarray(rng.normal(size=B.shape))
    newton = Newton(tol=1e-13, max_steps=200)
    minimise = jax.jit(lambda objective, start: newton.run(objective, start).params)
    study = Study((A1, A2, A3, B), truth, minimise, 0.0, config.rows_per_square * d * d, config.draws * n, config.steps)
    return study._replace(optimum=fit_loss(study, minimise(study.objective(0.0), truth)))


def softmax_map(A1: jax.Array, X: jax.Array, A2: jax.Array) -> jax.Array:
    """The map (n, m)."""
    return jax.nn.softmax(jnp.matmul(jnp.matmul(A1, X, precision="highest"), A2.T, precision="highest"), axis=-1)


def fit_loss(study: Study, params: Unknowns) -> float:
    """`‖F A3 Y − B‖²` without regularizers."""
    A1, A2, A3, B = study.data
    return float(jnp.sum((softmax_map(A1, params.X, A2) @ A3 @ params.Y - B) ** 2))


def rules(study: Study, rate: float) -> dict[str, float]:
    """w² = v² that each guarantee asks for, in the paper's units, with its l going to 0."""
    A1, A2, _, B = (np.asarray(z) for z in study.data)
    (n, d), m = A1.shape, A2.shape[0]
    R = printed_radius(OneLayerRegression(*study.data))  # type: ignore[arg-type]
    ball, c0 = LayerSizes.ball(R, n=n, d=d), 100.0 * d * printed_c0(R)
    # With the data scaled until R = 1, |b| is at most 1, and the loss and its weights shrink by max|b|².
    scaled = 100.0 * d * printed_c0(1.0) * float(np.abs(B).max()) ** 2
    row, b = float(np.linalg.norm(B, axis=1).max()), float(np.linalg.norm(B))
    return {
        f"printed, min w (R = {R:.1f})": max(c0, 10.0 * np.sqrt(n)) ** 2,
        "printed, w² for w": max(c0, 100.0 * n),
        "printed, w² for w, data scaled to R = 1": max(scaled, 100.0 * n),
        "ours, within 10% on the domain of R": max(sandwich_weight(ball), 9.0 * n),
        f"ours, rate {rate:g} on the domain of R": greedy_weight(ball, rate),
        f"ours, rate {rate:g} from zero": zero_start_weight(b, row, rate, queries=n, keys=m),
    }


def rate_at(study: Study, w2: float, start: Unknowns) -> tuple[float, Unknowns]:
    """`‖G^{-½} N G^{-½}‖` at the minimiser, which Newton finds from `start`, and the minimiser."""
    objective = study.objective(w2)
    # Tolerances are relative to the start, so a second run from the end of the first takes the start's size out of it.
    best = study.minimise(objective, study.minimise(objective, start))
    return float(_rate(objective, best)), best


@jax.jit
def _rate(objective: OneLayerObjective, best: Unknowns) -> jax.Array:
    G = RegularizerHessian()(jax.random.key(0), objective, best, samples=1)
    return spectral_error(objective.value_grad_hessian(best)[2], G)


def searched(study: Study, rate: float, high: float) -> float:
    """The least w² at which the rate at the minimiser is at most `rate`, from `high` downwards, by bisection."""
    start = study.minimise(study.objective(high), Unknowns(*map(jnp.zeros_like, study.truth)))
    low = high
    while low > 1e-12:
        found, at = rate_at(study, low / 2.0, start)
        if not found <= rate:
            break
        low, start = low / 2.0, at
    above, below = low, low / 2.0
    for _ in range(12):
        middle = float(np.sqrt(above * below))
        found, at = rate_at(study, middle, start)
        above, below, start = (middle, below, at) if found <= rate else (above, middle, start)
    return above


def measured(study: Study, rule: str, w2: float) -> dict[str, Any]:
    """One row: a minimiser, from zero or from the truth, and how three samplers' steps contract to it from zero."""
    n, d = study.data[0].shape
    (rate, best), other = (
        rate_at(study, w2, start) for start in (Unknowns(*map(jnp.zeros_like, study.truth)), study.truth)
    )
    value = study.objective(w2).value
    if float(value(other[1])) < (1.0 - 1e-6) * float(value(best)):  # below that they are the same, but for rounding
        rate, best = other
    samplers = (
        (RegularizerHessian(), 1),
        (RegularizerHessian("srht"), study.rows),
        (sampled_joint_hessian, study.draws),
    )
    worst = [worst_step(study, w2, best, *sampler) for sampler in samplers]
    A1, A2 = study.data[:2]
    F, true = softmax_map(A1, best.X, A2), softmax_map(A1, study.truth.X, A2)
    error = jnp.linalg.norm(F - true) / jnp.linalg.norm(1.0 / F.shape[1] - true)
    loss = fit_loss(study, best)
    share = loss / float(jnp.sum(study.data[3] ** 2))
    numbers = (n, d, rule, w2, rate, *worst, float(jnp.linalg.norm(best.X)), float(error), share, loss / study.optimum)
    return dict(zip(COLUMNS, numbers, strict=True))


def worst_step(study: Study, w2: float, best: Unknowns, sampler: Any, samples: int) -> float:
    """The largest ratio of successive ‖z − z*‖_G from zero, infinite where it ends further away than it began."""
    zero = Unknowns(*map(jnp.zeros_like, best))
    path = np.asarray(_distances(sampler, samples, study.steps, study.objective(w2), zero, best))
    if not np.all(np.isfinite(path)) or path[-1] > path[0]:
        return float("inf")
    alive = path[:-1] > ALIVE * path[0]
    return float(np.max((path[1:] / path[:-1])[alive]))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _distances(
    sampler: Any, samples: int, steps: int, objective: OneLayerObjective, start: Unknowns, best: Unknowns
) -> jax.Array:
    """‖z − z*‖_G at the start and after each step without line search, (steps + 1,)."""
    solver = SketchedNewton(sampler, samples, tol=0.0, safeguard=False)
    A1, A2, A3 = (A[0] for A in (objective.problem.A1, objective.problem.A2, objective.problem.A3))

    def distance(params: Unknowns) -> jax.Array:
        X, Y = jax.tree.map(jnp.subtract, params, best)  # both parts have the same weight, which cancels in ratios
        return jnp.sqrt(jnp.sum((A1 @ X @ A2.T) ** 2) + jnp.sum((A3 @ Y) ** 2))

    def step(state: Any, _: None) -> tuple[Any, jax.Array]:
        state = solver.advance(objective, state)
        return state, distance(state.params)

    path = jax.lax.scan(step, solver.init(objective, start), None, length=steps)[1]
    return jnp.concatenate([distance(start)[None], path])
