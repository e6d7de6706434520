"""Gauss–Newton of jaxopt on the residuals."""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np

warnings.filterwarnings("ignore", category=DeprecationWarning)
import jaxopt  # noqa: E402

jax.config.update("jax_enable_x64", True)
data = np.load(sys.argv[1])
A, B = data["A"], data["B"]
d = A.shape[2]


def residuals(x: jax.Array) -> jax.Array:
    """Map less target (k·n·m,)."""
    f = jax.nn.softmax(jnp.einsum("kna,ab,kmb->knm", A, x.reshape(d, d), A), axis=-1)
    return jnp.ravel(f - B)


x0 = jnp.zeros(d * d)
goal = 1e-8 * float(jnp.linalg.norm(jax.grad(lambda x: jnp.sum(residuals(x) ** 2) / 2)(x0)))
found = jaxopt.GaussNewton(residuals, tol=goal, maxiter=200).run(x0)
print(float(jnp.sum(residuals(found.params) ** 2)))
