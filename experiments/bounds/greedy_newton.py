"""The iterative greedy algorithm measured against its claims: spectral error, contraction, log(1/ε), cost exponents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data.synthetic import attention_instance, layer_instance
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.objectives.sampled import sampled_hessian, sampled_joint_hessian, spectral_error
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from attnreg.solvers import Newton
from attnreg.solvers.sketched import SketchedNewton
from experiments.benchmarks.timing import interleave
from experiments.runner import figures
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError
from experiments.runner.record import Record

ABOUT = About(
    "Newton with a sampled Hessian",
    "The greedy algorithm of the papers against its claims: spectral error, contraction, steps and cost.",
    (
        Metric("power", "power of the samples by which ε falls", "lower", "*.*.power", always=False),
        Metric("contraction", "‖x_t+1 − x*‖ over ‖x_t − x*‖, worst median", "lower", "*.*.median_ratio", always=False),
    ),
)

PUBLISHED_CONTRACTION = 0.4  # the papers' lemma: ‖x_{t+1} − x*‖ ≤ 0.4 ‖x_t − x*‖


def matrix_objective(config: Any, n: int, d: int) -> AttentionObjective:
    """The regularized matrix problem, convex by the choice of w."""
    made = attention_instance(
        jax.random.key(config.seed), n=n, d=d, noise=config.noise, weight=config.weight, dtype=jnp.float64
    )
    return AttentionObjective(made.problem)


def one_layer_objective(config: Any, n: int, d: int) -> OneLayerObjective:
    """The regularized one-layer problem; its ridges make the region around the minimum convex."""
    data = layer_instance(jax.random.key(config.seed), n=n, d=d, noise=config.noise)
    ridge = config.ridge * n / d
    return OneLayerObjective(OneLayerRegression(*data, weight=config.weight, ridge=ridge, ridge_y=ridge))


FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "matrix": (matrix_objective, sampled_hessian),
    "one_layer": (one_layer_objective, sampled_joint_hessian),
}


class Studied(NamedTuple):
    """An objective by name, how its Hessian is sampled, and its minimum."""

    name: str
    objective: Any
    sampler: Callable[..., Any]
    best: Any


def minimum(objective: Any, config: Any) -> Any:
    """The minimum by exact Newton, from zero (matrix) or a small Y (one layer)."""
    start = objective.zeros()
    if isinstance(start, Unknowns):
        start = start._replace(Y=0.1 * jax.random.normal(jax.random.key(config.seed), start.Y.shape))
    return Newton(tol=1e-13, max_steps=200).run(objective, start).params


def run(config: Any, record: Record) -> dict[str, Any]:
    """All checks, in the order of their price; `config.parts` chooses."""
    if unknown := set(config.families) - set(FAMILIES):
        raise UsageError(f"config.families has {unknown.pop()!r}; there are {', '.join(FAMILIES)}")
    out: dict[str, Any] = {}
    for name in config.families:
        build, sampler = FAMILIES[name]
        objective = build(config, config.n, config.d)
        studied = Studied(name, objective, sampler, minimum(objective, config))
        if "spectral" in config.parts:
            out[f"{name} spectral error"] = _spectral(config, record, studied)
        if "contraction" in config.parts:
            out[f"{name} contraction"] = _contraction(config, record, studied)
    if "exponents" in config.parts:
        out["exponents"] = _exponents(config, record)
    return out


def _spectral(config: Any, record: Record, studied: Studied) -> list[dict]:
    """ε against the number of samples, over seeds, and the fitted power."""
    name, objective, sampler, best = studied
    exact, rows = objective.hessian(best), []
    if not bool(jnp.all(jnp.isfinite(jnp.linalg.cholesky(exact)))):
        raise UsageError("the Hessian at the minimum is not positive definite: raise config.weight or config.ridge")
    for samples in config.samples[name]:
        draw = jax.jit(
            lambda key, samples=samples: spectral_error(sampler(key, objective, best, samples=samples), exact)
        )
        errors = [float(draw(jax.random.key(config.seed + s))) for s in range(config.seeds)]
        rows.append(dict(samples=samples, median=float(np.median(errors)), worst=float(np.max(errors))))
        record.log(len(rows), family=name, part="spectral", **rows[-1])
    count, median, worst = ([r[k] for r in rows] for k in ("samples", "median", "worst"))
    power = float(np.polyfit(np.log(count), np.log(median), 1)[0])
    columns = ("samples", "median ε", "worst ε")
    record.table(f"spectral_{name}", columns, list(zip(count, median, worst, strict=True)))
    record.say(f"{name}: ε falls as samples^{power:.2f}")
    figure, axes = figures.canvas()
    axes[0][0].loglog(count, median, "o-", label="median")
    axes[0][0].loglog(count, worst, "o--", label="worst seed")
    axes[0][0].set(xlabel="samples", ylabel="spectral error ε", title=f"{name}: ε ∝ samples^{power:.2f}")
    axes[0][0].legend()
    record.figure(f"spectral_{name}", figure)
    return [*rows, {"power": power}]


def _distances(config: Any, studied: Studied, samples: int) -> np.ndarray:
    """‖x_t − x*‖ over its value at the start, along one run from near the minimum."""
    solver = SketchedNewton(
        studied.sampler, samples, tol=0.0, max_steps=config.steps, seed=config.seed, safeguard=False
    )
    start = jax.tree.map(lambda x: x * (1 + config.start_distance), studied.best)
    path: list[float] = []

    def watch(state: Any, _: Any) -> None:
        gaps = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), state.params, studied.best)
        path.append(float(jnp.sqrt(sum(jax.tree.leaves(gaps)))))

    solver.run_on_host(studied.objective, start, callback=watch)
    return np.array(path) / path[0]


def _contraction(config: Any, record: Record, studied: Studied) -> list[dict]:
    """Ratio of successive distances from the minimum, and steps to reach each ε."""
    name, rows, (figure, axes) = studied.name, [], figures.canvas(1, 2)
    for samples in config.samples[name]:
        distances = _distances(config, studied, samples)
        alive = distances > 1e-12
        ratios = distances[1:][alive[:-1] & alive[1:]] / distances[:-1][alive[:-1] & alive[1:]]
        reached = {f"steps to {e:g}": _first(distances, e) for e in config.epsilons}
        row = dict(samples=samples, median_ratio=float(np.median(ratios)), worst_ratio=float(np.max(ratios)), **reached)
        rows.append(row)
        record.log(len(rows), family=name, part="contraction", **row)
        mark = figures.MARKERS[(len(rows) - 1) % len(figures.MARKERS)]
        axes[0][0].semilogy(distances, marker=mark, markersize=3, label=f"{samples} samples")
        axes[0][1].semilogx(config.epsilons, [reached[f"steps to {e:g}"] or np.nan for e in config.epsilons], "o-",
                            label=f"{samples} samples")  # fmt: skip
    axes[0][0].semilogy(PUBLISHED_CONTRACTION ** np.arange(config.steps), "k:", label="lemma: 0.4 per step")
    axes[0][0].set(xlabel="step", ylabel="‖x − x*‖ / start", ylim=(1e-14, 2), title=f"{name}: contraction")
    axes[0][0].legend(fontsize=7)
    axes[0][1].legend(fontsize=7)
    axes[0][1].set(xlabel="ε", ylabel="steps", title="steps grow like log(1/ε)")
    record.figure(f"contraction_{name}", figure)
    record.table(f"contraction_{name}", tuple(rows[0]), [list(r.values()) for r in rows])
    return rows


def _first(distances: np.ndarray, epsilon: float) -> int | None:
    below = np.flatnonzero(distances <= epsilon)
    return int(below[0]) if below.size else None


def _exponents(config: Any, record: Record) -> dict[str, float]:
    """Least CPU time of one sampled and one exact curvature assembly against n and d, and where sampling pays."""
    rows, fits = [], {}
    for axis, sizes in (("n", [(n, config.scaling_d) for n in config.scaling_n]),
                        ("d", [(config.scaling_n_fixed, d) for d in config.scaling_ds])):  # fmt: skip
        measured: dict[str, list[float]] = {}
        for n, d in sizes:
            times = interleave(_assemblies(config, n, d), rounds=config.repeats)
            for name, samples in times.items():
                measured.setdefault(name, []).append(samples.fastest_cpu)
                rows.append([axis, n, d, name, samples.fastest_cpu])
                record.log(len(rows), part="exponents", axis=axis, n=n, d=d, quantity=name, cpu=samples.fastest_cpu)
        values = [n if axis == "n" else d for n, d in sizes]
        for name, seconds in measured.items():
            fits[f"{name}, exponent in {axis}"] = float(np.polyfit(np.log(values), np.log(seconds), 1)[0])
    record.table("assembly_cost", ("axis", "n", "d", "what", "CPU seconds"), rows)
    record.table("exponents", ("what", "exponent"), list(fits.items()))
    return fits


def _assemblies(config: Any, n: int, d: int) -> dict[str, Callable[[], Any]]:
    """Calls that assemble a gradient, the exact and a sampled Hessian at X = 0."""
    objective, X, samples = matrix_objective(config, n, d), jnp.zeros((d, d)), config.scaling_samples * d * d
    gradient, exact = jax.jit(objective.value_and_grad), jax.jit(objective.value_grad_hessian)
    sampled = jax.jit(lambda X: sampled_hessian(jax.random.key(0), objective, X, samples=samples))
    return {
        "gradient": lambda: gradient(X),
        "exact Hessian": lambda: exact(X),
        "sampled Hessian": lambda: sampled(X),
    }
