"""The first call: time of a process from `python` to the answer, compiling included, beside other libraries.

Each contender is a script of `experiments.benchmarks.scripts`, started anew with an empty compilation cache.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from attnreg.data import attention_map, load_embedded_head, load_full_head
from attnreg.fit.solve import make_solver
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import check_choice
from experiments.runner.about import HIGHER, About, Metric
from experiments.runner.config import UsageError
from experiments.runner.record import Record

ABOUT = About(
    "The first call, beside other libraries",
    "A process from its start to the answer, imports and compiling included.",
    (
        Metric(
            "over_newton", "CPU time of the scipy script over ours, Newton", HIGHER, "over_scipy.newton", always=False
        ),
        Metric("over_newton_cg", "the same, Newton–CG", HIGHER, "over_scipy.newton_cg", always=False),
    ),
)

SCRIPTS = Path(__file__).parent / "scripts"
CONTENDERS: Mapping[str, tuple[str, ...]] = {
    "newton": ("attnreg_solve.py", "newton"),
    "newton_cg": ("attnreg_solve.py", "newton_cg"),
    "scipy": ("scipy_lbfgs.py",),
    "optax": ("optax_lbfgs.py",),
    "jaxopt": ("jaxopt_gauss_newton.py",),
}
HEADS = ("reduced", "full")
COLUMNS = ("contender", "cpu_s", "wall_s", "loss", "runs")


class Run(NamedTuple):
    """One process: its CPU and wall seconds, and the loss that it printed."""

    cpu: float
    wall: float
    loss: float


def run(config: Any, record: Record) -> dict[str, Any]:
    """All contenders in turn, `config.rounds` times; medians."""
    check_choice("config.head", config.head, HEADS)
    full = config.head == "full"
    contenders = at_full_width(config.scipy_steps) if full else CONTENDERS
    if unknown := set(config.contenders) - set(contenders):
        raise UsageError(f"config.contenders has {unknown.pop()!r}; there are {', '.join(contenders)}")
    head = load_full_head(dtype=np.float32) if full else load_embedded_head(dtype=np.float64)
    A = head.A[: config.documents]
    B = attention_map(head.Q, head.K)[: config.documents]
    file = record.arrays("problem", A=A, B=B)
    runs: dict[str, list[Run]] = {name: [] for name in config.contenders}
    for number in range(config.rounds):
        for name, found in runs.items():
            found.append(once(contenders[name], file, config.blas_threads))
            record.say(f"round {number + 1}, {name}: {found[-1].cpu:.2f} CPU s, loss {found[-1].loss:.6g}")
    rows = [(name, *np.median(np.asarray(found), axis=0).tolist(), len(found)) for name, found in runs.items()]
    record.table("first_call", COLUMNS, rows, caption="Medians of processes that were started in turn.")
    cpu: dict[str, float] = {row[0]: row[1] for row in rows}  # type: ignore[misc]
    over = {name: cpu["scipy"] / cpu[name] for name in ("newton", "newton_cg") if name in cpu and "scipy" in cpu}
    result = dict(first_call=[dict(zip(COLUMNS, row, strict=True)) for row in rows], over_scipy=over)
    if full:
        return result
    problem = AttentionRegression(A, A, B)
    sizes = {name: program_lines(name, problem) for name in ("newton", "newton_cg")}
    record.table("program", ("method", "lines of StableHLO"), list(sizes.items()), caption="What `solve` compiles.")
    return result | dict(program=sizes)


def at_full_width(scipy_steps: int) -> Mapping[str, tuple[str, ...]]:
    """Who fits the full head, in float32: scipy on the 147,456 numbers of X, for so many steps."""
    return {"fit_attention": ("attnreg_fit.py",), "scipy": ("scipy_lbfgs.py", str(scipy_steps))}


def once(command: tuple[str, ...], data: Path, blas_threads: int) -> Run:
    """Run one script in a process of its own, with so many threads of OpenBLAS; 0 is what a shell gives it.

    Raises: RuntimeError with what it said, if it fails.
    """
    script, *arguments = command
    ours = ("JAX_COMPILATION_CACHE_DIR", "OPENBLAS_NUM_THREADS")  # settings of the laboratory, not of a shell
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    if blas_threads:
        environment["OPENBLAS_NUM_THREADS"] = str(blas_threads)
    # The checkout, where nothing is installed.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, data, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr[-500:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(cpu, wall, float(done.stdout.split()[-1]))


def program_lines(method: str, problem: AttentionRegression) -> int:
    """The size of the program that a solve compiles."""
    objective = AttentionObjective(problem)
    solve = jax.jit(make_solver(method, tol=1e-8).run)
    return solve.lower(objective, objective.start()).as_text().count("\n")
