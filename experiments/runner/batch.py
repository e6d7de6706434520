"""The record of a batch: many runs of one vmapped program, each with its own folder."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.record import Record


class Records:
    """What `run_batch(configs, records)` gets: a record whose arrays have the leading axis len(configs)."""

    def __init__(self, members: Sequence[Record]) -> None:
        """`members[i]` is the record of `configs[i]`; they share the first one's session."""
        self._members = list(members)
        self._session = self._members[0].session
        self._journals = [member.journal for member in self._members]

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Record:
        return self._members[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._members)

    @property
    def should_stop(self) -> bool:
        """Whether a stop was asked for."""
        return self._session.should_stop

    def say(self, text: str) -> None:
        """Print a line of text, once."""
        self._members[0].say(text)

    def expect(self, steps: int) -> None:
        """Tell the progress lines how many steps the runs will take."""
        for member in self._members:
            member.expect(steps)

    def log(self, step: int, **scalars: Any) -> None:
        """Log entry i of every array to member i; a value without axes goes to all."""
        host = {name: np.asarray(value) for name, value in scalars.items()}
        for name, value in host.items():
            if value.ndim > 1 or (value.ndim == 1 and len(value) != len(self)):
                raise ValueError(
                    f"records.log({name}=...) has shape {value.shape}; it must be ({len(self)},), one each"
                )
        for i, member in enumerate(self._members):
            member.log(step, **{name: value[i] if value.ndim else value for name, value in host.items()})

    def save(self, step: int, state: Any) -> None:
        """Checkpoint entry i of every leaf in member i's folder, when due or when a stop was asked for."""
        self._session.save(self._journals, int(step), (entry(state, i) for i in range(len(self))))

    def restore(self, initial_state: Any) -> tuple[int, Any]:
        """(step, state) at the newest step that every member has saved, or (0, initial_state)."""
        _check_axis(initial_state, len(self))
        single = entry(initial_state, 0)
        found = self._session.restore(self._journals, [single] * len(self))
        if found is None:
            return 0, initial_state
        step, states = found
        return step, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def entry(tree: Any, index: int) -> Any:
    """Entry `index` of every leaf's leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _check_axis(state: Any, length: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.ndim(leaf) == 0 or leaf.shape[0] != length:
            raise ValueError(
                f"the batch's state{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; "
                f"every leaf must be an array with the leading axis {length}, one entry a run"
            )
