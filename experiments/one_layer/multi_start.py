"""The fraction of random noiseless one-layer instances solved within a CPU-time budget, ours against existing
solvers."""

import time
from typing import Any

import jax
import numpy as np

from experiments.one_layer import peers
from experiments.runner import figures
from experiments.runner.record import Record

OURS = "attnreg"


def run(config: Any, record: Record) -> dict[str, Any]:
    """Ours on every instance of every cell, the peers on the first few; at most `config.total_seconds` in all."""
    started, rows, skipped = time.perf_counter(), [], []
    cells = peers.chosen(config.cells, config.only)
    named = {n: [p for p in config.peers if n <= config.dense_n or p not in config.dense] for n, *_ in cells}
    record.expect(sum(count + fewer * len(named[n]) for n, _, count, fewer in cells))
    for n, d, count, fewer in cells:
        methods = {OURS: None} | {name: peers.PEERS[name]() for name in named[n]}
        for number in range(count):
            data = peers.instance(config.seed + number, n, d)
            for name, method in methods.items():
                if method is not None and number >= fewer:
                    continue
                if time.perf_counter() - started > config.total_seconds:
                    skipped.append({"n": n, "d": d, "instance": number, "method": name})
                    continue
                key, budget = jax.random.key(config.seed + 1000 + number), dict(seconds=config.seconds, tol=config.tol)
                found = peers.ours(data, key, **budget) if method is None else peers.hunt(method, data, key, **budget)
                rows.append({"n": n, "d": d, "instance": number, "method": name} | found._asdict())
                record.log(len(rows), n=n, d=d, instance=number, method=name, **found._asdict())
    summary = _summary(config, rows)
    _report(config, record, rows, summary, skipped)
    return {"runs": rows, "summary": summary, "not_run": skipped}


def _summary(config: Any, rows: list[dict]) -> list[dict]:
    out = []
    for n, d, name in sorted({(r["n"], r["d"], r["method"]) for r in rows}):
        mine = [r for r in rows if (r["n"], r["d"], r["method"]) == (n, d, name)]
        solved = [r["cpu"] for r in mine if r["relative"] <= config.tol]
        counts = dict(instances=len(mine), solved=len(solved), median_cpu=peers.median(solved))
        out.append(dict(n=n, d=d, method=name) | counts)
    return out


def _report(config: Any, record: Record, rows: list[dict], summary: list[dict], skipped: list[dict]) -> None:
    columns = ("n", "d", "method", "instances", "solved", "median_cpu")
    record.table("solved", columns, [[row[c] for c in columns] for row in summary])
    if skipped:
        record.say(f"{len(skipped)} of {len(skipped) + len(rows)} runs were left out: total_seconds was over")
    cells = sorted({(r["n"], r["d"]) for r in rows})
    figure, axes = figures.canvas(1, max(1, len(cells)))
    for panel, (n, d) in zip(axes[0], cells, strict=False):
        for name in dict.fromkeys(r["method"] for r in rows):
            mine = [r for r in rows if (r["n"], r["d"], r["method"]) == (n, d, name)]
            times = np.sort([r["cpu"] for r in mine if r["relative"] <= config.tol])
            if mine:
                steps = np.concatenate([[1e-3], times, [config.seconds]])
                heights = np.concatenate([[0], np.arange(1, len(times) + 1), [len(times)]]) / len(mine)
                panel.step(steps, heights, where="post", label=name, linewidth=2.4 if name == OURS else 1.2)
        panel.set(xscale="log", xlabel="CPU seconds", ylabel="fraction solved", title=f"n = {n}, d = {d}")
        panel.set_ylim(-0.03, 1.05)
    axes[0][0].legend(fontsize=6)
    record.figure("success", figure)
