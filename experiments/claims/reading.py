"""Numbers out of finished runs, and the file that keeps them, docs/claims.json."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.claims.claim import Claim
from experiments.runner.statistics import bootstrap_band
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json, write_json


class Measured(NamedTuple):
    """A recorded number: its interval (95% of the mean over `seeds`, else None), and when which code measured it.

    `at_most`: only this bound of the number was written down. `commit` is "" where it was not.
    """

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    at_most: bool = False
    date: str = ""
    commit: str = ""


def read(result: Any, path: str) -> Any:
    """The entry of a result at a path: names and positions between dots, `[name=value]` picks a row of a list.

    >>> read({"rows": [{"cell": "a", "speed": 2.0}, {"cell": "b", "speed": 3.0}]}, "rows.[cell=b].speed")
    3.0
    """
    for part in path.split("."):
        chosen = re.fullmatch(r"\[(.*)\]", part)
        if chosen:
            wanted = dict(pair.split("=", 1) for pair in chosen[1].split(","))
            rows = [row for row in result if all(str(row[name]) == value for name, value in wanted.items())]
            if len(rows) != 1:
                raise KeyError(f"{part} picks {len(rows)} rows of {len(result)}")
            result = rows[0]
        elif isinstance(result, list):
            result = result[int(part)]
        elif part in result:
            result = result[part]
        else:
            raise KeyError(f"there is no {part!r}; there are {', '.join(map(str, result))}")
    return result


def of_run(claim: Claim, workdir: Path) -> Measured:
    """The number of a claim in a finished run, and when which commit made it."""
    session = read_json(workdir / folder.ENVIRONMENT)[-1]
    try:
        result = folder.result(workdir)
        found = read(result, claim.path)
        if claim.seeds:
            found = [found[seed] for seed in read(result, claim.seeds)]
    except KeyError as error:
        raise KeyError(f"claim {claim.name!r} in {workdir}: {error.args[0]}") from error
    return measured(claim, found, date=str(session["started"])[:10], commit=commit(session))


def commit(session: Mapping[str, Any]) -> str:
    """The first digits of a commit, with a + where the checkout had changes; "" where it is not known."""
    return (session.get("commit") or "")[:9] + ("+" if session.get("dirty") else "")


def measured(claim: Claim, found: Any, *, date: str, commit: str) -> Measured:
    """A number, or one a seed with their mean and its interval, in the claim's unit."""
    values = np.atleast_1d(np.asarray(found, float))
    values = claim.factor * values
    mean, low, high = (float(edge[0]) for edge in bootstrap_band(values[:, None], level=0.95, resamples=4000))
    if len(values) == 1:
        return Measured(mean, date=date, commit=commit)
    return Measured(mean, low, high, len(values), date=date, commit=commit)


def printed(claim: Claim, output: str, *, date: str, commit: str) -> Measured:
    """The largest match of the claim's pattern in what a command printed."""
    found = re.findall(claim.path, output)
    if not found:
        raise KeyError(f"claim {claim.name!r}: {claim.path!r} is not in what the command printed")
    return measured(claim, max(map(float, found)), date=date, commit=commit)


def load(path: Path) -> dict[str, Measured]:
    """The recorded numbers by the names of their claims."""
    return {name: Measured(**entry) for name, entry in read_json(path).items()}


def save(path: Path, numbers: Mapping[str, Measured]) -> None:
    """Write them, defaults left out."""
    default = Measured(0.0)._asdict()
    kept = {
        name: {k: v for k, v in number._asdict().items() if k == "value" or v != default[k]}
        for name, number in numbers.items()
    }
    write_json(path, kept)
