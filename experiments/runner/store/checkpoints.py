"""Checkpoints of a run: orbax, synchronous, with the length of the metrics file they belong to."""

from pathlib import Path
from typing import Any, NamedTuple

import jax


class CheckpointError(Exception):
    """No stored checkpoint can be used; the message names the cause and the cure."""


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

    def beside(self, step: int) -> dict[str, Any]:
        """What was kept beside the state of `step`."""
        import orbax.checkpoint as ocp

        return self._open().restore(step, args=ocp.args.Composite(beside=ocp.args.JsonRestore()))["beside"]

    def save(self, step: int, state: Any, beside: dict[str, Any]) -> None:
        """Write a checkpoint and wait until it is on disk under its final name; one that is there is kept.

        A step has one state. A run that goes on from step k may save at k again before it moves.
        """
        if step in self.steps():
            return
        import orbax.checkpoint as ocp

        # In a dict: orbax refuses a bare array.
        items = ocp.args.Composite(state=ocp.args.StandardSave({"state": state}), beside=ocp.args.JsonSave(beside))
        manager = self._open()
        manager.save(step, args=items, force=True)
        manager.wait_until_finished()

    def restore(self, template: Any, *, at: int | None = None) -> Restored | None:
        """The newest readable checkpoint (or the one `at` a step), shaped and sharded like `template`.

        None when there is none. A damaged one is passed over for the one before it; when none of them can be
        read, CheckpointError, since starting again silently would hide the loss.
        """
        import orbax.checkpoint as ocp

        failures = []
        target = jax.tree.map(_abstract, template)
        for step in reversed(self.steps() if at is None else [at]):
            items = ocp.args.Composite(state=ocp.args.StandardRestore({"state": target}), beside=ocp.args.JsonRestore())
            try:
                found = self._open().restore(step, args=items)
            except Exception as error:  # orbax and tensorstore raise many types for damage
                failures.append(f"step {step}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                continue
            return Restored(step, found["state"]["state"], {**found["beside"], "passed_over": failures})
        if failures:
            raise CheckpointError(
                f"no checkpoint in {self._directory} can be read into this experiment's state "
                f"({'; '.join(failures)}); it is damaged or the code has changed; --force starts the run anew"
            )
        return None

    def drop_after(self, step: int) -> None:
        """Delete checkpoints newer than `step` (damaged ones that restore passed over)."""
        for newer in [s for s in self.steps() if s > step]:
            self._open().delete(newer)

    def close(self) -> None:
        """Release the manager's threads."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf
