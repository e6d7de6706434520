"""Heads of smaller rank with nearly the same maps: fitted after the softmax, beside three closed forms.

Shows: all 72 heads of all-MiniLM-L6-v2 at ranks 2 to 32, from 64 texts of 128 tokens (`:short`: of 64);
errors of maps and outputs on texts that decided nothing, and the drift of sentence similarities with every head of
the model replaced.
Commands: python -m attnreg.data.tools.fetch_minilm   (once: 84 MB)
          python -m experiments.run --config configs/compress_heads.py
Fitted to what each head writes instead of its maps: `:short_outputs`, `:smollm2_outputs` (`fit.targets`).
SmolLM2, with rotary positions and shared keys, by perplexity:
          python -m attnreg.data.tools.fetch_smollm2   (once: 98 MB)
          python -m experiments.run --config configs/compress_heads.py:smollm2
Expected: docs/guides/compress.md.
Time: docs/guides/compress.md; a run that is stopped goes on with the same command, layer by layer and rank by rank.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

SMOKE: dict[str, Any] = {
    "data.source": "random encoder",
    "data.documents": 12,
    "data.heldout_documents": 6,
    "data.test_documents": 6,
    "data.tokens": 12,
    "data.judge_documents": 6,
    "data.judge_tokens": 8,
    "ranks": (2, 4),
    "fit.pulls": (1e-2, 0.0),
    "fit.steps": 2,
    "fit.rotary_steps": 3,
}
SMOLLM2: dict[str, Any] = {
    "data.source": "model",
    "data.model": "smollm2",
    "data.tokens": 64,
    "data.judge_documents": 12,
    "data.judge_tokens": 128,
    "ranks": (8, 16, 32),
    "fit.rotary_steps": 6,
}
OUTPUTS = {"fit.targets": "outputs"}
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE,
    "smoke_decoder": SMOKE | {"data.source": "random decoder"} | OUTPUTS,
    "short": {"data.tokens": 64},
    "short_outputs": {"data.tokens": 64} | OUTPUTS,
    "smollm2": SMOLLM2,
    "smollm2_outputs": SMOLLM2 | OUTPUTS,
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="compress.heads",
        seed=0,
        precision="float32",
        data=dict(
            source="minilm",  # or "model", "random encoder", "random decoder"
            model="",  # of the source "model": a name ("smollm2") or a folder with config.json
            text="",  # a file of text for it; empty: the texts that ship
            documents=64,
            heldout_documents=16,  # choose the pull and the step; half of another kind of text
            test_documents=16,  # looked at once, at the end
            tokens=128,
            judge_documents=96,  # what the whole model is judged on: sentences, or texts to predict
            judge_tokens=32,
            random=dict(layers=2, heads=2, groups=1, head_width=4, vocabulary=20, sharpness=12.0, rotary=True),
        ),
        ranks=(2, 4, 8, 16, 32),
        layers=0,  # only so many, from the first; 0 is all
        fit=dict(
            targets="maps",  # or "outputs": of each head, through its part of the output projection
            pulls=(0.1, 1e-2, 0.0),  # towards the closed form, strong to weak; held-out texts choose
            steps=5,  # for each pull, at most
            rotary_steps=10,
        ),
    )
    return vary(ConfigDict(config), variant, VARIANTS)
