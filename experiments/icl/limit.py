"""Linear attention fitted in closed form, against the exact limit of its loss as the dimension grows."""

import functools
from typing import Any

import jax
import numpy as np

from attnreg.icl.linear_limit import Proportions, fit_linear_attention, limiting_loss, loss_of
from experiments.runner.about import NEITHER, About, Metric
from experiments.runner.figures import MARKERS, PALETTE, canvas
from experiments.runner.record import Record
from experiments.runner.statistics import bootstrap_band

ABOUT = About(
    "Linear attention and its limit",
    "A linear layer fitted in closed form on n = τd² documents, beside the limit of its loss as d grows.",
    (
        Metric("formula", "formula against the published numbers, worst", path="formula.*.difference"),
        Metric("gap", "simulation over its limit, less one, worst at the largest d", NEITHER, "gap"),
    ),
)
COLUMNS = ("alpha", "tau", "published", "ours", "difference")
SIMULATED = ("d", "alpha", "tau", "limit", "loss", "low", "high")


def run(config: Any, record: Record) -> dict[str, Any]:
    """The published numbers by formula, then simulations towards the limit."""
    formula = []
    for alpha, numbers in zip(config.alphas, config.published, strict=True):
        for tau, published in zip(config.taus, numbers, strict=True):
            ours = limiting_loss(Proportions(tau, alpha, config.rho, config.kappa))
            row = (alpha, tau, published, ours, abs(round(ours, config.digits) - published))
            formula.append(dict(zip(COLUMNS, row, strict=True)))
    record.table("formula", COLUMNS, [tuple(row.values()) for row in formula])
    simulated = []
    sizes = [(d, alpha, tau) for d in config.dimensions for alpha in config.alphas for tau in config.taus]
    record.expect(len(sizes))
    for i, (d, alpha, tau) in enumerate(sizes):
        z = Proportions(tau, alpha, config.rho, config.kappa)
        keys = [jax.random.fold_in(jax.random.key(config.seed), 1000 * i + seed) for seed in range(config.seeds)]
        losses = np.array([float(_loss(key, z, d)) for key in keys])
        mean, low, high = (float(edge[0]) for edge in bootstrap_band(losses[:, None], level=0.95))
        simulated.append(dict(zip(SIMULATED, (d, alpha, tau, limiting_loss(z), mean, low, high), strict=True)))
        record.log(i + 1, d=d, tau=tau, over_limit=mean / simulated[-1]["limit"])
    record.table("simulated", SIMULATED, [tuple(row.values()) for row in simulated])
    caption = f"Means over {config.seeds} seeds; lines are the limits."
    record.figure("limit", _figure(simulated, config), caption=caption)
    largest = [abs(row["loss"] / row["limit"] - 1.0) for row in simulated if row["d"] == max(config.dimensions)]
    return {"formula": formula, "simulated": simulated, "gap": max(largest)}


@functools.partial(jax.jit, static_argnums=(1, 2))
def _loss(key: jax.Array, z: Proportions, d: int) -> jax.Array:
    return loss_of(fit_linear_attention(key, z, dimension=d), z)


def _figure(rows: list[dict[str, Any]], config: Any) -> Any:
    figure, axes = canvas(1, len(config.alphas), width=3.4, height=2.8)
    for panel, alpha in zip(axes[0], config.alphas, strict=True):
        for i, tau in enumerate(config.taus):
            chosen = [row for row in rows if (row["alpha"], row["tau"]) == (alpha, tau)]
            panel.plot([r["d"] for r in chosen], [r["loss"] for r in chosen], color=PALETTE[i], marker=MARKERS[i],
                       label=f"τ = {tau}")  # fmt: skip
            panel.axhline(chosen[0]["limit"], color=PALETTE[i], linestyle=":")
        panel.set(xlabel="dimension d", title=f"α = {alpha}")
        panel.legend(fontsize=7)
    axes[0][0].set_ylabel("loss on fresh tasks")
    return figure
