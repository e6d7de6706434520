"""Sinks get what metrics.jsonl gets, and a run leaves the same with and without them."""

import struct
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from experiments.runner import sinks
from experiments.runner.store.encoding import read_json, read_lines


def lines(workdir):
    """The metrics without the clock, which no two runs share."""
    return [
        {name: value for name, value in line.items() if name != "time"}
        for line in read_lines(workdir / "metrics.jsonl")
    ]


@pytest.fixture
def kept(monkeypatch):
    """A sink that keeps what it gets, as `--kept`; the flag and the sink are all it takes to add one."""

    class Kept:
        HELP = "for this test"
        rows: ClassVar[list] = []
        closed = 0

        def __init__(self, workdir, config):
            self.config = config

        def log(self, step, numbers):
            self.rows.append({"step": step} | dict(numbers))

        def close(self):
            type(self).closed += 1

    monkeypatch.setitem(sinks.SINKS, "kept", Kept)
    return Kept


def test_a_sink_gets_the_numbers_and_changes_none(start, kept):
    assert start(workdir="without") == 0
    assert start("--kept", workdir="with") == 0
    assert kept.rows == lines(Path("with")) == lines(Path("without"))
    assert kept.closed == 1
    assert read_json(Path("with/result.json")) == read_json(Path("without/result.json"))
    rows = len(kept.rows)
    assert start("--kept", workdir="with") == 0  # finished: nothing is logged again
    assert (len(kept.rows), kept.closed) == (rows, 1)


def events(folder):
    """(step, tag, value) of TensorBoard's files: records of length, its checksum, a protobuf, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            yield from ((event.step, value.tag, value.simple_value) for value in event.summary.value)


def test_tensorboard_has_every_number(start):
    pytest.importorskip("tensorboardX")
    assert start("--tensorboard") == 0
    expected = {
        (line["step"], name): value for line in lines(Path("run")) for name, value in line.items() if name != "step"
    }
    found = {(step, name): value for step, name, value in events(Path("run/events"))}
    assert found.keys() == expected.keys()
    assert all(np.float32(expected[key]) == np.float32(found[key]) for key in expected)


@pytest.mark.parametrize(("flag", "module"), [("--tensorboard", "tensorboardX"), ("--wandb", "wandb")])
def test_a_sink_that_is_not_installed_says_how(start, monkeypatch, capsys, flag, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert start(flag) == 2
    assert f"{flag} needs {module}: pip install 'attnreg[{flag[2:]}]'" in capsys.readouterr().err


def fake_wandb(init):
    class Error(Exception):
        pass

    return types.SimpleNamespace(Settings=dict, init=init, Error=Error)


def test_wandb_gets_one_run_named_by_the_config(start, monkeypatch):
    asked, rows = {}, []

    class Run:
        def log(self, numbers, step):
            rows.append({"step": step} | numbers)

        def finish(self):
            rows.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(lambda **options: asked.update(options) or Run()))
    assert start("--wandb") == 0
    assert rows == [*lines(Path("run")), "finished"]
    assert asked["config"] == read_json(Path("run/config.json"))
    assert (asked["resume"], asked["name"], asked["dir"]) == ("allow", "run", "run/events")
    assert start("--wandb", "--force") == 0
    first = asked["id"]
    assert start("--wandb", "--config.seed=1", workdir="other") == 0
    assert asked["id"] != first


def test_what_wandb_refuses_is_one_line(start, monkeypatch, capsys):
    def refuse(**options):
        raise module.Error("No API key\nconfigured")

    module = fake_wandb(refuse)
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert start("--wandb") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "--wandb: No API key configured. WANDB_MODE=offline keeps the run in run/events/wandb" in said[0]


def records(data):
    """The protobufs of a .wandb file: a header of 7 bytes, then LevelDB's log of 32 KiB blocks of fragments."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last fragment
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_offline_has_every_number(start, monkeypatch):
    """The real package: its own file, read back. `pip install 'attnreg[wandb]'`, else it skips."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    assert start("--wandb") == 0
    (path,) = Path("run/events/wandb").glob("offline-run-*/run-*.wandb")
    found = []
    for record in map(Record.FromString, records(path.read_bytes())):
        if record.HasField("history"):
            row = {item.key or item.nested_key[0]: float(item.value_json) for item in record.history.item}
            found.append({"step": int(row["_step"])} | {name: row[name] for name in row if name[0] != "_"})
    assert found == lines(Path("run"))
