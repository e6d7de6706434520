"""The table of losses: what cannot be registered, found or removed."""

import functools

import jax.numpy as jnp

from attnreg.problems import check_loss, find_loss, losses, register_loss, unregister_loss
from attnreg.rows import Curvature, RankTwo, RowTerms, kl, linear
from tests.contract.wrong_calls.row import Wrong

PLAIN = losses.linear_attention_regression


def register(name="mine", row=linear, definition=PLAIN, **options):
    return functools.partial(register_loss, name, row, definition, **options)


def changed(change):
    """A row function whose result is spoiled."""
    return lambda s, b, mask=None: change(kl(s, b, mask))


def of_curvature(change):
    return changed(lambda terms: terms._replace(hessian=change(terms.hessian)))


def no_mask(s, b):
    return linear(s, b)


def keyword_only(s, b, *, mask):
    return linear(s, b, mask)


def broken(s, b, mask=None):
    raise RuntimeError("no such function")


def unmasked(s, b, mask):
    return linear(s, b, mask.astype(bool))


def per_row(X, A1, A2, B, mask=None):
    return jnp.sum((A1 @ X @ A2.T - B) ** 2, axis=-1)


ROW = r"row of 'mine'"
CALLS = [
    Wrong("name a number", register(3), r"name is 3; it must be a string of letters, digits and underscores"),
    Wrong("name empty", register(""), r"name is ''; it must be a string"),
    Wrong("name with a space", register("my loss"), r"name is 'my loss'; it must be a string of letters"),
    Wrong("name of a shipped loss", register("kl"), r"name is 'kl', which is registered already; choose another name"),
    Wrong(
        "row a name",
        register(row="linear"),
        r"row is 'linear', a str; it must be a function called as row\(s, b, mask\)",
    ),
    Wrong(
        "row None", register(row=None), r"row is None, a NoneType; it must be a function called as row\(s, b, mask\)"
    ),
    Wrong(
        "row without mask",
        register(row=no_mask),
        r"row takes \(s, b\) \(too many positional arguments\); it must be .*row\(s, b, mask\)",
    ),
    Wrong(
        "row with a keyword mask",
        register(row=keyword_only),
        r"row takes \(s, b, \*, mask\) .*; it must be a function called as row",
    ),
    Wrong(
        "row fails",
        register(row=broken),
        r"row of 'mine' fails on arrays \(2, 3\), \(2, 3\) and mask=None: RuntimeError: no such function",
    ),
    Wrong(
        "row fails without a mask",
        register(row=unmasked),
        r"row of 'mine' fails on arrays .* and mask=None: AttributeError",
    ),
    Wrong(
        "row returns a tuple",
        register(row=lambda s, b, mask=None: (s, b)),
        rf"{ROW} returns a tuple; it must return RowTerms",
    ),
    Wrong(
        "value summed",
        register(row=changed(lambda t: t._replace(value=jnp.sum(t.value)))),
        rf"value of {ROW} has shape \(\); it must be shaped \(…,\), here \(2,\)",
    ),
    Wrong(
        "value per entry",
        register(row=changed(lambda t: t._replace(value=t.gradient))),
        rf"value of {ROW} has shape \(2, 3\); it must be",
    ),
    Wrong(
        "gradient summed",
        register(row=changed(lambda t: t._replace(gradient=t.value))),
        rf"gradient of {ROW} has shape \(2,\); it must be shaped \(…, m\)",
    ),
    Wrong(
        "gradient a float",
        register(row=changed(lambda t: t._replace(gradient=1.0))),
        rf"gradient of {ROW} has shape \(\); it must be",
    ),
    Wrong(
        "hessian an array",
        register(row=changed(lambda t: t._replace(hessian=t.gradient))),
        rf"hessian of {ROW} is a \w+; it must be a Curvature\(diag, low\)",
    ),
    Wrong(
        "gauss_newton missing",
        register(row=changed(lambda t: t._replace(gauss_newton=None))),
        rf"gauss_newton of {ROW} is a NoneType; it must be a Curvature",
    ),
    Wrong(
        "diag a scalar",
        register(row=of_curvature(lambda c: c._replace(diag=jnp.float32(1)))),
        rf"hessian.diag of {ROW} has shape \(\); it must be",
    ),
    Wrong(
        "diag of the other precision",
        register(row=of_curvature(lambda c: c._replace(diag=c.diag.astype(jnp.float64)))),
        rf"hessian.diag of {ROW} has dtype float64 for float32 input",
    ),
    Wrong(
        "low a tuple",
        register(row=of_curvature(lambda c: c._replace(low=tuple(c.low)))),
        rf"hessian.low of {ROW} is a tuple; it must be RankTwo\(u, v, uu, uv\) or None",
    ),
    Wrong(
        "low half given",
        register(row=of_curvature(lambda c: c._replace(low=c.low._replace(v=None)))),
        rf"hessian.low.v of {ROW} is a NoneType; it must be an array, shaped",
    ),
    Wrong(
        "low without coefficient",
        register(row=of_curvature(lambda c: c._replace(low=c.low._replace(uv=None)))),
        rf"hessian.low.uv of {ROW} is a NoneType",
    ),
    Wrong(
        "coefficient per entry",
        register(row=of_curvature(lambda c: c._replace(low=c.low._replace(uu=c.diag)))),
        rf"hessian.low.uu of {ROW} has shape \(2, 3\); it must be shaped \(…,\)",
    ),
    Wrong(
        "definition None",
        register(definition=None),
        r"definition is None, a NoneType; it must be a function called as definition\(X, A1, A2, B, mask\)",
    ),
    Wrong(
        "definition without mask",
        register(definition=lambda X, A1, A2, B: 0.0),
        r"definition takes \(X, A1, A2, B\) .*; it must be a function called as",
    ),
    Wrong(
        "definition of rows",
        register(definition=per_row),
        r"definition of 'mine' has shape \(2,\); it must be a scalar",
    ),
    Wrong(
        "definition returns a list",
        register(definition=lambda X, A1, A2, B, mask: [1.0]),
        r"definition of 'mine' is a list; it must be an array, a scalar",
    ),
    Wrong(
        "definition fails",
        register(definition=losses.softmax_regression),
        r"definition takes .*; it must be a function called as definition\(X, A1, A2, B, mask\)",
    ),
    Wrong("fits misspelt", register(fits="logit"), r"fits is 'logit'; it must be one of 'attention', 'logits'"),
    Wrong(
        "targets misspelt",
        register(targets="positive"),
        r"targets is 'positive'; it must be one of 'any', 'nonnegative'",
    ),
    Wrong("check a string", register(check="yes"), r"check is 'yes', a str; it must be True or False"),
    Wrong("unknown option", register(shape=(2,)), "unexpected keyword argument 'shape'", TypeError),
    Wrong(
        "find an unknown loss",
        lambda: find_loss("huber"),
        r"loss is 'huber'; it must be one of normalized, .*, kl, or a name of your own",
    ),
    Wrong("find None", lambda: find_loss(None), r"loss is None; it must be one of normalized"),
    Wrong("check an unknown loss", lambda: check_loss("huber"), r"loss is 'huber'; it must be one of"),
    Wrong("remove an unknown loss", lambda: unregister_loss("huber"), r"loss is 'huber'; it must be one of"),
    Wrong(
        "remove a shipped loss",
        lambda: unregister_loss("normalized"),
        r"name is 'normalized', a loss that ships with attnreg; only losses you registered",
    ),
    Wrong(
        "a curvature of four loose parts",
        lambda: Curvature(diag=jnp.ones(3), u=jnp.ones(3)),
        "unexpected keyword argument 'u'",
        TypeError,
    ),
    Wrong(
        "half a rank-two part",
        lambda: RankTwo(jnp.ones(3), jnp.ones(3), jnp.ones(())),
        "missing 1 required positional argument: 'uv'",
        TypeError,
    ),
    Wrong(
        "row terms without curvature",
        lambda: RowTerms(jnp.ones(()), jnp.ones(3)),
        "missing 2 required positional arguments",
        TypeError,
    ),
]
