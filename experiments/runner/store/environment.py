"""Where a number came from: versions, commit, devices, precision and flags of each session of a run."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from experiments.runner.store.encoding import read_json, write_json

PACKAGES = ("attnreg", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "ml_collections")
ROOT = Path(__file__).resolve().parents[3]


def describe(precision: str, *, argv: list[str] | None = None) -> dict[str, Any]:
    """This process and machine; of the environment variables only JAX_* and XLA_* are kept."""
    devices = jax.devices()
    return {
        "started": now(),
        "command": list(sys.argv if argv is None else argv),
        **commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
        "precision": precision,
        "flags": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("JAX_", "XLA_"))},
        "matmul_precision": jax.config.values["jax_default_matmul_precision"],
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"],
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def commit() -> dict[str, Any]:
    """The commit and whether the checkout differs, untracked files included; None for both outside a checkout."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT:  # installed inside someone else's checkout
        return {"commit": None, "dirty": None}
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=normal")
    return {"commit": head or None, "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    # Without optional locks: a `git status` that is killed, or meets a full disk, would leave an index.lock behind.
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def append(path: Path, session: dict[str, Any]) -> int:
    """Add a session to environment.json (a list, oldest first); returns how many there are now."""
    try:
        sessions = read_json(path) if path.exists() else []
    except ValueError:
        sessions = [{"lost": "the list of earlier sessions was not readable"}]
    sessions = [*(sessions if isinstance(sessions, list) else []), session]
    write_json(path, sessions)
    return len(sessions)
