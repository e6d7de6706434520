"""Arguments of the commands and options of the library, drawn at random: an answer, or a refusal in words."""

import functools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg import AttentionRegression, ProblemError, solve
from attnreg.fit.solve import METHODS, options_of
from experiments import collect, report, run, sweep
from tests.attack.bench import CONFIG, Attempt, Bench, ended

TEXTS = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1",
    "1e999",
    "a\nb",
    "\x1b[31m",
    "[]",
    "(1,)",
    "(inf,)",
    "True",
    "None",
    "é" * 300,
)
FIELDS = ("seed", "precision", "experiment", "n", "d", "chunk", "learning_rate", "no.such", "seed.x", "")
OPTIONS = {
    run.main: ("workdir", "checkpoint-seconds", "process", "processes", "coordinator", "forse"),
    sweep.main: ("index", "jobs", "batch", "max-deaths", "checkpoint-seconds", "pack", "jbs", "slurm"),
}
VALUES: tuple[Any, ...] = (
    None, True, "3", "", b"1", -1, 0, 1, 2.5, math.nan, math.inf, -math.inf, 1e400, 10**30, 1j, [], (1,), {}, object(),
    np.float64(0.5), np.int64(2), np.nan, np.zeros(2), np.array(3), np.array("x"), max,
)  # fmt: skip
ARRAYS = ("A1", "A2", "B", "loss", "mask", "causal", "weight", "ridge")


def attempts(bench: Bench, times: int, seed: int) -> Iterator[Attempt]:
    """`times` command lines and ten times as many calls."""
    draw = random.Random(seed)
    for _ in range(times):
        main = draw.choice(list(OPTIONS))
        flags = tuple(_flag(draw, main) for _ in range(draw.randint(1, 3)))
        name = main.__module__.rpartition(".")[2]
        yield Attempt("fuzzed arguments", f"{name} {flags}", functools.partial(_command, main, flags))
    for main in (collect.main, report.main):
        for text in TEXTS:
            name = main.__module__.rpartition(".")[2]
            yield Attempt("fuzzed arguments", f"{name} {text!r}", functools.partial(_reading, main, text))
    for _ in range(10 * times):
        if draw.random() < 0.5:
            method = draw.choice(METHODS)
            option = draw.choice((*options_of(method), "method", "start"))
        else:
            method, option = "", draw.choice(ARRAYS)
        value = draw.choice(VALUES)
        case = functools.partial(_call, method, option, value)
        yield Attempt("fuzzed options", f"{method or 'problem'} {option}={value!r:.40}", case)


def _flag(draw: random.Random, main: Any) -> str:
    text = draw.choice(TEXTS)
    if draw.random() < 0.5:
        return f"--config.{draw.choice(FIELDS)}={text}"
    return f"--{draw.choice(OPTIONS[main])}={text}"


def _command(main: Any, flags: tuple[str, ...], place: Path) -> str | None:
    # A relative workdir lands in the attempt's own folder, where the process is.
    start = ("--config", CONFIG, "--config.steps=20", f"--workdir={place / 'run'}")
    more = () if main is run.main or any("index" in flag for flag in flags) else ("--list",)
    return ended(main, *start, *more, *flags).wrong()


def _reading(main: Any, text: str, place: Path) -> str | None:
    return ended(main, text).wrong()


@functools.cache
def _data() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return dict(A1=rng.normal(size=(5, 2)), A2=rng.normal(size=(4, 2)), B=rng.dirichlet(np.ones(4), 5))


def _call(method: str, option: str, value: Any, place: Path) -> str | None:
    data, options = _data(), {"max_steps": 3}
    try:
        with jax.numpy_dtype_promotion("standard"):
            if not method:
                solve(AttentionRegression(**(data | {option: value})), method="newton", **options)
                return None
            chosen = {"method": method} | options | ({} if option == "start" else {option: value})
            if option == "max_steps" and isinstance(value, int) and value > 1000:
                return None  # a history of so many steps fits no memory, as it says
            start = value if option == "start" else jnp.zeros((2, 2))
            result = solve(AttentionRegression(**data), start, **chosen)
            return None if result.message else "no message"
    except (ProblemError, TypeError) as error:
        return None if str(error) else "refused without a word"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
