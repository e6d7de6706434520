"""scipy's L-BFGS-B on `jax.value_and_grad`: `python scipy_lbfgs.py data.npz [STEPS]`."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

jax.config.update("jax_enable_x64", True)
data = np.load(sys.argv[1])
A, B = data["A"], data["B"]
d = A.shape[2]


@jax.jit
@jax.value_and_grad
def graded(x: jax.Array) -> jax.Array:
    """The loss and its gradient (d·d,)."""
    f = jax.nn.softmax(jnp.einsum("kna,ab,kmb->knm", A, x.reshape(d, d), A), axis=-1)
    return jnp.sum((f - B) ** 2)


def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient as NumPy's."""
    value, gradient = graded(x.astype(A.dtype))
    return float(value), np.asarray(gradient, np.float64)


x0 = np.zeros(d * d)
goal = 1e-8 * float(np.max(np.abs(evaluate(x0)[1])))
steps = int(sys.argv[2]) if sys.argv[2:] else 10000
options = {"maxiter": steps, "maxfun": 10000, "ftol": 0.0, "gtol": goal}
print(float(scipy.optimize.minimize(evaluate, x0, jac=True, method="L-BFGS-B", options=options).fun))
