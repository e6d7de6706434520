"""These tests compile many small programs once each: most of their time would be XLA's optimiser."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _plain_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
