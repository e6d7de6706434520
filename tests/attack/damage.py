"""What a power cut and a full disk leave: checkpoints, metrics and results that are cut, flipped, gone or swapped."""

import functools
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.runner.store import folder
from tests.attack.bench import Attempt, Bench

DISKS = (300, 1000, 2000, 4000, 8000, 12000, 20000)  # bytes that a file may have
WRONG = (b"", b"null", b"{}", b"[1]", b'{"seed": 0', b"\xff\xfe\x00", b'"text"')


def attempts(bench: Bench, times: int, seed: int) -> Iterator[Attempt]:
    """`times` damaged checkpoints and `times` cut metrics; every wrong result and config; seven disks."""
    draw = random.Random(seed)
    for i in range(times):
        how, steps = draw.choice(("truncate", "flip", "delete", "folder", "rename")), draw.choice((1, 1, 2, 3))
        case = functools.partial(_checkpoint, bench, how, steps, random.Random(f"{seed}-{i}"))
        yield Attempt("damaged checkpoints", f"{how} the newest {steps}", case)
    size = (bench.interrupted / folder.METRICS).stat().st_size
    for i in range(times):
        length = round(size * i / max(times - 1, 1))
        yield Attempt("cut metrics", f"{length} of {size} bytes", functools.partial(_metrics, bench, length))
    for name in (folder.RESULT, folder.CONFIG):
        for content in WRONG:
            case = functools.partial(_content, bench, name, content)
            yield Attempt("damaged results", f"{name} {content!r}", case)
    for limit in DISKS:
        yield Attempt("full disks", f"{limit} bytes", functools.partial(_disk, bench, limit))


def _checkpoint(bench: Bench, how: str, steps: int, draw: random.Random, place: Path) -> str | None:
    workdir = bench.copy(bench.interrupted, place)
    saved = sorted((p for p in (workdir / folder.CHECKPOINTS).iterdir()), key=lambda p: int(p.name), reverse=True)
    for i, checkpoint in enumerate(saved[:steps]):
        files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size)
        victim = draw.choice(files)
        content = bytearray(victim.read_bytes())
        if how == "truncate":
            victim.write_bytes(content[: draw.randrange(len(content))])
        elif how == "flip":
            at = draw.randrange(len(content))
            victim.write_bytes(bytes(byte ^ 0xFF if at <= j < at + 64 else byte for j, byte in enumerate(content)))
        elif how == "delete":
            victim.unlink()
        elif how == "folder":
            shutil.rmtree(checkpoint)
        else:
            checkpoint.rename(checkpoint.with_name(str(500 + i)))
    return bench.goes_on_or_is_redone(workdir)


def _metrics(bench: Bench, length: int, place: Path) -> str | None:
    workdir = bench.copy(bench.interrupted, place)
    path = workdir / folder.METRICS
    path.write_bytes(path.read_bytes()[:length])
    return bench.goes_on_or_is_redone(workdir)


def _content(bench: Bench, name: str, content: bytes, place: Path) -> str | None:
    workdir = bench.copy(bench.whole, place)
    (workdir / name).write_bytes(content)
    return bench.goes_on_or_is_redone(workdir)


def _disk(bench: Bench, limit: int, place: Path) -> str | None:
    """The kernel's own limit on the size of a file, from the start of a run to wherever it meets it."""
    workdir, before = place / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        end = bench.start(workdir, "--checkpoint-seconds=0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return end.wrong(0, 74) or bench.goes_on(workdir)
