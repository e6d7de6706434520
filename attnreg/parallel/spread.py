"""Objectives whose rows are spread over a mesh, which every solver takes for ordinary ones.

`sharded` puts a whole function on the mesh. A fit that is a host loop, with a clock, a judge and checkpoints between
its steps, needs the objective itself there: each method of a `Spread` is one program on all devices, whose result every
device has.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from jax.sharding import Mesh, PartitionSpec

from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.base import Cache, Costs, Linearization, SecondOrderObjective, compiled
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.layer import LayerObjective
from attnreg.parallel.mesh import DATA, Over, make_mesh, place, problem_specs
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError, check_flag, pytree_dataclass, replaced
from attnreg.problems.layer import LayerRegression

_SAME = PartitionSpec()


def split(problem: AttentionRegression | LayerRegression, devices: int) -> Over:
    """What a problem's rows can be split over: its documents, or the queries of each where those do not divide.

    Args:
        problem: A1 (k, n, d1), or A of a layer, decides. Rows of a layer and causal rows are not split.
        devices: how many there are.

    Raises: ProblemError where neither divides by the devices.
    """
    k, n, *_ = problem.sizes
    if k % devices == 0:
        return "documents"
    whole = "a layer's" if isinstance(problem, LayerRegression) else "causal" if problem.causal else ""
    if n % devices == 0 and not whole:
        return "rows"
    rows = f"{whole} rows, which are not split," if whole else f"{n} rows each"
    raise ProblemError(
        f"the problem has {k} documents of {rows} for {devices} devices; choose a number of documents "
        f"{'' if whole else 'or of rows '}that is a multiple of {devices}, or fewer devices"
    )


def spread(objective: Any, mesh: Mesh | None = None, *, strict: bool = True) -> Any:
    """The objective with its rows over the devices of a mesh; the objective itself where there is one device.

    Args:
        objective: an `AttentionObjective`, a `FactoredObjective` or a `LayerObjective` of arrays (k, n, …) that every
            process has whole.
        mesh: with an axis "data"; None takes all devices of all processes.
        strict: False leaves an objective whose rows do not divide by the devices as it is.

    Precision: equal to one device up to the order of summation (tests/test_parallel.py).
    Raises: ProblemError where neither documents nor rows divide by the devices.
    """
    check_flag("strict", strict)
    mesh = make_mesh() if mesh is None else mesh
    if DATA not in mesh.shape:
        raise ProblemError(f"mesh has the axes {', '.join(mesh.shape)}; it must have an axis {DATA!r}")
    if mesh.size == 1:
        return objective
    try:
        over = split(objective.problem, mesh.shape[DATA])
    except ProblemError:
        if strict:
            raise
        return objective
    placed = place(objective.problem, mesh, problem_specs(objective.problem, over=over))
    return Spread(replaced(objective, problem=placed), mesh, over)


@pytree_dataclass("mesh", "over")
class Spread(SecondOrderObjective):
    """An objective of a problem that lies on a mesh; made by `spread`.

    Attributes:
        whole: the objective, of arrays (k, n, …) on all devices.
        mesh: has the axis "data".
        over: what that axis splits.
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none", "entries", "blocks")
    TRANSPOSABLE: ClassVar[bool] = False

    whole: AttentionObjective | FactoredObjective | LayerObjective
    mesh: Mesh
    over: Over

    def on_mesh(self, function: Callable[..., Any], *args: Any, specs: Any = None, out: Any = _SAME) -> Any:
        """`function(objective, *args)` on every device, whose objective adds up over all of them.

        Args:
            function: of an objective and arrays (…); what it returns must be alike on all devices, unless `out` says
                how it lies.
            args: arrays (…) that all devices have, or that lie as `specs`, one for each argument, say.
            specs: `PartitionSpec`s of the arguments.
            out: `PartitionSpec`s of the result.
        """

        def local(problem: Any, *args: Any) -> Any:
            return function(replaced(self.whole, problem=problem, axis_name=DATA), *args)

        rows = problem_specs(self.whole.problem, over=self.over)
        in_specs = (rows, *(specs or [_SAME] * len(args)))
        call = jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=out, check_vma=False)
        return jax.jit(call)(self.whole.problem, *args)

    def place(self, tree: Any) -> Any:
        """A pytree of arrays (…) that every process has, on all devices."""
        return place(tree, self.mesh, _SAME)

    def zeros(self) -> Any:
        """The unknowns, all zero."""
        return self.whole.zeros()

    def start(self) -> Any:
        """Where a solver starts, on all devices."""
        return self.on_mesh(lambda objective: objective.start())

    def costs(self) -> Costs:
        """Those of all devices together."""
        return self.whole.costs()

    @compiled()
    def value(self, x: Any) -> jax.Array:
        """The loss, a scalar."""
        return self.on_mesh(lambda objective, x: objective.value(x), x)

    @compiled()
    def value_and_grad(self, x: Any) -> tuple[jax.Array, Any]:
        """The loss, a scalar, and its gradient, shaped like x."""
        return self.on_mesh(lambda objective, x: objective.value_and_grad(x), x)

    @compiled("gauss_newton")
    def value_grad_hessian(self, x: Any, *, gauss_newton: bool = False) -> tuple[jax.Array, Any, jax.Array]:
        """Value, gradient and the dense Hessian (p, p)."""
        return self.on_mesh(lambda objective, x: objective.value_grad_hessian(x, gauss_newton=gauss_newton), x)

    @compiled()
    def preconditioner(self, x: Any) -> Any:
        """The preconditioner at x, on all devices."""
        return self.on_mesh(lambda objective, x: objective.preconditioner(x), x)

    @compiled()
    def rounding(self, x: Any) -> jax.Array:
        """The size of the rounding error in the gradient's norm at x, a scalar."""
        return self.on_mesh(lambda objective, x: objective.rounding(x), x)

    @compiled("gauss_newton", "cache")
    def linearize(self, x: Any, *, gauss_newton: bool = False, cache: Cache = "auto") -> "SpreadLinearization":
        """Value, gradient and Hessian-vector products at x; each device keeps what it caches of its own rows."""
        kinds = []

        def parts(objective: Any, x: Any) -> dict[str, Any]:
            line = objective.linearize(x, gauss_newton=gauss_newton, cache=cache)
            static = ((name, getattr(line, name)) for name in _STATIC if hasattr(line, name))
            kinds.append(Kind(type(line), tuple(static)))  # while tracing
            return {f.name: getattr(line, f.name) for f in dataclasses.fields(line) if f.name not in _NOT_KEPT}

        out = self._where(type(self.whole))
        kept = self.on_mesh(parts, x, out=out)
        return SpreadLinearization(kept["value"], kept["gradient"], kept, self, kinds[-1])

    def _where(self, kind: type) -> dict[str, Any]:
        """How the parts of a linearization lie: rows apart, the rest alike."""
        rows = PartitionSpec(DATA) if self.over == "documents" else PartitionSpec(None, DATA)
        found = {"value": _SAME, "gradient": _SAME, "kept": rows}
        if kind is AttentionObjective:
            return found | {"X": _SAME}
        if kind is LayerObjective:
            return found | {"x": _SAME}
        return found | {"x": _SAME, "projected": problem_specs(self.whole.problem, over=self.over)}


# Of a linearization: what is static, and that with the objective, which has the problem.
_STATIC = ("cache", "gauss_newton")
_NOT_KEPT = ("objective", *_STATIC)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a device's own linearization is: its class, and its static fields, such as which curvature it has."""

    line: type
    static: tuple[tuple[str, Any], ...]


@pytree_dataclass("kind")
class SpreadLinearization(Linearization):
    """A `Spread` at one point; value () and gradient (shaped like x) on all devices, `parts` (k, n, …) by rows."""

    value: jax.Array
    gradient: Any
    parts: dict[str, Any]
    objective: Spread
    kind: Kind

    @compiled()
    def hvp(self, v: Any) -> Any:
        """The Hessian times v, shaped like x."""

        def product(objective: Any, parts: dict[str, Any], v: Any) -> Any:
            return self.kind.line(objective=objective, **dict(self.kind.static), **parts).hvp(v)

        where = self.objective._where(type(self.objective.whole))
        return self.objective.on_mesh(product, self.parts, v, specs=(where, _SAME))
