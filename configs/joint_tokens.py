"""All tokens of a self-attention document move at once: the Lipschitz constant in them, attacked, and in MiniLM.

Claim examined: attention is Lipschitz in its tokens with a constant that grows like √n (arXiv 2312.14820; the
formula is derived in docs/theory/bounds.md, section 8, and was not compared with the print).
Command: python -m experiments.run --config configs/joint_tokens.py
Expected: no constant is beaten in a million improved documents a quantity; docs/theory/bounds.md, section 8, has the
numbers measured so far.
Time: 1.5 minutes of CPU; smoke: seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"parts": ("attack",), "n": (3,), "starts": (16,), "a": (1.0,), "steps": 10},
}
EXPECTED = {"full": {"tightness": (None, 1.0)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="bounds.joint_tokens",
        seed=0,
        precision="float64",
        parts=("attack", "minilm"),
        n=(2, 4, 8, 16, 32, 64),  # tokens
        starts=(2048, 2048, 512, 128, 64, 32),  # documents, for each n
        d=2,
        a=(0.1, 0.5, 1.0, 3.0, 10.0),  # r²‖X‖
        steps=150,
        tolerance=1e-8,
        tokens=32,  # of a document of the model
        documents=2,
        powers=60,
    )
    return vary(ConfigDict(config), variant, VARIANTS)


def sweep() -> list[dict]:
    """One task per part."""
    return [{"parts": (part,)} for part in get_config().parts]
