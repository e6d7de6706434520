"""Kill runs with `kill -9` at random moments and check that nothing is lost or changed.

`python -m tests.experiments.torture --config configs/selfcheck.py --config.pause=0.05 --kills 50` runs each config once
undisturbed, then again and again under kills, and compares result.json and metrics.jsonl byte for byte, except
for fields whose name says that they are times. Exit code 1 when anything differs.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import run
from experiments.runner.screen import console
from experiments.runner.sheet import sheet
from experiments.runner.store import folder
from experiments.runner.store.encoding import dumps, read_json, read_lines

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["experiments.run", "matplotlib.pyplot", "optax", "orbax.checkpoint"])
TIMES = ("time", "seconds", "speed")


class Trial(NamedTuple):
    """One run that was killed until it finished."""

    config: str
    kills: int
    resumed_from: list[int]
    same_result: bool
    same_metrics: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Torture the configs on the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.torture", description=__doc__, allow_abbrev=False
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", action="append", required=True, help="may be repeated")
    parser.add_argument("--kills", type=int, default=50, help="kill -9 this many times in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--checkpoint-seconds", type=float, default=0.0)
    parser.add_argument("--workdir", type=Path, default=None, help="where the runs go (default: a temporary folder)")
    options, overrides = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = options.workdir or Path(temporary)
        trials = torture(options.config, overrides, root, options)
    rows = [(t.config, t.kills, " ".join(map(str, t.resumed_from)), t.same_result, t.same_metrics) for t in trials]
    screen = console()
    screen.print(sheet("kill -9", ("config", "kills", "resumed at step", "same result", "same metrics"), rows))
    good = all(t.same_result and t.same_metrics for t in trials)
    kills = sum(t.kills for t in trials)
    screen.print(f"{kills} kills, {len(trials)} runs finished, {'all identical' if good else 'SOME DIFFER'}")
    return 0 if good else 1


def torture(configs: Sequence[str], overrides: list[str], root: Path, options: Any) -> list[Trial]:
    """Run until the kills are used up; the last run of each config is let through to its end."""
    moments = random.Random(options.seed)
    references = {}
    for i, config in enumerate(configs):
        started = time.monotonic()
        workdir = root / f"reference-{i}"
        process = _start(config, overrides, workdir, options)
        process.join()
        if process.exitcode:
            raise SystemExit(f"{config} fails undisturbed, exit code {process.exitcode}: {workdir / folder.LOG}")
        references[config] = (workdir, time.monotonic() - started)
    trials, left = [], options.kills
    while left > 0:
        config = configs[len(trials) % len(configs)]
        reference, duration = references[config]
        share = max(1, min(left, options.kills // (2 * len(configs)) or 1))
        trial = _trial(config, overrides, root / f"killed-{len(trials)}", reference, duration, share, moments, options)
        trials.append(trial)
        left -= trial.kills
        console().print(f"{config}: {trial.kills} kills, {left} left")
    return trials


def _trial(
    config: str,
    overrides: list[str],
    workdir: Path,
    reference: Path,
    duration: float,
    most: int,
    moments: random.Random,
    options: Any,
) -> Trial:
    kills, resumed = 0, []
    while True:
        process = _start(config, overrides, workdir, options)
        process.join(None if kills == most else moments.uniform(0.02, 0.75 * duration))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            continue
        if process.exitcode:
            raise SystemExit(
                f"{config} failed with exit code {process.exitcode} after {kills} kills: {workdir / folder.LOG}"
            )
        break
    log = (workdir / folder.LOG).read_text().splitlines()
    resumed = [int(line.split()[-1]) for line in log if line.startswith("resumed at step ")]
    return Trial(config, kills, resumed, *same(reference, workdir))


def _start(config: str, overrides: list[str], workdir: Path, options: Any) -> Any:
    """One session in a process of its own, forked from a server that has imported everything: a start costs little."""
    workdir.mkdir(parents=True, exist_ok=True)
    arguments = ["--config", config, *overrides, f"--workdir={workdir}"]
    arguments.append(f"--checkpoint-seconds={options.checkpoint_seconds}")
    process = _SERVER.Process(target=_session, args=(arguments, str(workdir / folder.LOG)))
    process.start()
    return process


def _session(arguments: list[str], log: str) -> None:
    with open(log, "ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.exit(run.main(arguments))


def same(one: Path, other: Path) -> tuple[bool, bool]:
    """Whether results and metrics agree to the last bit, times apart."""
    results = [dumps(without_times(read_json(path / folder.RESULT))) for path in (one, other)]
    metrics = [dumps(without_times(read_lines(path / folder.METRICS))) for path in (one, other)]
    return results[0] == results[1], metrics[0] == metrics[1]


def without_times(value: Any) -> Any:
    """`value` without the fields that name a time."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(word in k for word in TIMES)}
        return {k: without_times(v) for k, v in kept.items()}
    return [without_times(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
