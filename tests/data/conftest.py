"""The fetched model where it is there, and a random encoder of the same shape where the model does not matter."""

import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.cache import ModelMissingError
from attnreg.data.minilm.encoder import WIDTH, Dense, Encoder, Layer, Norm, load_minilm
from attnreg.data.minilm.texts import Vocabulary, load_vocabulary

# A command that needs torch; doctests are collected from every module.
collect_ignore = ["transformers_oracle.py"]
WORDS = 64


@pytest.fixture(scope="session")
def encoder():
    """The real model in float64; a damaged copy is a failure, an absent one is not."""
    try:
        return load_minilm(dtype=jnp.float64)
    except ModelMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def vocabulary():
    try:
        return load_vocabulary()
    except ModelMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def small_vocabulary():
    return Vocabulary(tuple(f"word{i}" for i in range(WORDS)))


@pytest.fixture(scope="session")
def random_encoder():
    """Two layers with random float64 weights, biases and norms, and a vocabulary of 64."""
    rng = np.random.default_rng(20261122)

    def array(*shape, scale=1.0, centre=0.0):
        return jnp.asarray(centre + scale * rng.standard_normal(shape))

    def dense(inputs, outputs):
        return Dense(array(inputs, outputs, scale=inputs**-0.5), array(outputs, scale=0.3))

    def norm():
        return Norm(jnp.asarray(rng.uniform(0.5, 1.5, WIDTH)), array(WIDTH, scale=0.2, centre=0.1))

    def layer():
        square = [dense(WIDTH, WIDTH) for _ in range(4)]
        return Layer(*square, norm(), dense(WIDTH, 4 * WIDTH), dense(4 * WIDTH, WIDTH), norm())

    return Encoder(array(WORDS, WIDTH), array(512, WIDTH, scale=0.3), norm(), (layer(), layer()))
