"""JSON that any reader accepts and that keeps non-finite numbers; JSON Lines whose torn tail is tolerated.

Standard JSON has no NaN. They are written as the strings "NaN", "Infinity", "-Infinity" (the proto3 JSON
convention) and read back as floats: a diverged run says so instead of failing to parse or becoming null.
"""

import contextlib
import dataclasses
import enum
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

MAX_ARRAY = 100_000
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: Any, where: str = "value") -> Any:
    """`value` as plain JSON types; arrays become nested lists, non-finite floats become strings."""
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _plain_float(float(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_key(k, where): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, tuple) and callable(as_dict := getattr(value, "_asdict", None)):
        return plain(as_dict(), where)
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if hasattr(value, "__array__"):
        return _plain_array(value, where)
    raise TypeError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; return numbers, strings, lists, dicts or arrays"
    )


def _key(key: Any, where: str) -> str:
    if isinstance(key, str | int | float | bool):
        return str(key)
    raise TypeError(f"{where} has the key {key!r}; JSON keys are strings")


def _plain_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _plain_array(value: Any, where: str) -> Any:
    array = np.asarray(value)
    if array.size > MAX_ARRAY:
        raise TypeError(f"{where} is an array of {array.size} numbers; a result holds at most {MAX_ARRAY}")
    if array.dtype.kind in "biuf" or array.dtype.kind == "V":  # "V": bfloat16 and its kin
        return plain((array.astype(np.float64) if array.dtype.kind == "V" else array).tolist(), where)
    raise TypeError(f"{where} is an array of dtype {array.dtype}, which JSON cannot hold")


def restored(value: Any) -> Any:
    """The inverse of `plain` for non-finite numbers."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, list):
        return [restored(v) for v in value]
    if isinstance(value, dict):
        return {k: restored(v) for k, v in value.items()}
    return value


def dumps(value: Any, *, indent: int | None = None, sort: bool = False, where: str = "value") -> str:
    """Standard JSON text of `value`."""
    return json.dumps(plain(value, where), indent=indent, sort_keys=sort, ensure_ascii=False, allow_nan=False)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content a reader of `path` sees whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` atomically."""
    with atomic(path) as stream:
        stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON."""
    write_atomic(path, (dumps(value, indent=2, where=path.stem) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote; ValueError names the file when it does not parse."""
    try:
        return restored(json.loads(path.read_bytes()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


def lines_with_ends(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line of a JSON Lines file with the byte offset of its end; a torn last line is left out.

    A line that does not parse although others follow is damage, not a torn tail: ValueError.
    """
    end = 0
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                yield restored(json.loads(line)), end
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                if not stream.read(1):
                    return
                raise ValueError(f"{path} line {number} is damaged ({error})") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSON Lines file; an absent file has none."""
    return [line for line, _ in lines_with_ends(path)] if path.exists() else []
