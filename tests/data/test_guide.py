"""The Python of docs/guides/real_heads.md runs as printed."""

import re
from pathlib import Path

import jax

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "real_heads.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)


def run(block: str) -> dict:
    names: dict = {}
    with jax.enable_x64(False):
        exec(block, names)
    return names


def test_the_shipped_head_as_printed():
    names = run(blocks()[0])
    assert names["problem"].B.shape == (8, 64, 64)
    assert names["unseen"].B.shape == (4, 64, 64)
    assert names["B"].shape == (len(names["head"].tokens[0]),) * 2


def test_any_head_as_printed(vocabulary):
    names = run(blocks()[1])
    assert names["head"].A.shape == (8, 128, 33)
    assert names["head"].A_heldout.shape == (6, 128, 33)
