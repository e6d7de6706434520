"""Checkpoints of a run: orbax, synchronous, each with its own step and what must be known beside the state."""

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class CheckpointError(Exception):
    """A stored checkpoint cannot be used; the message names the cause, and the cure where there is one."""


class Restored(NamedTuple):
    """A state read back, the step it was saved at, and what was kept beside it."""

    step: int
    state: Any
    beside: dict[str, Any]


class Checkpoints:
    """The checkpoint folder of one run; all processes of a multi-process run call it at the same points."""

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        """`keep` newest checkpoints stay, so that one damaged checkpoint never ends a run."""
        self._directory = directory.absolute()
        self._keep = keep
        self._manager: Any = None

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp  # a second of import that a run without checkpoints does not pay

            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep, enable_async_checkpointing=False, create=True
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, oldest first."""
        return sorted(self._open().all_steps()) if self._directory.is_dir() else []

    def save(self, step: int, state: Any, beside: dict[str, Any]) -> None:
        """Write a checkpoint and wait until it is on disk under its final name; one that is there is kept.

        A step has one state. A run that goes on from step k may save at k again before it moves.

        Raises:
            OSError: with the disk's error number, when the disk is full, read-only or broken.
        """
        if step in self.steps():
            return
        import orbax.checkpoint as ocp

        stored = {"state": jax.tree.map(_stored, state)}  # in a dict: orbax refuses a bare array
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(stored), beside=ocp.args.JsonSave(beside | {"step": step})
        )
        _quiet_closed_loops()
        with _disk_errors(self._directory / str(step)):
            manager = self._open()
            manager.save(step, args=items, force=True)
            manager.wait_until_finished()

    def read(self, step: int, template: Any) -> Restored:
        """The checkpoint of `step`, shaped and sharded like `template`; CheckpointError when it cannot be used."""
        import orbax.checkpoint as ocp

        target = jax.tree.map(_abstract, template)
        items = ocp.args.Composite(state=ocp.args.StandardRestore({"state": target}), beside=ocp.args.JsonRestore())
        _quiet_closed_loops()
        try:
            found = self._open().restore(step, args=items)
        except Exception as error:  # orbax and tensorstore raise many types for damage
            text = (str(error).splitlines() or [""])[0][:200]
            raise CheckpointError(f"step {step}: {type(error).__name__}: {text}") from error
        beside = dict(found["beside"])
        if beside.get("step", step) != step:
            raise CheckpointError(f"step {step}: it was saved at step {beside['step']} and renamed")
        return Restored(step, jax.tree.map(_as_it_was, template, found["state"]["state"]), beside)

    def drop_after(self, step: int) -> None:
        """Delete checkpoints newer than `step` (damaged ones that were passed over)."""
        for newer in [s for s in self.steps() if s > step]:
            self._open().delete(newer)

    def close(self) -> None:
        """Release the manager's threads."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """A full disk as an OSError; tensorstore raises a ValueError with the system's error number in its text.

    What orbax's threads meet is raised by `wait_until_finished`; they need not print it too.
    """
    absl, hook = logging.getLogger("absl"), threading.excepthook
    was_disabled = absl.disabled
    absl.disabled, threading.excepthook = True, lambda _: None
    try:
        yield
    except Exception as error:
        found = re.search(r"(?:os_error_code='|OS error )(\d+)", str(error))
        code = int(found[1]) if found else getattr(error, "errno", None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        absl.disabled, threading.excepthook = was_disabled, hook


def _quiet_closed_loops() -> None:
    """Keep from the terminal what tensorstore says after a failed save or restore; it stays so, since that comes late.

    When one array cannot be written or read, orbax closes its event loop. The other arrays then report to a closed
    loop, or end as coroutines that nobody awaits, each with a traceback, some in the middle of our own line. The cause
    has been raised by then.
    """
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def filtered_unraisable(event: Any) -> None:
        code = getattr(event.object, "cr_code", None)
        if not _of_closed_loop(event.exc_value) and (code is None or "orbax" not in code.co_filename):
            unraisable(event)

    def filtered_uncaught(kind: Any, error: Any, trace: Any) -> None:
        if not _of_closed_loop(error):
            uncaught(kind, error, trace)

    if getattr(unraisable, "__name__", "") != filtered_unraisable.__name__:
        sys.unraisablehook = filtered_unraisable
    if getattr(uncaught, "__name__", "") != filtered_uncaught.__name__:
        sys.excepthook = filtered_uncaught


def _of_closed_loop(error: Any) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _own(leaf: Any) -> bool:
    """Whether a leaf is one process's own array among several: all have the same, and orbax would refuse it."""
    return isinstance(leaf, jax.Array) and leaf.is_fully_addressable and jax.process_count() > 1


def _typed_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf: Any) -> Any:
    """What is written: an array of each process's own as a NumPy array, which process 0 alone writes."""
    if not _own(leaf):
        return leaf
    return np.asarray(jax.random.key_data(leaf) if _typed_key(leaf) else leaf)


def _abstract(leaf: Any) -> Any:
    """What is asked for: shape, dtype and place of a leaf."""
    if _own(leaf):
        return _stored(leaf)
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def _as_it_was(leaf: Any, found: Any) -> Any:
    """What was read for a leaf, as the kind of array that the leaf is, whoever wrote it."""
    if _typed_key(leaf) and not _typed_key(found):
        return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(leaf))
    return jax.device_put(found, leaf.sharding) if _own(leaf) else found
