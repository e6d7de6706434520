"""The Python of the guides fitting, real_heads, models and compress runs as printed, block after block."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from attnreg.fit import logit_distance
from attnreg.problems import AttentionRegression
from attnreg.solvers import Status
from tests.contract.source import ROOT
from tests.data.models import tiny


def blocks(guide: str) -> list[str]:
    text = (ROOT / "docs" / "guides" / guide).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run(*parts: str) -> dict:
    """The names after running the blocks in one namespace, with the settings of a user: float32, JAX's promotion."""
    names: dict = {}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in parts:
            exec(compile(block, "guide", "exec"), names)
    return names


def test_the_readme_as_printed(tmp_path, monkeypatch, capsys):
    """Arrays of one's own stand for those of the reader."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    A, X, V = (rng.normal(size=shape).astype(np.float32) for shape in ((12, 32, 6), (6, 2), (6, 3)))
    S = A @ X @ X.T @ A.swapaxes(1, 2) / 2
    maps = np.exp(S - S.max(axis=-1, keepdims=True))
    np.savez("activations.npz", A=A, B=maps / maps.sum(axis=-1, keepdims=True) @ (A @ V))
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    names = run(block)
    assert names["fit"].heldout < 1e-6
    assert (tmp_path / "layer.npz").is_file()
    assert "unknowns determined" in capsys.readouterr().out


def test_fitting_as_printed(capsys):
    names = run(*blocks("fitting.md"))
    assert names["X"].shape == names["problem"].shape == (17, 17)
    assert bool(names["result"].converged)
    assert float(names["fitted"].value) < float(names["small"].value(names["small"].start()))
    np.testing.assert_allclose(names["many"].value, float(names["result"].value), rtol=1e-3)
    assert "tolerance" in capsys.readouterr().out


def test_every_status_is_in_the_table_of_the_guide():
    text = (ROOT / "docs" / "guides" / "fitting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z_]+) \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(status.name for status in Status if status is not Status.RUNNING)


def test_the_full_head_as_printed():
    """On the first text, for time. It gives the weights away, which is the claim of configs/quickstart.py too."""
    block = blocks("real_heads.md")[0].replace("fit_attention(head.A, maps,", "fit_attention(head.A[:1], maps[:1],")
    names = run(block.replace("tol=1e-9", "tol=1e-7"))
    head, fit = names["head"], names["fit"]
    assert names["maps"].shape == (4, 512, 512)
    assert fit.train < 1e-7
    assert fit.heldout < 1e-7
    found, true = (Q @ K.T for Q, K in (fit.weights, head.true_factors))
    unseen = AttentionRegression(head.A_heldout, head.A_heldout, names["unseen"][1])
    assert float(logit_distance(unseen, jnp.asarray(found), jnp.asarray(true))) < 1e-3


def test_the_shipped_head_as_printed():
    names = run(blocks("real_heads.md")[1])
    assert names["problem"].B.shape == (8, 64, 64)
    assert names["unseen"].B.shape == (4, 64, 64)
    assert names["B"].shape == (len(names["head"].tokens[0]),) * 2


def test_any_head_as_printed(vocabulary):
    names = run(blocks("real_heads.md")[2])
    assert names["head"].A.shape == (8, 128, 33)
    assert names["head"].A_heldout.shape == (6, 128, 33)


@pytest.mark.parametrize("family", ["gpt2", pytest.param("bert", marks=pytest.mark.slow)])
def test_a_model_of_ones_own_as_printed(tmp_path, monkeypatch, family):
    """In a folder with nothing but a model, its tokenizer (one letter, one token) and a text."""
    folder = tiny.write(tmp_path / "my-model", *getattr(tiny, family)())
    letters = "abcdefghijklmnopqrstuvw"
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    backend.save(str(folder / "tokenizer.json"))
    text = np.random.default_rng(5).choice(list(letters), 8 * tiny.LONGEST)
    (tmp_path / "my-text.txt").write_text("".join(text))
    monkeypatch.chdir(tmp_path)
    names = run(*blocks("models.md"))
    assert names["A"].shape == (8, tiny.LONGEST, tiny.D)
    assert names["fit"].weights.Q.shape == (tiny.D, 4)
    assert names["fit"].heldout < 1e-6


@pytest.mark.parametrize(("guide", "count"), [("fitting.md", 4), ("real_heads.md", 3), ("models.md", 1)])
def test_no_block_is_left_out(guide, count):
    assert len(blocks(guide)) == count


def test_compression_as_printed(capsys, tmp_path):
    """The second block with a tiny model, and projections of its own, in the place of MiniLM."""
    head, whole = blocks("compress.md")
    names = run(head)
    assert names["fit"].projections.Q.shape == (8, 4)
    assert len(capsys.readouterr().out.splitlines()) == 5
    folder = tiny.write(tmp_path / "model", *tiny.bert())
    whole = whole.replace('"minilm"', repr(str(folder))).replace('"heads.', f'"{tmp_path}/heads.')
    parts = "from attnreg.data.models import Projections\nprojections = [Projections(*np.ones((2, 3, 4, 2)))] * 2\n"
    names = run("import numpy as np\n" + parts + whole)
    for layer, same in zip(names["again"].parameters.layers, names["smaller"].parameters.layers, strict=True):
        np.testing.assert_array_equal(layer.query.w, same.query.w)
