"""Many devices: documents (or rows) of a problem over one mesh axis, starts or seeds over another.

The objective is a sum over rows, so each device keeps its documents and only sums travel: the value, the gradient
(d1·d2 numbers), a Hessian (packed) or a Hessian-vector product. Data are never gathered. Everything a solver does
besides is small and is done alike on every device, so that solvers run inside unchanged.

Axes are `Auto`: under the `Explicit` axes that `jax.make_mesh` makes by default, `A1ᵀ Γ A2` with a split row axis is a
type error.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression, Teacher
from attnreg.problems.checks import ProblemError, check_choice, check_integer, replaced
from attnreg.problems.layer import LayerRegression

Over = Literal["documents", "rows"]
Starts = Literal["vmap", "map"]
DATA = "data"
STARTS = "starts"


def make_mesh(axes: Mapping[str, int] | None = None) -> Mesh:
    """A mesh of `Auto` axes over all devices of all processes, by default one `data` axis.

    Args:
        axes: axis name to size, e.g. `{"data": 4, "starts": 2}`; the sizes' product must be the number of devices.

    Example:
        >>> make_mesh({"data": 1, "starts": 1}).axis_names
        ('data', 'starts')
    """
    if not isinstance(axes, Mapping | None) or axes == {}:
        raise ProblemError(f"axes is {axes!r}; it must name each axis and its size, e.g. {{'data': 4, 'starts': 2}}")
    axes = {DATA: jax.device_count()} if axes is None else dict(axes)
    for name, size in axes.items():
        check_integer(f"axes[{name!r}]", size, at_least=1)
    sizes = tuple(axes.values())
    if math.prod(sizes) != jax.device_count():
        raise ValueError(f"the mesh {axes} has {math.prod(sizes)} places, but there are {jax.device_count()} devices")
    return jax.make_mesh(sizes, tuple(axes), axis_types=(AxisType.Auto,) * len(sizes))


def shared_mesh() -> Mesh | None:
    """`make_mesh()` where there are several devices to share the work, else None: what a fit takes as `mesh`.

    Example:
        >>> (shared_mesh() is None) == (jax.device_count() == 1)
        True
    """
    return make_mesh() if jax.device_count() > 1 else None


def problem_specs(problem: AttentionRegression | LayerRegression, *, over: Over = "documents", axis: str = DATA) -> Any:
    """A pytree like `problem` of the `PartitionSpec` of each leaf.

    Over documents, A1, A2 and B are split; over rows, A1 and B are split and every device holds all keys. Masks and
    weights are split along an axis they really have and replicated along one that broadcasts. Rows of a layer, whose
    keys are its queries, are not split.
    """
    check_choice("over", over, get_args(Over))
    if isinstance(problem, LayerRegression):
        if over == "rows":
            raise ValueError("a layer cannot be split over rows, which are its keys too: split over documents")
        each, alike = PartitionSpec(axis), PartitionSpec()
        return jax.tree.map(lambda leaf: each if leaf.ndim > 1 and leaf.shape[0] > 1 else alike, problem)
    if over == "rows" and problem.causal:
        raise ValueError("causal=True cannot be split over rows, whose position it needs: give an explicit mask")
    place = 0 if over == "documents" else 1

    rows = PartitionSpec(*[axis if i == place else None for i in range(3)])
    keys = rows if over == "documents" else PartitionSpec()

    def where_full(leaf: Any) -> PartitionSpec | None:
        return None if leaf is None else rows if leaf.shape[place] > 1 else PartitionSpec()

    targets = problem.B
    if over == "rows" and problem.rotary is not None:
        raise ValueError("rotary cannot be split over rows, whose positions it needs: split over documents")
    number = PartitionSpec()
    specs = {
        "scale": None if problem.scale is None else number,
        "soft_cap": None if problem.soft_cap is None else number,
        "rotary": jax.tree.map(where_full, problem.rotary),
        "A1": rows,
        "A2": keys,
        "B": replaced(targets, Q=rows, K=keys) if isinstance(targets, Teacher) else rows,
        "mask": where_full(problem.mask),
        "weight": where_full(problem.weight),
        "ridge": number,
    }
    return replaced(problem, **specs)


def place(tree: Any, mesh: Mesh, specs: Any) -> Any:
    """Put host arrays on the mesh; on many processes each passes the same global arrays and keeps its own part.

    Args:
        tree: a pytree of arrays, e.g. an `AttentionRegression`.
        mesh: from `make_mesh`.
        specs: a matching pytree of `PartitionSpec`, or one for all leaves.
    """
    if isinstance(specs, PartitionSpec):
        specs = jax.tree.map(lambda _: specs, tree)

    def put(leaf: Any, spec: PartitionSpec) -> jax.Array:
        _check_divides(leaf, mesh, spec)
        sharding = NamedSharding(mesh, spec)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf), spec), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, specs)


def _check_divides(leaf: Any, mesh: Mesh, spec: PartitionSpec) -> None:
    for i, name in enumerate(spec):
        if name is not None and name not in mesh.shape:
            raise ProblemError(f"mesh has the axes {', '.join(mesh.shape)}; it must have an axis {name!r}")
        if name is not None and leaf.shape[i] % mesh.shape[name]:
            raise ValueError(
                f"an array of shape {leaf.shape} cannot be split over axis {i}: {leaf.shape[i]} is not a multiple of "
                f"the {mesh.shape[name]} devices of mesh axis {name!r}; choose another mesh, or over='rows'"
            )


def sharded(
    function: Callable[..., Any], mesh: Mesh, *, over: Over = "documents", starts: Starts | None = None
) -> Callable[..., Any]:
    """`function(objective, *args)` with the objective's rows spread over the mesh's `data` axis.

    The result is `g(problem, *args)`, to be jitted, for a problem placed with `problem_specs` (or not: then XLA moves
    it). `function` runs on every device with an `AttentionObjective` whose sums are all-reduced; it may be a whole
    solver. Its results must not depend on the device otherwise.

    Args:
        function: of an `AttentionObjective` and arrays.
        mesh: from `make_mesh`.
        over: what the `data` axis splits; see `problem_specs`.
        starts: with "vmap" or "map", every array of `args` and of the result has a leading axis, spread over the mesh's
            `starts` axis and mapped: at once, or one after another. On virtual CPU devices a vmapped Cholesky or LU
            next to an all-reduce hangs in XLA's thread pool (seen with jaxlib 0.10.2; not on one device a process):
            use "map" there, or factorise in a second program as experiments/benchmarks/scaling.py does.

    Precision: equal to one device up to the order of summation (tests/test_parallel.py, in units of eps).
    Cost: one all-reduce of value and gradient for `value_and_grad`, with the packed Hessian for a Hessian, of one
    (d1, d2) matrix for a product; no all-gather (tests/test_parallel.py reads the compiled program).
    Raises: ValueError when an axis does not divide by its devices, `causal` meets over="rows", or the mesh lacks an
    axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attnreg.problems.attention import AttentionRegression
        >>> problem = AttentionRegression(jnp.eye(3), jnp.eye(3), jnp.full((3, 3), 1 / 3))
        >>> mesh = make_mesh({"data": jax.device_count()})
        >>> value = jax.jit(sharded(lambda objective, x: objective.value(x), mesh))
        >>> bool(value(problem, jnp.zeros((3, 3))) < 1e-12)
        True
    """

    check_choice("over", over, get_args(Over))
    check_choice("starts", starts, (None, *get_args(Starts)))
    for name in (DATA,) if starts is None else (DATA, STARTS):
        if name not in mesh.shape:
            raise ProblemError(f"mesh has the axes {', '.join(mesh.shape)}; it must have an axis {name!r}")

    def local(problem: AttentionRegression, *args: Any) -> Any:
        objective = AttentionObjective(problem, axis_name=DATA)
        if starts is None:
            return function(objective, *args)
        if starts == "vmap":
            return jax.vmap(functools.partial(function, objective))(*args)
        return jax.lax.map(lambda each: function(objective, *each), args)

    def whole(problem: AttentionRegression, *args: Any) -> Any:
        specs = problem_specs(problem, over=over)
        jax.tree.map(lambda leaf, spec: _check_divides(leaf, mesh, spec), problem, specs)
        spread = PartitionSpec() if starts is None else PartitionSpec(STARTS)
        # check_vma: sums start alike on all devices and differ until the psum, which its types cannot say of a loop.
        call = jax.shard_map(
            local, mesh=mesh, in_specs=(specs, *[spread for _ in args]), out_specs=spread, check_vma=False
        )
        return call(problem, *args)

    return whole
