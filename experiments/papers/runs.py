"""Where the numbers of rows come from: runs, and how each is read out of a result.

A number without a run here is one of docs/claims.json, by the name of its claim.
"""

from typing import Any

import numpy as np

from attnreg.bounds.statements import STATEMENTS
from experiments.papers.row import Run
from experiments.runner.statistics import bootstrap_band

ATTACKS = ("cosh", "sinh", "blocks", "values", "derivatives")  # variants of configs/lipschitz.py, all bounds together


def attacked(result: Any) -> dict[str, Any]:
    """The largest share of a sharp constant that an attack reached, and its improved pairs, for every bound."""
    found = {}
    for name, entry in result["bounds"].items():
        found |= {name: entry["best_tightness"], f"{name}, pairs": entry["improved_pairs"]}
    return found


def statements(result: Any) -> dict[str, Any]:
    """The same for the lemmas of arXiv 2309.07418, over all R, and the improved points of the least attacked."""
    rows = result["statements"]
    each = {name: [row for row in rows if row["statement"] == name] for name in STATEMENTS}
    found = {"statements, points": min(sum(row["improved"] for row in some) for some in each.values())}
    return found | {name: max(row["measured / sharp"] for row in some) for name, some in each.items()}


def region(result: Any) -> dict[str, Any]:
    """Newton's region: the least distances over the minimisers."""
    rows = result["region"]
    names = {"published": "region, published", "sharp": "region, sharp", "first lost": "region, lost"}
    return {name: min(row[column] for row in rows) for column, name in names.items()}


def lemmas(result: Any) -> dict[str, Any]:
    """C.1, G.1 (3) and K.3 on instances."""
    return {f"lemmas, {name}": number for name, number in result["lemmas"].items()}


def convexity(result: Any) -> dict[str, Any]:
    """The weight that the worst instance needs, and the least share of the observed radius that is proved."""
    return {
        "newton, threshold": result["threshold_observed"],
        "newton, over published": result["radius_sharp_over_published"],
    }


def shifts(result: Any) -> dict[str, Any]:
    """The largest share of the sharp limit that a move of targets reached."""
    return {f"shift, {loss}": share for loss, share in result["tightness_best"].items()}


def tokens(result: Any) -> dict[str, Any]:
    """All tokens at once: tightness and improved documents."""
    rows = result["attack"]
    found = {f"tokens, {name}, points": count for name, count in result["improved"].items()}
    for name in result["improved"]:
        found[f"tokens, {name}"] = max(row["tightness"] for row in rows if row["quantity"] == name)
    return found


def model_tokens(result: Any) -> dict[str, Any]:
    """All tokens at once in MiniLM: medians over its layers."""
    rows = result["minilm"]
    middle = sorted(rows, key=lambda row: row["share"])[len(rows) // 2]
    wanted = ("measured", "at the document", "ball", "published")
    return {f"minilm, {name}": middle[name] for name in wanted}


def sketches(result: Any) -> dict[str, Any]:
    """ε of a sketch of 4,096 rows, and the power of the rows."""
    rows = [row for row in result["embedding"] if row["data"] == "even"]
    found = {}
    for kind in ("srht", "sparse, s = 8"):
        of = [row for row in rows if row["sketch"] == kind]
        found |= {f"sketch, {kind}": next(row["median"] for row in of if row["rows"] == 4096)}
        found |= {f"sketch, {kind}, power": next(row["power"] for row in of if "power" in row)}
    return found


def weights(result: Any) -> dict[str, Any]:
    """Algorithm 1 at (64, 4): the weight by rule, and what its minimiser leaves unexplained."""
    rows = {row["rule"]: row for row in result["weights"] if row["n"] == 64}
    short = {"printed, w² for w": "printed", "ours, rate 0.4 from zero": "ours", "searched, rate 0.4": "search"}
    found = {}
    for rule, name in short.items():
        row = rows[rule]
        found |= {f"weight, {name}": row["w²"], f"weight, {name}, unexplained": row["loss / ‖B‖²"]}
    return found


def costs(result: Any) -> dict[str, Any]:
    """Exponents of the time of Algorithm 1's parts in n."""
    wanted = {"SRHT": "srht", "TensorSparse": "sparse", "gradient": "gradient", "true Hessian": "hessian"}
    return {f"cost, {name}": result["costs"][f"{what}, exponent in n"] for what, name in wanted.items()}


def limits(result: Any) -> dict[str, Any]:
    """Linear attention in closed form: how far the largest simulation is from its limit."""
    rows = result["simulated"]
    largest = max(row["d"] for row in rows)
    found = {"limit, d": largest, "limit, formula": max(abs(row["difference"]) for row in result["formula"])}
    found["limit, gap"] = result["gap"]
    return found


def heads(result: Any) -> dict[str, Any]:
    """Softmax heads, as arXiv 2503.12734 counts: twice the loss, and the query's noise of 0.1."""
    arms = result["arms"]
    found = {"heads, step": 2.0 * next(iter(arms.values()))["references"]["gd"] + 0.1}
    for arm in arms.values():
        losses = [2.0 * loss + 0.1 for loss in arm["final"]["loss"]]
        mean, low, high = (float(edge[0]) for edge in bootstrap_band(np.array(losses)[:, None], level=0.95))
        name = f"heads, {arm['x']:.0f}"
        found |= {name: mean, f"{name}, low": low, f"{name}, high": high}
    return found


def second_order(result: Any) -> dict[str, Any]:
    """Loss of two and three steps of Newton's iteration and of GD++."""
    found = {}
    for K in (2, 3):
        losses = result["arms"][f"looped_{K}"]["references"]
        found |= {f"depth {K}, newton": losses["newton"], f"depth {K}, gd_plus": losses["gd_plus"]}
    return found


def closeness(tasks: Any) -> dict[str, Any]:
    """The experiment of arXiv 2304.13276 by cell: losses; at d = 20 intervals, cosines and differences; plateaus."""
    found, shares, spreads = {}, [], []
    for overrides, result in tasks:
        n, d = overrides["task.length"], overrides["task.dimension"]
        cell, arms = f"paper {n} {d}", result["arms"]
        found[f"{cell}, step"] = next(iter(arms.values()))["references"]["gd"]
        for kind, arm in arms.items():
            losses = np.array(arm["final"]["loss"], float)
            mean, low, high = (float(edge[0]) for edge in bootstrap_band(losses[:, None], level=0.95))
            found[f"{cell}, {kind}"] = mean
            shares.append(arm["past_plateau"])
            spreads.append(float(np.ptp(losses)) / mean)
            if d == 20:
                found |= {f"{cell}, {kind}, low": low, f"{cell}, {kind}, high": high}
                for short, name in (("cosine", "cosine"), ("difference", "prediction_difference")):
                    found[f"{cell}, {kind}, {short}"] = np.mean(arm["final"][f"gd/{name}"])
    return found | {"paper, cells": len(tasks), "paper, past": min(shares), "paper, spread": max(spreads)}


def pools(result: Any) -> dict[str, Any]:
    """Pools of tasks: where the learner leaves dMMSE for ridge, and its loss on fresh tasks with the most tasks."""
    last = result["rows"][-1]
    found = {"pool, crossover": result["crossover"], "pool, tasks": last["tasks"]}
    return found | {
        "pool, over ridge": last["fresh_over_ridge"],
        "pool, dmmse over ridge": last["fresh dmmse"] / last["fresh ridge"],
    }


RUNS = (
    *(Run(f"configs/lipschitz.py:{name}", attacked) for name in ATTACKS),
    Run(
        "configs/one_layer_statements.py",
        statements,
        ("--config.parts=('statements',)", "--config.starts=16384", "--config.steps=80"),
    ),
    Run("configs/one_layer_statements.py", region, ("--config.parts=('region',)",)),
    Run("configs/one_layer_statements.py", lemmas, ("--config.parts=('lemmas',)",)),
    Run("configs/newton_region.py", convexity),
    Run("configs/target_shift.py", shifts),
    Run("configs/joint_tokens.py", tokens, ("--config.parts=('attack',)",)),
    Run("configs/joint_tokens.py", model_tokens, ("--config.parts=('minilm',)",)),
    Run("configs/published_greedy.py", sketches, ("--config.parts=('embedding',)",)),
    Run("configs/published_greedy.py", weights, ("--config.parts=('weights',)",)),
    Run("configs/published_greedy.py", costs, ("--config.parts=('costs',)",)),
    Run("configs/icl_paper.py", closeness, sweep=True),
    Run("configs/icl_limit.py", limits),
    Run("configs/icl_heads.py", heads),
    Run("configs/icl_depth.py:references", second_order),
    Run("configs/icl_task_pool.py", pools),
)
