"""What the site shows of the repository outside docs/: three pages, and the source of every file that a page names.

The Markdown stays as it is for readers of the repository; links are rewritten while the site is built. A file that is
linked, or named as inline code, gets a page with its text.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
ASSETS = {"assets/site.css": "site.css", "assets/iframe-worker.js": "iframe-worker.js"}
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".cff": "yaml", ".json": "json", ".md": "markdown"}
_ORIGINS = {uri: name for name, uri in PAGES.items()}
_FENCED = re.compile(r"^```.*?^```$|^(?: {4}[^\n]*\n?)+", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)")
_NAMED = re.compile(r"(?<!\[)`((?:attnreg|experiments|configs|tests|docs|\.ci)/[\w./-]*\w)(:\w+)?`")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root, what the theme loads, and the source of every file that a page names."""
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        front = "---\nhide: [navigation]\n---\n\n" if uri == "index.md" else ""
        files.append(File.generated(config, uri, content=front + text))
    for uri, name in ASSETS.items():
        files.append(File.generated(config, uri, content=(Path(__file__).parent / name).read_text(encoding="utf-8")))
    named = {path for page in files.documentation_pages() for path in _paths(page)}
    for path in sorted(named):
        if _uri(path) == _source(path) and (ROOT / path).is_file():
            files.append(File.generated(config, _source(path), content=_source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead every link, and every file named as inline code, to the page of the site that shows it."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown

    def to(path: str) -> str | None:
        uri = _uri(path)
        return os.path.relpath(uri, os.path.dirname(here) or ".") if files.get_file_from_path(uri) else None

    def link(found: re.Match[str]) -> str:
        target = to(_resolve(here, found[1]))
        return found[0] if target is None else f"]({target}{found[2] or ''})"

    def name(found: re.Match[str]) -> str:
        target = to(found[1])
        return found[0] if target is None else f"[{found[0]}]({target})"

    return _outside_code(markdown, lambda text: _NAMED.sub(name, _LINK.sub(link, text)))


def _paths(page: Any) -> Iterator[str]:
    """The repository's paths that a page links or names."""
    text = _FENCED.sub("", page.content_string)
    yield from (_resolve(page.src_uri, found[1]) for found in _LINK.finditer(text))
    yield from (found[1] for found in _NAMED.finditer(text))


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Change the text between the code blocks."""
    parts, end = [], 0
    for block in _FENCED.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def _resolve(uri: str, target: str) -> str:
    """The path in the repository that a link of a page leads to."""
    origin = _ORIGINS.get(uri, f"docs/{uri}")
    return os.path.normpath(os.path.join(os.path.dirname(origin), target)).replace(os.sep, "/")


def _uri(path: str) -> str:
    """The page of the site that shows a file of the repository."""
    if path in PAGES:
        return PAGES[path]
    inside = PurePosixPath(path).is_relative_to("docs") and path.endswith((".md", ".png", ".ipynb"))
    return path.removeprefix("docs/").replace(".ipynb", ".md") if inside else _source(path)


def _source(path: str) -> str:
    return f"source/{path.lstrip('.')}.md"  # mkdocs hides what starts with a dot


def _source_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    return f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n````{language}\n{text}\n````\n"
