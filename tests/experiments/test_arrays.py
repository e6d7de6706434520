"""A run keeps its arrays: whole or absent, to the bit, under names that stay in the folder."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner.record import Record
from experiments.runner.session import Session
from experiments.runner.store.arrays import load


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path)
    yield record
    record.close()


def test_arrays_of_every_kind_come_back_to_the_bit(record):
    kept = {
        "x": jnp.asarray([[1e-300, -0.0], [jnp.nan, jnp.inf]]),
        "half": np.asarray([1.5, 65504.0], np.float16),
        "z": np.asarray([1 + 2j], np.complex64),
        "scalar": jnp.asarray(3),
        "empty": np.zeros((0, 3)),
        "flags": jnp.asarray([True, False]),
        "strided": np.arange(12.0).reshape(3, 4).T[::2],
        "file": 2.5,
        "name": [1, 2],
        "self": np.float32(1.0),
    }
    path = record.arrays("solution", **{k: v for k, v in kept.items() if k != "self"})
    assert path == record.workdir / "solution.npz"
    found = load(record.workdir)
    for name in kept.keys() - {"self"}:
        expected = np.asarray(kept[name])
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        assert found[name].tobytes() == expected.tobytes()
    with np.load(path) as plain:  # without our code
        assert set(plain.files) == kept.keys() - {"self"}


def test_bfloat16_is_kept_as_float32_exactly(record):
    value = jnp.asarray([1.0078125, -3e38], jnp.bfloat16)
    record.arrays("low", x=value)
    found = load(record.workdir, "low")["x"]
    assert found.dtype == np.float32
    assert jnp.asarray(found).astype(jnp.bfloat16).tolist() == value.tolist()


@pytest.mark.parametrize(
    ("name", "arrays", "error", "message"),
    [
        ("../x", {"x": 1.0}, ValueError, "not a plain name"),
        ("x", {}, ValueError, "at least one array"),
        ("x", {"a/b": 1.0}, ValueError, "'a/b' is no name for an array"),
        ("x", {"a": "text"}, TypeError, "'a' has dtype <U4"),
        ("x", {"a": None}, TypeError, "'a' has dtype object"),
        ("x", {"a": [[1], [1, 2]]}, TypeError, "'a' is no array of numbers"),
        ("x", {"a": jax.random.key(0)}, TypeError, "'a' is a PRNG key"),
    ],
)
def test_what_cannot_be_kept_is_named_and_nothing_is_written(record, name, arrays, error, message):
    before = sorted(record.workdir.iterdir())
    with pytest.raises(error, match=message):
        record.arrays(name, **arrays)
    assert sorted(record.workdir.iterdir()) == before


def test_only_the_primary_process_writes(tmp_path):
    record = Record(tmp_path, session=Session(primary=False))
    assert record.arrays("solution", x=jnp.ones(2)) == tmp_path / "solution.npz"
    assert list(tmp_path.iterdir()) == []


def test_a_loader_says_what_is_there_and_what_is_damaged(record):
    record.arrays("curve", x=1.0)
    with pytest.raises(FileNotFoundError, match=r"keeps no arrays 'solution'; there are: curve"):
        load(record.workdir)
    path = record.workdir / "curve.npz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"curve\.npz is damaged"):
        load(record.workdir, "curve")


def test_a_run_keeps_its_solution_and_force_replaces_ours_alone(start):
    assert start("--config.steps=20") == 0
    found = load("run")
    assert found["x"].shape == (8,)
    assert found["x"].dtype == np.float32
    np.savez("run/mine.npz", x=np.ones(2))
    with zipfile.ZipFile("run/mine2.npz", "w") as archive:
        archive.comment = b"someone else's"
    assert start("--config.steps=40", "--force") == 0
    assert load("run")["x"].tolist() != found["x"].tolist()
    assert load("run", "mine")["x"].tolist() == [1.0, 1.0]
    assert Path("run/mine2.npz").exists()
    (aside,) = Path("run/.replaced").iterdir()
    np.testing.assert_array_equal(load(aside)["x"], found["x"])
