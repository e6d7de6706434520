"""Notebooks as pages of the site: text as it is, code as blocks, and the output that is kept in the file below each."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

FOLDER = Path(__file__).parents[1] / "notebooks"


def on_files(files: Any, config: Any) -> Any:
    """Add a page, and its pictures, for every notebook."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = [f"*This page is a notebook, `docs/notebooks/{path.name}`.*\n"]
        for number, cell in enumerate(cells):
            text = "".join(cell["source"])
            parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
            for picture, output in enumerate(cell.get("outputs", ())):
                uri = f"notebooks/{path.stem}_{number}_{picture}.png"
                for kind, content in _shown(output):
                    if kind == "image":
                        files.append(File.generated(config, uri, content=content))
                    parts.append(f"![output]({Path(uri).name})" if kind == "image" else content)
        title, rest = parts[1], [parts[0], *parts[2:]]
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content="\n\n".join([title, *rest]) + "\n"))
    return files


def _shown(output: Any) -> Iterator[tuple[str, Any]]:
    """What one output shows: a picture, or else its text."""
    data = output.get("data", {})
    if "image/png" in data:
        yield "image", base64.b64decode("".join(data["image/png"]))
    elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
        yield "text", f"```text\n{text}\n```"
