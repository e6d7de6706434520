"""JSON that keeps non-finite numbers, torn tails, and writes that are whole or absent."""

import enum
import json
import math
import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.runner.store import encoding


class Point(NamedTuple):
    x: float
    y: float


class Status(enum.Enum):
    CONVERGED = 1


def test_non_finite_numbers_survive_in_standard_json(tmp_path):
    path = tmp_path / "a.json"
    encoding.write_json(path, {"a": math.nan, "b": [math.inf, -math.inf], "c": np.float32("nan")})
    text = path.read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = encoding.read_json(path)
    assert math.isnan(back["a"])
    assert back["b"] == [math.inf, -math.inf]
    assert math.isnan(back["c"])


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False), st.lists, max_leaves=9))
def test_every_plain_value_comes_back_exactly(value):
    assert encoding.restored(json.loads(encoding.dumps(value))) == value


def test_arrays_tuples_and_enumerations_become_plain():
    value = {"a": jnp.arange(3), "b": np.float64(0.1), "c": Point(1.0, 2.0), "d": Status.CONVERGED, "e": True}
    plain = encoding.plain(value)
    assert plain == {"a": [0, 1, 2], "b": 0.1, "c": {"x": 1.0, "y": 2.0}, "d": "CONVERGED", "e": True}
    assert encoding.plain(jnp.asarray(1.5, jnp.bfloat16)) == 1.5


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, np.array(["a"]), np.zeros(encoding.MAX_ARRAY + 1)])
def test_what_json_cannot_hold_is_named(value):
    with pytest.raises(TypeError, match="result"):
        encoding.plain(value, "result")


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b'{"step": 3}', b"\x00\x00\xff", b'{"step"\n'])
def test_a_torn_last_line_is_left_out(tmp_path, tail):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "loss": "NaN"}\n' + tail)
    lines = encoding.read_lines(path)
    assert [line["step"] for line in lines] == [1, 2]
    assert math.isnan(lines[1]["loss"])


def test_damage_before_the_tail_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl line 2 is damaged"):
        encoding.read_lines(path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.json"
    encoding.write_json(path, {"old": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        encoding.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert encoding.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
