"""Problems of every shape the one-layer closed forms must serve, and what autodiff says about them."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.problems import losses
from attnreg.problems.one_layer import OneLayerRegression, Unknowns

# name: (k, n, m, d1, d2, d3, c, options)
CASES = {
    "square": (1, 6, 6, 3, 3, 3, 3, {}),
    "all_widths_differ": (1, 7, 5, 2, 3, 4, 6, {}),
    "narrow_output": (1, 7, 5, 3, 2, 4, 1, {}),
    "one_row": (1, 1, 4, 2, 2, 2, 2, {}),
    "one_key": (1, 4, 1, 2, 2, 2, 2, {}),
    "width_one": (1, 5, 6, 1, 1, 1, 1, {}),
    "wider_than_long": (1, 3, 3, 5, 5, 5, 5, {"ridge_y": 0.1}),
    "documents": (3, 5, 4, 2, 3, 2, 3, {"ridge": 0.2, "ridge_y": 0.3}),
    "masked": (2, 5, 6, 2, 2, 3, 2, {"mask": True, "ridge_y": 0.1}),
    "causal": (2, 5, 5, 2, 2, 2, 2, {"causal": True, "ridge_y": 0.1}),
    "values": (2, 4, 5, 2, 3, 2, 3, {"value_weight": True, "ridge_y": 0.1}),
    "weighted": (2, 4, 5, 2, 2, 2, 2, {"weight": True, "mask": True, "ridge": 0.1, "ridge_y": 0.1}),
}


def build(name: str, *, scale: float = 1.0, dtype=jnp.float64) -> tuple[OneLayerRegression, Unknowns]:
    """The problem of a case, and a point."""
    k, n, m, d1, d2, d3, c, options = CASES[name]
    keys = jax.random.split(jax.random.key(len(name)), 8)
    normal = [jax.random.normal(key, shape, dtype) for key, shape in zip(
        keys, [(k, n, d1), (k, m, d2), (k, m, d3), (k, n, c), (d1, d2), (d3, c)], strict=False)]  # fmt: skip
    options = dict(options)
    if options.pop("mask", False):
        options["mask"] = jax.random.bernoulli(keys[6], 0.6, (k, n, m))
    if options.pop("weight", False):
        options["weight"] = jnp.abs(jax.random.normal(keys[7], (k, n, m), dtype))
    if options.pop("value_weight", False):
        options["value_weight"] = jnp.abs(jax.random.normal(keys[7], (k, m), dtype))
    A1, A2, A3, B, X, Y = normal
    return OneLayerRegression(A1, A2, A3, B, **options), Unknowns(scale * X, Y)


def definition(problem: OneLayerRegression):
    """The loss as posed, from `attnreg.problems.losses`: autodiff's target."""
    k, n, m = problem.sizes[:3]
    mask = jnp.ones((k, n, m), bool) if problem.mask is None else jnp.broadcast_to(problem.mask, (k, n, m))
    if problem.causal:
        mask = mask & jnp.tril(jnp.ones((n, m), bool))[None]

    weight = jnp.zeros((k, n, m)) if problem.weight is None else jnp.broadcast_to(problem.weight, (k, n, m))

    def loss(params):
        def document(A1, A2, A3, B, mask, weight):
            penalty = losses.logit_regularizer(params.X, A1, A2, weight, mask)
            return penalty + losses.one_layer_attention(params.X, params.Y, A1, A2, A3, B, mask)

        each = jax.vmap(document)(problem.A1, problem.A2, problem.A3, problem.B, mask, weight)
        if problem.value_weight is not None:
            v = jnp.broadcast_to(problem.value_weight[..., 0], (k, m))
            each = each + jax.vmap(losses.value_regularizer, (None, 0, 0))(params.Y, problem.A3, v)
        return jnp.sum(each) + (problem.ridge * jnp.sum(params.X**2) + problem.ridge_y * jnp.sum(params.Y**2)) / 2

    return loss


def flat(loss, params):
    """`loss` as a function of one vector, and the vector."""
    vector, unravel = ravel_pytree(params)
    return (lambda v: loss(unravel(v))), vector


@jax.jit
def autodiff(problem, params):
    """Value, gradient and Hessian of the definition over `ravel_pytree(params)`: one compilation for all three."""
    loss, vector = flat(definition(problem), params)
    value, gradient = jax.value_and_grad(loss)(vector)
    return value, gradient, jax.jacfwd(jax.grad(loss))(vector)
