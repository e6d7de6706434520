"""What peers are given of a one-layer instance: plain losses over one vector, and starts."""

import jax
import jax.numpy as jnp

from attnreg.data.synthetic import Layer


def deviation(B: jax.Array) -> jax.Array:
    """`‖B − column mean‖²` of outputs (…, n, c), the loss of the best constant output: the unit of relative losses."""
    return jnp.sum((B - jnp.mean(B, axis=tuple(range(B.ndim - 1)), keepdims=True)) ** 2)


def variation(data: Layer) -> jax.Array:
    """`deviation` of an instance's outputs."""
    return deviation(data.B)


def residuals(flat: jax.Array, data: Layer) -> jax.Array:
    """Residuals of the plain problem at `(vec X, vec Y)`, as one vector."""
    d1, d2, d3, c = data.A1.shape[1], data.A2.shape[1], data.A3.shape[1], data.B.shape[1]
    X, Y = flat[: d1 * d2].reshape(d1, d2), flat[d1 * d2 :].reshape(d3, c)
    return (jax.nn.softmax(data.A1 @ X @ data.A2.T, axis=-1) @ data.A3 @ Y - data.B).ravel()


def joint_loss(flat: jax.Array, data: Layer) -> jax.Array:
    """The plain loss at `(vec X, vec Y)`."""
    return jnp.sum(residuals(flat, data) ** 2)


def reduced_loss(flat: jax.Array, data: Layer) -> jax.Array:
    """Loss at `vec X` with Y eliminated by the normal equations; a ridge of 1e-12 relative keeps them solvable."""
    X = flat.reshape(data.A1.shape[1], data.A2.shape[1])
    Z = jax.nn.softmax(data.A1 @ X @ data.A2.T, axis=-1) @ data.A3
    gram = Z.T @ Z
    gram = gram + 1e-12 * jnp.trace(gram) * jnp.eye(gram.shape[0])
    return jnp.sum((Z @ jnp.linalg.solve(gram, Z.T @ data.B) - data.B) ** 2)


def joint_start(key: jax.Array, data: Layer, run: int) -> jax.Array:
    """X = 0 and Y = 0.1 N(0, 1) first, which serves the peers best; later runs draw X too, of growing size."""
    kx, ky = jax.random.split(key)
    scale = (0.0, 0.05, 0.3, 1.0)[min(run, 3)]
    X = scale * jax.random.normal(kx, (data.A1.shape[1] * data.A2.shape[1],))
    return jnp.concatenate([X, 0.1 * jax.random.normal(ky, (data.A3.shape[1] * data.B.shape[1],))])


def reduced_start(key: jax.Array, data: Layer, run: int) -> jax.Array:
    """X of entries 0.1, then 0.3, then 1."""
    scale = (0.1, 0.3, 1.0)[min(run, 2)]
    return scale * jax.random.normal(key, (data.A1.shape[1] * data.A2.shape[1],))
