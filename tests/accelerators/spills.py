"""Bytes of registers that a GPU's hand-written kernels spill, from the assembler's own report."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from attnreg.lift.sweeps import NAME

# Given to XLA before it is loaded.
OPTIONS = "--xla_dump_to={}"


def spilled(folder: Path, assembler: Path) -> int:
    """Bytes that the kernels of the programs in a folder store for want of registers. The folder is emptied."""
    total = 0
    for path in folder.iterdir():
        if path.suffix == ".ptx" and (target := entry(path.read_text(encoding="utf-8"))):
            command = [assembler, "-v", f"-arch={target}", path, "-o", os.devnull]
            report = subprocess.run(command, capture_output=True, text=True, check=True)
            total += stores(report.stdout + report.stderr)
    shutil.rmtree(folder)
    folder.mkdir()
    return total


def entry(ptx: str) -> str | None:
    """The chip that a hand-written kernel is for; None for text that is no such kernel."""
    kernel = re.search(rf"\.entry {NAME}\w*\(", ptx)
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    return target[1] if kernel and target else None


def stores(report: str) -> int:
    """Bytes of spill stores in a report of the assembler."""
    return sum(int(size) for size in re.findall(r"(\d+) bytes spill stores", report))
