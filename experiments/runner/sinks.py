"""Where the numbers of a run go besides metrics.jsonl: TensorBoard, Weights & Biases. No sink changes what a run keeps.

A sink is a class with `log` and `close`, and a row of `SINKS`; `--NAME` then exists for runs and sweeps.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from experiments.runner.config import UsageError
from experiments.runner.store import folder


class Sink(Protocol):
    """Takes the numbers that a run logs, and gives nothing back."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep the numbers of a step. A resumed run logs the steps after its checkpoint again."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in `events/`: `tensorboard --logdir runs`."""

    HELP = "also write TensorBoard events (needs tensorboardX)"

    def __init__(self, workdir: Path, config: Mapping[str, Any]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UsageError("--tensorboard needs tensorboardX: pip install 'attnreg[tensorboard]'") from error
        del config
        self._writer = SummaryWriter(str(folder.subfolder(workdir, folder.EVENTS)))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """One scalar a number."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandB:
    """One run of Weights & Biases, with its files in `events/wandb/`; WANDB_MODE=offline sends nothing anywhere.

    Its id is the fingerprint of the config, so that a resumed run is the same run there.
    """

    HELP = "also log to Weights & Biases (needs wandb; WANDB_MODE=offline keeps it here)"

    def __init__(self, workdir: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UsageError("--wandb needs wandb: pip install 'attnreg[wandb]'") from error
        place = folder.subfolder(workdir, folder.EVENTS)
        quiet = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True)
        try:
            self._run = wandb.init(
                project="attnreg",
                name=workdir.name,
                id=folder.fingerprint(dict(config)),
                resume="allow",
                dir=str(place),
                config=dict(config),
                settings=quiet,
            )
        except wandb.Error as error:
            text = " ".join(str(error).split())
            raise UsageError(f"--wandb: {text}. WANDB_MODE=offline keeps the run in {place / 'wandb'}") from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """One row a step; steps that it has already are passed over there."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


SINKS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--tensorboard`, `--wandb`."""
    for name, sink in SINKS.items():
        parser.add_argument(f"--{name}", dest="sinks", action="append_const", const=name, help=sink.HELP)


def chosen(options: argparse.Namespace) -> tuple[str, ...]:
    """The names that the command line asks for."""
    return tuple(options.sinks or ())


def open_sinks(names: Sequence[str], workdir: Path, config: Mapping[str, Any]) -> list[Sink]:
    """The sinks of one run, open."""
    return [SINKS[name](workdir, config) for name in names]


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """What of a line of the metrics is a number, without the step and the time."""
    kept = {name: value for name, value in line.items() if name not in ("step", "time")}
    return {name: value for name, value in kept.items() if isinstance(value, int | float)}
