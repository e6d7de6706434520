"""A compressed model computes what its projections say, by weights of the old shapes and by the small factors."""

import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.models import (
    Projections,
    forward,
    key_cache_bytes,
    load_compressed,
    load_model,
    replace_heads,
    rotate,
    save_compressed,
    trace_layer,
)
from attnreg.fit.rotary_pairs import projections as of_pairs
from attnreg.problems import ProblemError
from tests.data.models import tiny
from tests.data.models.test_factors import softmax
from tests.data.models.test_forward import IDS

EPS = float(np.finfo(np.float64).eps)
KEPT = np.array([0, 2])
MODELS = {"bert": tiny.bert(), "gpt2": tiny.gpt2(), "llama": tiny.llama()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = {name: tiny.write(tmp_path_factory.mktemp(name), *made) for name, made in MODELS.items()}
    return {name: load_model(folder, dtype=np.float64) for name, folder in folders.items()}


def drawn(config, seed=0):
    """Random projections of every layer; with rotary positions two of three pairs with random scales."""
    rng = np.random.default_rng(seed)
    w = config.head_width
    if not config.rotary_width:
        draw = lambda count: rng.normal(size=(count, w, 2))  # noqa: E731
        return [Projections(draw(config.heads), draw(config.groups)) for _ in range(config.layers)]
    pairs = [of_pairs(KEPT, rng.normal(size=(config.heads, 4)), w, config.rotary_layout) for _ in range(config.layers)]
    return [Projections(P, np.stack([S] * config.groups)) for P, S in pairs]


def projected(model, layer, projections):
    """The maps of one layer from `softmax(q P Sᵀ kᵀ)` of the model as it is."""
    config, trace = model.config, trace_layer(model, IDS, layer)
    maps = []
    for h in range(config.heads):
        j = h // config.shared
        q, k = np.asarray(trace.q_rotated[h]), np.asarray(trace.k_rotated[j])
        logits = config.scale * q @ projections.query[h] @ projections.key[j].T @ k.T
        maps.append(softmax(logits, config.causal))
    return np.stack(maps)


@pytest.mark.parametrize("name", MODELS)
def test_the_maps_are_those_of_the_projections(models, name):
    model = models[name]
    parts = drawn(model.config)
    compressed = replace_heads(model, parts)
    np.testing.assert_allclose(trace_layer(compressed, IDS, 0).maps, projected(model, 0, parts[0]), atol=1000 * EPS)
    assert compressed.parameters.layers[1].query.w.shape == model.parameters.layers[1].query.w.shape
    # All else is the model's own: without compression nothing changes.
    eye = np.eye(model.config.head_width)[None]
    whole = [Projections(eye.repeat(model.config.heads, 0), eye.repeat(model.config.groups, 0))] * tiny.LAYERS
    np.testing.assert_allclose(forward(replace_heads(model, whole), IDS).final, forward(model, IDS).final, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_the_same_model_and_the_factors_of_a_cache(models, name, tmp_path):
    model = models[name]
    config, parts = model.config, drawn(model.config)
    save_compressed(tmp_path / "heads.safetensors", model, parts, {"texts": "none"})
    assert [path.name for path in tmp_path.iterdir()] == ["heads.safetensors"]
    loaded = load_compressed(tmp_path / "heads.safetensors")
    assert (loaded.metadata["texts"], loaded.metadata["rank"]) == ("none", str(parts[0].query.shape[2]))
    for got, want in zip(loaded.projections, parts, strict=True):
        np.testing.assert_array_equal(got.query, want.query)
        np.testing.assert_array_equal(got.key, want.key)
    again = loaded.into(model)
    np.testing.assert_array_equal(forward(again, IDS).final, forward(replace_heads(model, parts), IDS).final)
    # The cache's way: r numbers a key, turned by the frequencies that were kept.
    A = np.asarray(trace_layer(model, IDS, 0).inputs)
    angles = [config.rotary_frequencies[i] for i in KEPT] if config.rotary_width else ()
    turned = []
    for dense in (loaded.query[0], loaded.key[0]):
        rows = np.einsum("nd,hdr->hnr", A, dense.w) + (0 if dense.b is None else np.asarray(dense.b)[:, None, :])
        turned.append(np.asarray(rotate(jnp.asarray(rows), angles, config.rotary_layout)))
    keys = turned[1].repeat(config.shared, axis=0)
    maps = [softmax(config.scale * q @ k.T, config.causal) for q, k in zip(turned[0], keys, strict=True)]
    np.testing.assert_allclose(maps, trace_layer(again, IDS, 0).maps, atol=1000 * EPS)


def test_the_bytes_of_a_key_cache(models):
    config = models["llama"].config  # two layers, two key heads of width 6
    assert key_cache_bytes(config) == 2 * 2 * 6 * 2
    assert key_cache_bytes(config, 4, bytes_each=4) == 2 * 2 * 4 * 4
    with pytest.raises(ProblemError, match="rank is 7"):
        key_cache_bytes(config, 7)


def test_projections_that_do_not_fit_are_refused(models):
    bert, llama = models["bert"], models["llama"]
    parts = drawn(bert.config)
    with pytest.raises(ProblemError, match="projections has 1 layers; the model has 2"):
        replace_heads(bert, parts[:1])
    with pytest.raises(ProblemError, match=r"projections\[1\] has shapes \[\(3, 4, 2\), \(2, 4, 2\)\]"):
        replace_heads(bert, [parts[0], Projections(parts[1].query, parts[1].key[:2])])
    rng = np.random.default_rng(0)
    mixed = [Projections(rng.normal(size=(4, 6, 2)), rng.normal(size=(2, 6, 2)))] * 2
    with pytest.raises(ProblemError, match=r"projections\[0\].*rotary positions, which it must commute with"):
        replace_heads(llama, mixed)


def test_files_and_models_that_do_not_fit_are_refused(models, tmp_path):
    path = tmp_path / "heads.safetensors"
    save_compressed(path, models["bert"], drawn(models["bert"].config))
    with pytest.raises(ProblemError, match="model differs in family, heads, groups, head_width"):
        load_compressed(path).into(models["llama"])
    with pytest.raises(ProblemError, match=r"absent\.safetensors cannot be read"):
        load_compressed(tmp_path / "absent.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ProblemError, match="cannot be read as safetensors"):
        load_compressed(path)
    tiny.save_file({"a": np.zeros(1)}, path)
    with pytest.raises(ProblemError, match="holds no compressed heads of version 1"):
        load_compressed(path)
