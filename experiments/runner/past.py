"""A run read back from its folder: what it was about, its state, its headline numbers and how to repeat it."""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runner import about
from experiments.runner.about import About, Metric, Range, Told
from experiments.runner.config import UsageError
from experiments.runner.experiment import experiment_module
from experiments.runner.results import is_sweep, listed
from experiments.runner.store import folder, lock
from experiments.runner.store.encoding import read_json

FINISHED, FAILED, RUNNING, UNFINISHED, DAMAGED = "finished", "failed", "running", "unfinished", "damaged"
FEW = 4  # numbers of a result shown of an experiment that declares none


class Headline(NamedTuple):
    """A headline metric of a run: its value, what was expected of it, and whether it came so (None: not asked)."""

    metric: Metric
    value: float | None
    expected: Range | None

    @property
    def met(self) -> bool | None:
        """Whether the value is as expected; None where nothing is, or nothing was measured."""
        return about.met(self.value, self.expected)


class Past(NamedTuple):
    """One run. `config` and `result` are {} where there is none; `told` is what about.json says."""

    workdir: Path
    state: str
    config: dict[str, Any]
    result: dict[str, Any]
    told: Told
    sessions: list[dict[str, Any]]
    seconds_ago: float

    @property
    def headline(self) -> list[Headline]:
        """The declared metrics that this run has or should have, the first one first."""
        found = [Headline(m, m.of(self.result), self.told.expected.get(m.name)) for m in self.told.about.metrics]
        return [line for line in found if line.metric.always or line.value is not None]

    @property
    def command(self) -> str:
        """The command that makes this run again, for a shell; "" where it is not known."""
        if not self.told.config:
            return ""
        spec = self.told.config.removesuffix(":full")
        return shlex.join(["python", "-m", "experiments.run", "--config", spec, *self.told.overrides])


def read(workdir: Path) -> Past:
    """A run's folder; ValueError where it holds none."""
    config = _object(workdir / folder.CONFIG)
    if config is None:
        raise ValueError(f"{workdir} holds no run (no {folder.CONFIG})")
    state = state_of(workdir)
    result = folder.result(workdir) if state == FINISHED else {}
    sessions = _readable(workdir / folder.ENVIRONMENT)
    sessions = [s for s in sessions if isinstance(s, dict)] if isinstance(sessions, list) else []
    newest = [path.stat().st_mtime for name in _DATED if (path := workdir / name).exists()]
    return Past(workdir, state, config, result, _told(workdir, config, result, sessions), sessions, _ago(max(newest)))


_DATED = (folder.CONFIG, folder.METRICS, folder.FAILURE, folder.RESULT)


def _ago(moment: float) -> float:
    return max(time.time() - moment, 0.0)


def state_of(workdir: Path) -> str:
    """ "finished", "running", "failed", "unfinished", or "damaged" where result.json cannot be read."""
    if (workdir / folder.RESULT).exists():
        try:
            folder.result(workdir)
        except ValueError:
            return DAMAGED
        return FINISHED
    if lock.held(workdir) is not None:
        return RUNNING
    return FAILED if (workdir / folder.FAILURE).exists() else UNFINISHED


def failure(workdir: Path) -> str:
    """Why a run failed, in one line."""
    found = _object(workdir / folder.FAILURE) or {}
    return " ".join(f"{found.get('error', 'failed')}: {found.get('message', 'failure.json is not readable')}".split())


def _told(workdir: Path, config: dict[str, Any], result: dict[str, Any], sessions: list[dict[str, Any]]) -> Told:
    """What about.json says; for a run of before there was one, what its experiment says, and the command it had."""
    try:
        return about.told(read_json(workdir / folder.ABOUT))
    except (FileNotFoundError, ValueError):
        pass
    command = [str(word) for word in (sessions[-1].get("command") or ())] if sessions else []
    at = command.index("--config") + 1 if "--config" in command[:-1] else 0
    overrides = tuple(word for word in command if word.startswith("--config."))
    return Told(_declared(str(config.get("experiment", "")), result), {}, command[at] if at else "", overrides)


def _declared(experiment: str, result: dict[str, Any]) -> About:
    """What an experiment of this project declares; of another, the first numbers of the result."""
    try:
        words = about.about(experiment_module(experiment))
    except UsageError:
        words = About(experiment, "", ())
    numbers = [name for name, value in result.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    return words if words.metrics else words._replace(metrics=tuple(Metric(n, "", "") for n in numbers[:FEW]))


def below(root: Path) -> Iterator[Path]:
    """The folders of runs and sweeps below a folder, itself included, none that lies inside another; by name."""
    if is_sweep(root) or (root / folder.CONFIG).exists():
        yield root
    elif root.is_dir():
        for path in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            yield from below(path)


def members(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and overrides of every task of a sweep that has been begun."""
    found = [(workdir, overrides or {}) for workdir, overrides in listed(root)]
    return [(workdir, overrides) for workdir, overrides in found if (workdir / folder.CONFIG).exists()]


def _readable(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _object(path: Path) -> dict[str, Any] | None:
    found = _readable(path)
    return found if isinstance(found, dict) else None
