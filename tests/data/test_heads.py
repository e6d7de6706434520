"""The folding of biases: H u = 1, and the head as softmax(H X Hᵀ) H Y with nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.layers import layer_maps, layer_outputs
from attnreg.data.minilm.encoder import HEADS, encode
from attnreg.data.minilm.heads import head_of, layer_weights, ones_direction, true_factors, true_y
from attnreg.data.minilm.texts import windows

EPS = np.finfo(np.float64).eps


@pytest.fixture(scope="module")
def real(encoder):
    return encoder, jax.jit(encode)(encoder, jnp.asarray(windows("docs", 128, 1)[0]))


@pytest.fixture(scope="module")
def random(random_encoder):
    return random_encoder, jax.jit(encode)(random_encoder, jnp.arange(40) % 64)


def norm(x):
    return float(np.linalg.norm(np.ravel(x)))


def check_head(model, trace, layer, head):
    """The claims of the module for one head, each relative to the size of what it is about."""
    weights, H, done = head_of(model, layer, head), trace.hidden[layer], trace.attention[layer]
    u = np.asarray(weights.u)
    assert np.abs(H @ weights.u - 1).max() <= 20 * EPS * np.abs(np.asarray(H)) @ np.abs(u) @ np.ones(len(H))
    query, key = true_factors(weights)
    fitted = jax.nn.softmax(H @ (query @ key.T) @ H.T, axis=-1)
    assert norm(fitted - done.maps[head]) <= 1e-14 * norm(done.maps[head])
    assert norm(fitted @ (H @ true_y(weights)) - done.heads[head]) <= 1e-13 * norm(done.heads[head])


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (0, 2), (1, 8), (2, 3), (5, 2), (5, 11)])
def test_real_head_is_the_regression_problem(real, layer, head):
    check_head(*real, layer, head)


@pytest.mark.parametrize(("layer", "head"), [(0, 5), (1, 11)])
def test_random_head_is_the_regression_problem(random, layer, head):
    check_head(*random, layer, head)


def test_heads_add_up_to_the_layer(random):
    model, trace = random
    done = trace.attention[1]
    parts = [done.heads[j] @ head_of(model, 1, j).w_o for j in range(HEADS)]
    total = sum(parts) + model.layers[1].output.b[None, :]
    assert norm(total - done.output) <= 100 * EPS * sum(norm(part) for part in parts)


def test_the_weights_of_a_layer_write_what_the_layer_writes(random):
    model, trace = random
    weights, H = layer_weights(model, 1), np.asarray(trace.hidden[1])
    bias, done = np.asarray(model.layers[1].output.b), trace.attention[1]
    written = layer_outputs(weights, H[None])[0]
    scale = norm(done.output) + norm(bias)
    assert norm(written + bias - done.output) <= 1e-12 * scale
    assert norm(layer_maps(weights, H, head=4) - done.maps[4]) <= 1e-13 * norm(done.maps[4])
    one = weights._replace(**{name: getattr(weights, name)[4:5] for name in "QKV"}, O=None)
    assert norm(layer_outputs(one, H[None])[0] - done.heads[4]) <= 1e-13 * norm(done.heads[4])


def test_factors_have_the_rank_of_a_head(random):
    weights = head_of(random[0], 0, 3)
    query, key = true_factors(weights)
    assert query.shape == key.shape == (384, 32)
    assert np.linalg.matrix_rank(query @ key.T) == 32


def test_biases_matter(random):
    """Without the folding the same weights give another map: the fold is not a formality."""
    model, trace = random
    weights, H = head_of(model, 1, 0), trace.hidden[1]
    bare = jax.nn.softmax(H @ weights.w_q @ weights.w_k.T @ H.T / 32**0.5, axis=-1)
    assert norm(bare - trace.attention[1].maps[0]) > 1e-2 * norm(trace.attention[1].maps[0])


def test_float32_ones(encoder):
    single = jax.tree.map(lambda x: x.astype(jnp.float32), encoder.norm)
    H = encode(encoder, jnp.asarray(windows("docs", 32, 1)[0]), layers=0).hidden[0].astype(jnp.float32)
    assert np.abs(H @ ones_direction(single) - 1).max() < 2e-5


def test_no_such_head(random_encoder):
    with pytest.raises(ValueError, match=r"layer 1, head 12: .*heads 0\.\.11"):
        head_of(random_encoder, 1, 12)
    with pytest.raises(ValueError, match=r"layer -1"):
        head_of(random_encoder, -1, 0)
