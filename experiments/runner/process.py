"""Process-wide settings that only an entry point may touch: precision and the compilation cache."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import jax


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Run the body with 64-bit types on ("float64") or off ("float32"), then put the setting back."""
    before = jax.config.values["jax_enable_x64"]
    jax.config.update("jax_enable_x64", name == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def host_type() -> str:
    """A short name of this kind of machine: code compiled for one CPU must not run on a lesser one."""
    features = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features", "model name")):
                features += line
            elif not line:
                break
    digest = hashlib.sha256(f"{platform.processor()}{features}".encode()).hexdigest()[:8]
    return f"{platform.system().lower()}-{platform.machine()}-{digest}"


def compilation_cache() -> Path | None:
    """Turn on JAX's persistent compilation cache in a folder only this user can write; None without one.

    The folder is `$ATTNREG_CACHE/jax/<host type>`, by default under `$XDG_CACHE_HOME` or `~/.cache/attnreg`.
    `JAX_COMPILATION_CACHE_DIR` wins; `ATTNREG_COMPILATION_CACHE=off` turns it off. Cached programs are executed, so a
    folder that belongs to someone else, or that others may write, is not used.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if os.environ.get("ATTNREG_COMPILATION_CACHE") == "off":
        return None
    root = os.environ.get("ATTNREG_CACHE", "")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(root or Path(base) / "attnreg") / "jax" / host_type()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = folder.stat()
        if owner.st_uid != os.getuid() or owner.st_mode & 0o022 or not os.access(folder, os.W_OK):
            return None
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
