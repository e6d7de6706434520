"""The shipped heads: what they hold, that they are the model's, what a fit reaches, and the file format."""

import dataclasses
from importlib import resources

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from attnreg.data import attention_map, load_embedded_head, load_full_head, load_head, save_head
from attnreg.data.minilm.texts import windows
from attnreg.data.tools.embed import recompute_full_head, recompute_head

FLOATS = ("A", "Q", "K", "V", "A_heldout", "Q_heldout", "K_heldout", "V_heldout", "W_O")
FILE = resources.files("attnreg.data").joinpath("embedded/minilm_layer5_head2.npz")
FULL_FILE = resources.files("attnreg.data").joinpath("embedded/minilm_layer2_head3_full.npz")
TEXTS = ("ids", "ids_heldout", "tokens", "tokens_heldout", "sources", "sources_heldout", "name")


@pytest.fixture(scope="module")
def shipped():
    return load_embedded_head(dtype=np.float64)


@pytest.fixture(scope="module")
def full():
    return load_full_head(dtype=np.float64)


def test_shipped_head_is_what_it_says(shipped):
    shapes = {name: getattr(shipped, name).shape for name in FLOATS}
    assert shapes["A"] == (8, 64, 17)
    assert shapes["A_heldout"] == (4, 64, 17)
    assert shapes["Q"] == shapes["K"] == shapes["V"] == (8, 64, 32)
    assert shapes["W_O"] == (32, 384)
    assert np.all(shipped.A[..., -1] == 1)
    assert np.all(shipped.A_heldout[..., -1] == 1)
    assert (shipped.layer, shipped.head) == (5, 2)
    assert shipped.true_factors is None
    assert shipped.sources == ("docs",) * 8
    assert shipped.sources_heldout == ("docs_heldout",) * 2 + ("card",) * 2
    np.testing.assert_array_equal(shipped.ids, windows("docs", 64, 8))
    np.testing.assert_array_equal(shipped.ids_heldout[2:], windows("card", 64, 2))
    assert len(FILE.read_bytes()) < 200_000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_precisions_hold_the_same_numbers(shipped, dtype):
    instance = load_embedded_head(dtype=dtype)
    for name in FLOATS:
        assert getattr(instance, name).dtype == dtype
        np.testing.assert_array_equal(getattr(instance, name).astype(np.float64), getattr(shipped, name))


def test_shipped_head_is_the_models(encoder, vocabulary, shipped):
    """Made anew it is the same but for the last place of an entry here and there, and the model's map to 3e-4."""
    fresh = recompute_head()
    for name in FLOATS:
        kept, exact = getattr(shipped, name), getattr(fresh, name)
        steps = np.abs(kept - exact.astype(np.float16)) / np.spacing(np.abs(exact).astype(np.float16)).astype(float)
        assert steps.max() <= 1
        assert np.mean(steps > 0) < 1e-4
    wanted = attention_map(fresh.Q, fresh.K)
    assert np.linalg.norm(attention_map(shipped.Q, shipped.K) - wanted) <= 3e-4 * np.linalg.norm(wanted)
    for name in TEXTS:
        np.testing.assert_array_equal(getattr(fresh, name), getattr(shipped, name))


def test_a_fit_learns_something_that_holds_for_unseen_text(shipped):
    """The documented numbers: relative loss from X = 0 to the fit, on the training and on the held-out documents."""
    targets = {part: attention_map(*(getattr(shipped, x + part) for x in "QK")) for part in ("", "_heldout")}

    def loss(x, A, B):
        X = x.reshape(17, 17)
        return jnp.sum((jax.nn.softmax(jnp.einsum("kid,de,kje->kij", A, X, A), axis=-1) - B) ** 2) / jnp.sum(B**2)

    value = jax.jit(loss)
    slope = jax.jit(jax.value_and_grad(loss))
    start = np.zeros(289)
    data = shipped.A, targets[""]
    unseen = shipped.A_heldout, targets["_heldout"]
    options = {"maxiter": 1000, "maxfun": 3000, "maxcor": 30, "ftol": 1e-12}
    fit = minimize(
        lambda x: [np.asarray(v) for v in slope(x, *data)], start, jac=True, method="L-BFGS-B", options=options
    )
    found = [float(value(x, *part)) for part in (data, unseen) for x in (start, fit.x)]
    for one, wanted, tolerance in zip(found, (0.752, 0.1134, 0.786, 0.359), (1e-3, 1e-4, 1e-3, 3e-3), strict=True):
        assert one == pytest.approx(wanted, abs=tolerance)


def test_the_full_head_is_what_it_says(full):
    assert full.A.shape == (4, 512, 384)
    assert full.A_heldout.shape == (2, 512, 384)
    assert (full.layer, full.head) == (2, 3)
    assert full.sources + full.sources_heldout == ("docs",) * 4 + ("docs_heldout", "card")
    for part in ("", "_heldout"):
        A = getattr(full, "A" + part)
        for name, weights in zip("QKV", (*full.true_factors, full.true_Y), strict=True):
            np.testing.assert_array_equal(getattr(full, name + part), A @ weights)
        u = np.linalg.lstsq(A[0], np.ones(512), rcond=None)[0]
        assert np.abs(A @ u - 1).max() < 1e-9  # a layer norm wrote it
    assert len(FULL_FILE.read_bytes()) < 2_600_000


def test_the_texts_of_the_full_head_are_prose(full):
    """No page of code or of rules drawn with asterisks: at least three tokens in four are words."""
    for tokens in (*full.tokens, full.tokens_heldout[0]):
        assert sum(token.removeprefix("##").isalpha() for token in tokens) > 0.75 * len(tokens)
        assert max(map(tokens.count, "*_=-`#")) < 0.03 * len(tokens)


def test_the_full_head_is_the_models(encoder, vocabulary, full):
    """Made anew it is the same up to half precision of its inputs, and its maps are the model's to 7e-4."""
    fresh = recompute_full_head()
    for part in ("", "_heldout"):
        A, exact = getattr(full, "A" + part), getattr(fresh, "A" + part)
        assert np.abs(A - exact).max() <= 2.0**-10 * np.abs(exact).max()
        kept, wanted = (attention_map(getattr(h, "Q" + part), getattr(h, "K" + part)) for h in (full, fresh))
        assert np.linalg.norm(kept - wanted) <= 7e-4 * np.linalg.norm(wanted)
    kept, exact = ((*head.true_factors, head.true_Y, head.W_O) for head in (full, fresh))
    chex.assert_trees_all_close(kept, exact, rtol=2.0**-23)
    for name in TEXTS:
        np.testing.assert_array_equal(getattr(fresh, name), getattr(full, name))


def test_a_saved_head_comes_back(tmp_path, shipped):
    save_head(tmp_path / "head.npz", shipped)
    assert (tmp_path / "head.npz").read_bytes() == FILE.read_bytes()
    again = load_head(tmp_path / "head.npz", dtype=np.float64)
    chex.assert_trees_all_equal(*(dataclasses.asdict(instance) for instance in (again, shipped)))


def test_a_saved_full_head_comes_back(tmp_path, full):
    """To the rounding of its inputs: brought back to `A u = 1` they may round to the neighbour."""
    texts = {name + part: getattr(full, name + part)[:1, :64] for name in ("A", "ids") for part in ("", "_heldout")}
    texts |= dict(tokens=(full.tokens[0][:64],), tokens_heldout=(full.tokens_heldout[0][:64],))
    full = dataclasses.replace(full, **texts)
    save_head(tmp_path / "head.npz", full)
    again = load_head(tmp_path / "head.npz", dtype=np.float64)
    for name, size in (("A", 8.0), ("A_heldout", 8.0)):
        assert np.abs(getattr(again, name) - getattr(full, name)).max() <= 2.0**-11 * size
    chex.assert_trees_all_equal(again.true_factors, full.true_factors)
    assert again.tokens == full.tokens


def test_what_cannot_be_saved_is_refused(tmp_path, shipped):
    with pytest.raises(ValueError, match="A has no last column of ones"):
        save_head(tmp_path / "head.npz", dataclasses.replace(shipped, A=shipped.A[..., :-1]))
    for bad in (1e5, np.nan):
        with pytest.raises(ValueError, match="V has entries that half precision cannot hold"):
            save_head(tmp_path / "head.npz", dataclasses.replace(shipped, V=shipped.V * bad))
    assert not (tmp_path / "head.npz").exists()
