"""The losses of an attention regression: one table, one row a loss. This is the only place that lists them.

A row pairs the closed form (`attnreg.rows`) with the plain definition that automatic differentiation can check it
against (`attnreg.problems.losses`). Losses of your own join the table with `register_loss`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from attnreg import rows
from attnreg.problems import losses
from attnreg.problems.checks import ProblemError, check_choice, check_flag
from attnreg.problems.losses import Definition
from attnreg.rows.curvature import Curvature, RankTwo, RowTerms

RowFunction = Callable[..., RowTerms]
Fits = Literal["attention", "logits"]
Targets = Literal["any", "nonnegative"]


class Loss(NamedTuple):
    """One row of the table of losses.

    Args:
        name: what `AttentionRegression(loss=...)` is given.
        row: the closed form. `row(s, b, mask)` takes logits s (…, m), targets b (…, m) and a boolean mask (…, m) or
            None, and returns `RowTerms`.
        definition: the same loss written plainly, for autodiff. `definition(X, A1, A2, B, mask)` takes X (d1, d2),
            A1 (n, d1), A2 (m, d2), B (n, m) and a mask (n, m) or None, and returns a scalar.
        fits: what B is a target of: the "attention" map, which a constant added to a row of logits leaves alone, or
            the "logits" themselves.
        targets: "any" real numbers, or "nonnegative" ones.
    """

    name: str
    row: RowFunction
    definition: Definition
    fits: Fits = "attention"
    targets: Targets = "any"


def _rescaled(activation: Callable[[jax.Array], jax.Array]) -> Definition:
    return functools.partial(losses.rescaled_attention_regression, activation=activation)


SHIPPED = (
    Loss("normalized", rows.normalized, losses.attention_regression),
    Loss("rescaled", rows.rescaled, losses.rescaled_attention_regression),
    Loss("cosh_rescaled", rows.cosh_rescaled, _rescaled(jnp.cosh)),
    Loss("sinh_rescaled", rows.sinh_rescaled, _rescaled(jnp.sinh)),
    Loss("linear", rows.linear, losses.linear_attention_regression, fits="logits"),
    Loss("kl", rows.kl, losses.kl_attention_regression, targets="nonnegative"),
)
_TABLE = {loss.name: loss for loss in SHIPPED}


def loss_names() -> tuple[str, ...]:
    """The names of all registered losses, shipped ones first.

    Returns:
        A tuple of names, in the order of registration.

    Example:
        >>> loss_names()[:2]
        ('normalized', 'rescaled')
    """
    return tuple(_TABLE)


def find_loss(name: str) -> Loss:
    """The registered loss of a name.

    Args:
        name: one of `loss_names()`.

    Returns:
        Its row of the table.

    Raises:
        ProblemError: the name is not registered; the message lists those that are.

    Example:
        >>> find_loss("linear").fits
        'logits'
    """
    if not isinstance(name, str) or name not in _TABLE:
        raise ProblemError(
            f"loss is {name!r}; it must be one of {', '.join(_TABLE)}, or a name of your own given to register_loss"
        )
    return _TABLE[name]


def register_loss(
    name: str,
    row: RowFunction,
    definition: Definition,
    *,
    fits: Fits = "attention",
    targets: Targets = "any",
    check: bool = False,
) -> Loss:
    """Add a loss to the table: `AttentionRegression(..., loss=name)` and everything built on it then work.

    Args:
        name: a new name.
        row: the closed form, `row(s, b, mask) -> RowTerms`; see `Loss`.
        definition: the same loss written plainly, `definition(X, A1, A2, B, mask) -> scalar`; see `Loss`.
        fits: "attention" or "logits", what B is a target of.
        targets: "any" or "nonnegative", what B may hold.
        check: compare value, gradient and curvature with autodiff of the definition (`check_loss`) first.

    Returns:
        The new row of the table.

    Cost: both functions are traced once on abstract arrays; `check=True` compiles a small program.

    Raises:
        ProblemError: the name is taken or not a name; a function cannot be called as described or returns something
            else; with `check`, the closed form differs from autodiff of its definition. Nothing is registered then.

    Example:
        >>> import jax.numpy as jnp
        >>> from attnreg.problems.losses import linear_attention_regression
        >>> from attnreg.rows import linear
        >>> register_loss("my_linear", linear, linear_attention_regression, fits="logits", check=True).name
        'my_linear'
        >>> unregister_loss("my_linear")
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ProblemError(f"name is {name!r}; it must be a string of letters, digits and underscores, e.g. 'huber'")
    if name in _TABLE:
        cure = "choose another name" if _shipped(name) else f"choose another, or call unregister_loss({name!r}) first"
        raise ProblemError(f"name is {name!r}, which is registered already; {cure}")
    check_choice("fits", fits, get_args(Fits))
    check_choice("targets", targets, get_args(Targets))
    check_flag("check", check)
    _check_call("row", row, ("s", "b", "mask"))
    _check_call("definition", definition, ("X", "A1", "A2", "B", "mask"))
    loss = Loss(name, row, definition, fits, targets)
    for mask in (False, True):
        _check_row_result(loss, mask)
        _check_definition_result(loss, mask)
    if check:
        from attnreg.problems.verify import verify  # differentiates: not part of building a problem

        verify(loss)
    _TABLE[name] = loss
    return loss


def unregister_loss(name: str) -> None:
    """Remove a loss that `register_loss` added, and every program that JAX has compiled, as those know only its name.

    Args:
        name: a registered name that is not a shipped one.

    Raises:
        ProblemError: no such name, or a shipped loss.
    """
    find_loss(name)
    if _shipped(name):
        raise ProblemError(f"name is {name!r}, a loss that ships with attnreg; only losses you registered can go")
    del _TABLE[name]
    jax.clear_caches()


def _shipped(name: str) -> bool:
    return any(loss.name == name for loss in SHIPPED)


def _check_call(what: str, function: Any, arguments: tuple[str, ...]) -> None:
    """Refuse what cannot be called with these positional arguments."""
    wanted = f"a function called as {what}({', '.join(arguments)})"
    if not callable(function):
        raise ProblemError(f"{what} is {function!r}, a {type(function).__name__}; it must be {wanted}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise ProblemError(f"{what} takes {inspect.signature(function)} ({error}); it must be {wanted}") from None
    except ValueError:
        return  # a builtin without a signature: tracing it tells


def _traced(loss: Loss, what: str, *shapes: tuple[int, ...], mask: bool) -> Any:
    """The abstract result of one of the loss's functions on float32 arrays; the last shape is the mask's."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    masks = jax.ShapeDtypeStruct(shapes[-1], bool) if mask else None
    try:
        return jax.eval_shape(getattr(loss, what), *arrays, masks)
    except Exception as error:
        given = f"arrays {', '.join(map(str, shapes))} and {'a mask' if mask else 'mask=None'}"
        raise ProblemError(
            f"{what} of {loss.name!r} fails on {given}: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error


def _check_row_result(loss: Loss, mask: bool) -> None:
    found = _traced(loss, "row", (2, 3), (2, 3), mask=mask)
    if not isinstance(found, RowTerms):
        raise ProblemError(f"row of {loss.name!r} returns a {type(found).__name__}; it must return RowTerms")
    row, whole = (2,), (2, 3)
    parts: dict[str, tuple[Any, tuple[int, ...], str]] = {
        "value": (found.value, row, "(…,)"),
        "gradient": (found.gradient, whole, "(…, m)"),
    }
    for name, curvature in (("hessian", found.hessian), ("gauss_newton", found.gauss_newton)):
        if not isinstance(curvature, Curvature):
            raise ProblemError(
                f"{name} of row of {loss.name!r} is a {type(curvature).__name__}; it must be a Curvature(diag, low)"
            )
        parts[f"{name}.diag"] = (curvature.diag, whole, "(…, m)")
        low = curvature.low
        if low is not None and not isinstance(low, RankTwo):
            have = f"{name}.low of row of {loss.name!r} is a {type(low).__name__}"
            raise ProblemError(f"{have}; it must be RankTwo(u, v, uu, uv) or None")
        if low is not None:
            parts |= {f"{name}.low.{part}": (getattr(low, part), whole, "(…, m)") for part in ("u", "v")}
            parts |= {f"{name}.low.{part}": (getattr(low, part), row, "(…,)") for part in ("uu", "uv")}
    for name, (array, shape, letters) in parts.items():
        _check_part(f"{name} of row of {loss.name!r}", array, shape, f"shaped {letters}, here {shape}")


def _check_definition_result(loss: Loss, mask: bool) -> None:
    found = _traced(loss, "definition", (4, 5), (2, 4), (3, 5), (2, 3), mask=mask)
    _check_part(f"definition of {loss.name!r}", found, (), "a scalar")


def _check_part(what: str, array: Any, shape: tuple[int, ...], wanted: str) -> None:
    have = getattr(array, "shape", None)
    if have is None:
        raise ProblemError(f"{what} is a {type(array).__name__}; it must be an array, {wanted}")
    if have != shape:
        raise ProblemError(f"{what} has shape {have}; it must be {wanted}")
    if array.dtype != jnp.float32:
        raise ProblemError(f"{what} has dtype {array.dtype} for float32 input; it must keep the dtype of its input")
