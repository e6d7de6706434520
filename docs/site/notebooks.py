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
        title, *parts = _parts(path.stem, json.loads(path.read_text(encoding="utf-8"))["cells"], files, config)
        parts.insert(0, f"*This page is a notebook, `docs/notebooks/{path.name}`.*")
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content="\n\n".join([title, *parts]) + "\n"))
    return files


def _parts(stem: str, cells: list[Any], files: Any, config: Any) -> Iterator[str]:
    """The cells as Markdown; pictures become files beside the page."""
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        yield text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        outputs = cell.get("outputs", ())
        printed = "".join("".join(output.get("text", "")) for output in outputs).rstrip()
        if printed:
            yield f"```{{ .text .output }}\n{printed}\n```"
        for picture in (output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})):
            name = f"{stem}_{number}.png"
            files.append(File.generated(config, f"notebooks/{name}", content=base64.b64decode("".join(picture))))
            yield f"![Output of the block above]({name})"
