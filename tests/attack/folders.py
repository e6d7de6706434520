"""Whose folder is it: stale locks, folders of others, links that lead out, names with newlines."""

import functools
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments import sweep
from experiments.runner.store import folder
from tests.attack.bench import CONFIG, Attempt, Bench, ended, snapshot

NAMES = (
    "config.json",
    "checkpoints/best.pt",
    "figures/a.png",
    "tables/t.csv",
    "log.txt",
    "solution.npz",
    "result.json",
)
CONTENTS = ('{"model_type": "bert"}', '{"seed": 0}', "[1]", "null", "", "not json", '{"config": {}}')


def attempts(bench: Bench, times: int, seed: int) -> Iterator[Attempt]:
    """Three kinds of stale locks; `times` foreign folders, each with and without --force; links; newlines."""
    for kind in ("another host", "recycled pid", "zombie"):
        for of in ("interrupted", "whole"):
            yield Attempt("stale locks", f"{kind}, {of}", functools.partial(_stale, bench, kind, of))
    for i in range(times):
        for force in ((), ("--force",)):
            make = functools.partial(_foreign, bench, random.Random(f"{seed}-{i}"), force)
            yield Attempt("foreign folders", f"layout {i} {' '.join(force)}", make)
    for name in (folder.LOCK, folder.METRICS, folder.RESULT, folder.CONFIG, folder.ENVIRONMENT):
        yield Attempt("links", name, functools.partial(_linked_file, bench, name))
    for name in (folder.CHECKPOINTS, folder.TABLES, folder.FIGURES):
        yield Attempt("links", f"{name}/", functools.partial(_linked_folder, bench, name))
    for text in ("a\ntouch OWNED", "a\r\nb", "a\x1b]0;x\x07b", "a\n#SBATCH --wrap=touch OWNED"):
        yield Attempt("newlines", repr(text), functools.partial(_newline, text))


def _stale(bench: Bench, kind: str, of: str, place: Path) -> str | None:
    workdir = bench.copy(getattr(bench, of), place)
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    process, host = {
        "another host": (1234, "elsewhere"),
        "recycled pid": (os.getpid(), socket.gethostname()),
        "zombie": (child.pid, socket.gethostname()),
    }[kind]
    (workdir / folder.LOCK).write_text(f"process {process} on {host}\n")
    try:
        return bench.goes_on(workdir)
    finally:
        child.wait()


def _foreign(bench: Bench, draw: random.Random, force: tuple[str, ...], place: Path) -> str | None:
    workdir = place / "model"
    for name in draw.sample(NAMES, draw.randint(1, len(NAMES))):
        (workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir / name).write_text(draw.choice(CONTENTS))
    if all(path.name == folder.LOG for path in workdir.iterdir()):
        (workdir / "weights.bin").write_text("weights")  # a folder with nothing but a log is an empty one
    before = snapshot(workdir)
    wrong = bench.start(workdir, *force).wrong(2)
    after = {name: content for name, content in snapshot(workdir).items() if name.name != folder.LOCK}
    return wrong or (None if after == before else f"touched: {sorted(map(str, set(before) ^ set(after)))}")


def _linked_file(bench: Bench, name: str, place: Path) -> str | None:
    workdir, victim = bench.copy(bench.interrupted, place), place / "victim"
    victim.write_text("precious")
    (workdir / name).unlink(missing_ok=True)
    (workdir / name).symlink_to(victim)
    wrong = bench.start(workdir).wrong(0, 2) or bench.start(workdir, "--force").wrong(0, 2)
    return wrong or (None if victim.read_text() == "precious" else "the victim was written")


def _linked_folder(bench: Bench, name: str, place: Path) -> str | None:
    workdir, victim = bench.copy(bench.interrupted, place), place / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    if (workdir / name).exists():
        (workdir / name).rename(place / "moved")
    (workdir / name).symlink_to(victim)
    wrong = bench.start(workdir, "--checkpoint-seconds=0").wrong(0, 2)
    return wrong or (None if snapshot(victim) == {Path("precious"): b"precious"} else "the victim was written")


def _newline(text: str, place: Path) -> str | None:
    """A batch script must never see it: what Slurm would be given is kept by a fake sbatch, which runs it."""
    commands = place / "bin"
    commands.mkdir()
    for name, script in (("sbatch", 'sh "$1"; echo Submitted batch job 1'), ("srun", "exit 0"), ("squeue", "exit 0")):
        (commands / name).write_text(f"#!/bin/sh\ncd '{place}'\n{script}\n")
        (commands / name).chmod(0o755)
    path, os.environ["PATH"] = os.environ["PATH"], f"{commands}:{os.environ['PATH']}"
    try:
        end = ended(sweep.main, f"--config={CONFIG}", f"--workdir={place / text}", "--submit=slurm")
    finally:
        os.environ["PATH"] = path
    return end.wrong(2) or ("executed" if list(place.rglob("OWNED")) else None)
