"""What a page asks its reader to run: its Python blocks, its commands, and the variants of configs that it names.

A Python block that cannot run says so in its first line, where readers see it: `# Not run: REASON`.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.contract.source import ROOT

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *GUIDES, ROOT / "docs" / "claims.md"]
NOT_RUN = "# Not run: "
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^\n((?: {4}[^\n]+\n)+)", re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_OPERATORS = {"&&", "||", ";", "&", "|"}
_CONFIG = re.compile(r"\bconfigs/(\w+)\.py(?::(\w+))?")


class Block(NamedTuple):
    """A Python block of a page, and the line it starts on."""

    page: Path
    line: int
    code: str

    @property
    def not_run(self) -> str:
        """Why it does not run; empty where it does."""
        first = self.code.partition("\n")[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else ""


class Command(NamedTuple):
    """`python -m MODULE ARGUMENTS` or `pip install ARGUMENTS` as a page prints it."""

    page: Path
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{name(self.page)}: {self.program} {shlex.join(self.arguments)}"


def name(page: Path) -> str:
    """A page as its path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in _FENCE.finditer(text) if match[1] == "python"]
    return [Block(page, text.count("\n", 0, match.start(2)) + 1, match[2]) for match in found]


def unfenced_python(page: Path) -> list[str]:
    """Indented blocks that look like Python, which no test would run."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [block for block in _INDENTED.findall(text) if re.search(r"^ {4}(import|from) \w", block, re.MULTILINE)]


def commands(page: Path, text: str = "") -> list[Command]:
    """The commands of a page (or of a text in its place): those of its shell blocks, then those in its sentences."""
    parts = _shell(text or page.read_text(encoding="utf-8"))
    return [command for part in parts for line in part.splitlines() for command in _parsed(page, line)]


def configs(page: Path) -> set[tuple[str, str]]:
    """The configs that a page names, each with its variant or ""."""
    return set(_CONFIG.findall(page.read_text(encoding="utf-8")))


def _shell(text: str) -> Iterator[str]:
    """The shell of a page: fences that are not Python, indented blocks, inline code; one command a line."""
    parts = [match[2] for match in _FENCE.finditer(text) if match[1] != "python"]
    text = _FENCE.sub("", text)
    parts += _INDENTED.findall(text)
    yield from (re.sub(r"\\\n\s*", " ", part) for part in parts)
    for code in _INLINE.findall(_INDENTED.sub("\n", text)):
        code = code.replace("\n", " ")
        if code.startswith("... --"):  # the table of docs/guides/sweeps.md
            code = code.replace("...", "python -m experiments.sweep --config configs/x.py", 1)
        elif re.match(r"configs/\S+ --", code):  # where a sentence leaves the program out
            code = f"python -m experiments.run --config {code}"
        yield code


def _parsed(page: Path, line: str) -> Iterator[Command]:
    """The commands on a line; what stands in [brackets] is a choice of the reader's, and left out."""
    if not re.search(r"python3? -m |pip install", line):
        return
    words: list[str] = []
    for word in [*_words(re.sub(r"(?<= )\[[^\]]*\]|(?<=\.py)\[[^\]]*\]", "", line)), ";"]:
        if "python -m " in word:  # a command in quotes, for another machine
            yield from _parsed(page, word)
        elif word in _OPERATORS:
            yield from _program(page, words)
            words = []
        else:
            words.append(word)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a bracket or a quote of a sentence
        return []


def _program(page: Path, words: list[str]) -> Iterator[Command]:
    for i, word in enumerate(words[:-1]):
        program = word.rpartition("/")[2]
        if program in ("python", "python3") and words[i + 1] == "-m":
            yield Command(page, words[i + 2], tuple(words[i + 3 :]))
            return
        if program == "pip" and words[i + 1] == "install":
            yield Command(page, "pip install", tuple(words[i + 2 :]))
            return
