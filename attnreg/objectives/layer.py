"""The objective of a self-attention layer in the factors of its heads, in closed form and streamed over documents."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift.streaming import BlockRule, block_rule
from attnreg.objectives import layer_blocks as lb
from attnreg.objectives import layer_documents as ld
from attnreg.objectives.base import Cache, Costs, SecondOrderObjective, by_products, compiled
from attnreg.objectives.layer_linearized import LayerLinearization
from attnreg.objectives.layer_preconditioner import LayerPreconditioner, signs, sums
from attnreg.objectives.row_terms import all_devices, over_devices
from attnreg.problems.checks import ProblemError, check_integer, pytree_dataclass
from attnreg.problems.layer import LayerRegression, LayerWeights
from attnreg.problems.rotary import check_rotary_width

# What `cache="auto"` may keep: the maps of 100 documents of 256 tokens take 39 MB a head.
LAYER_CACHE_BYTES = 2**29


@pytree_dataclass("heads", "rank", "value_rank", "block_documents", "key_heads", "axis_name")
class LayerObjective(SecondOrderObjective):
    """`‖Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h − B‖²` in the unknowns `LayerWeights`.

    Args:
        problem: the data.
        heads, rank: h and r.
        value_rank: s, the inner width of V O; None takes V (h, d, c) whole and no O.
        block_documents: documents per streamed block, or an `attnreg.lift.streaming.BlockRule`; None takes the rule of
            the platform.
        key_heads: g, how many heads of keys (and values, where there is an O) the h heads of queries share, a divisor
            of h; None is h.
        axis_name: inside `shard_map`, the mesh axis over which documents are split; sums are then `psum`s.

    Precision: value, gradient and products agree with autodiff of the plain loss to a small multiple of eps × natural
    scale, in float64 and float32 (tests/objectives/test_layer.py).
    Cost: value and gradient per head and document `6·n·d·(2r + s)` + `10·n²·r` flops (s = r) and one exp per entry of
    the map; a Gauss–Newton product with cached maps `4·n·d·(2r + s)` + `16·n²·r`. Memory: the data, one block of maps
    (a document of one block is never split), and with a cache `h·n·(n + 2r + 2s)` numbers per document.
    Raises: ProblemError for options, and for weights that do not fit the data.
    Source: derived in `attnreg.objectives.layer_blocks`.

    Example:
        >>> import jax.numpy as jnp
        >>> objective = LayerObjective(LayerRegression(jnp.eye(3), jnp.full((3, 2), 1 / 3)), heads=1, rank=1)
        >>> value, gradient = objective.value_and_grad(objective.zeros())
        >>> gradient.V.shape
        (1, 3, 2)
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none", "entries")
    TRANSPOSABLE: ClassVar[bool] = False  # `layer_blocks.push_forward` has v on both sides of one product

    problem: LayerRegression
    heads: int = 1
    rank: int = 32
    value_rank: int | None = None
    block_documents: int | BlockRule | None = None
    key_heads: int | None = None
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_integer("heads", self.heads, at_least=1)
        check_integer("rank", self.rank, at_least=1)
        object.__setattr__(self, "block_documents", block_rule(self.block_documents, ld.CPU_RULE))
        for name in ("value_rank", "block_documents", "key_heads"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), BlockRule):
                check_integer(name, getattr(self, name), at_least=1)
        if self.key_heads is not None and self.heads % self.key_heads:
            raise ProblemError(
                f"key_heads is {self.key_heads}; it must divide heads, {self.heads}: equally many queries share each"
            )
        check_rotary_width(self.problem.rotary, self.rank)

    def _shapes(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Shapes of Q, K, V and O."""
        (_, _, d, c), h, s = self.problem.sizes, self.heads, self.value_rank
        Q, K = (h, d, self.rank), (self.key_heads or h, d, self.rank)
        return (Q, K, (h, d, c), None) if s is None else (Q, K, (K[0], d, s), (h, s, c))

    def zeros(self) -> LayerWeights:
        """All zero, a saddle: start from `small_start`."""
        return LayerWeights._make(None if s is None else jnp.zeros(s, self.problem.dtype) for s in self._shapes())

    def start(self) -> LayerWeights:
        """`small_start` from key 0."""
        return self.small_start(jax.random.key(0))

    def small_start(self, key: jax.Array, scale: float = 0.2) -> LayerWeights:
        """Random weights whose logits have standard deviation about scale²·√(r/d) for inputs of unit variance.

        Small logits keep the maps near uniform at first; from there the heads grow direction by direction, which finds
        the basin of sharp heads too. From larger ones they end in a local minimum.
        """
        dtype, d = self.problem.dtype, self.problem.sizes[2]
        keys = jax.random.split(key, 4)
        # The problem's own scale of the logits is made up for.
        of_logits = scale if self.problem.scale is None else scale / jnp.sqrt(self.problem.scale)
        sizes = (of_logits, of_logits, 0.1 if self.value_rank is None else 1.0, 0.1)
        fan = (d, d, d, self.value_rank)

        def draw(key, shape, size, width):
            return (
                None if shape is None else size * jax.random.normal(key, shape, dtype) / jnp.sqrt(width).astype(dtype)
            )

        return LayerWeights._make(draw(*of) for of in zip(keys, self._shapes(), sizes, fan, strict=True))

    def costs(self) -> Costs:
        """From the formulas of the class docstring."""
        k, n, d, c = self.problem.sizes
        s = self.value_rank or c
        per_head = 6.0 * n * d * (2 * self.rank + s) + 2.0 * n * n * (3 * self.rank + 3 * s)
        gradient = k * all_devices(self.axis_name) * self.heads * per_head
        p = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(self.zeros)))
        return Costs(gradient, 2 * p * gradient, p)

    def _per_block(self) -> int:
        return ld.documents_per_block(self.problem, self.heads, self.block_documents)

    def _sum(self, emit: Callable[[Any, Any], Any], kept: Any = None) -> Any:
        """`Σ emit(documents, kept of the block)` over all blocks of all devices."""
        total = ld.sum_over_documents(self.problem, self._per_block(), emit, kept)
        return over_devices(total, self.axis_name)

    @compiled()
    def predict(self, weights: LayerWeights) -> jax.Array:
        """The outputs, (k, n, c); rows that count for nothing are 0 where their mask allows no key."""
        (k, n, _, c), per = self.problem.sizes, self._per_block()

        def body(i, out):
            part = lb.written(lb.run_heads(ld.block(self.problem, i, per), weights).z, weights.O)
            return jax.lax.dynamic_update_slice_in_dim(out, part, jnp.minimum(i * per, k - per), 0)

        return jax.lax.fori_loop(0, ld.blocks_of(self.problem, per), body, jnp.zeros((k, n, c), self.problem.dtype))

    @compiled()
    def maps(self, weights: LayerWeights) -> jax.Array:
        """Every head's map of every document, (k, h, n, n), all at once."""
        return lb.run_heads(ld.block(self.problem, 0, self.problem.sizes[0]), weights).F

    @compiled()
    def value(self, x: LayerWeights) -> jax.Array:
        """The loss."""

        def emit(documents, _):
            r = lb.residual(documents, lb.run_heads(documents, x), x.O)
            return jnp.sum(r * r)

        return self._sum(emit)

    @compiled()
    def value_and_grad(self, x: LayerWeights) -> tuple[jax.Array, LayerWeights]:
        """The loss and its gradient."""

        def emit(documents, _):
            heads = lb.run_heads(documents, x)
            r = lb.residual(documents, heads, x.O)
            return jnp.sum(r * r), lb.pull_back(documents, heads, x, 2 * r)

        return self._sum(emit)

    @compiled("gauss_newton", "cache")
    def linearize(self, x: LayerWeights, *, gauss_newton: bool = False, cache: Cache = "auto") -> LayerLinearization:
        """Value, gradient and products at x; cache "entries" keeps what the heads make of every document, or "none"."""
        k, n, _, c = self.problem.sizes
        if cache == "auto":
            maps = 1 if self.problem.soft_cap is None else 3
            numbers = k * self.heads * n * (maps * n + 2 * self.rank + 2 * (self.value_rank or c))
            fits = numbers * jnp.finfo(self.problem.dtype).bits // 8 <= LAYER_CACHE_BYTES
            cache = "entries" if fits else "none"
        value, gradient = self.value_and_grad(x)
        kept = None
        if cache == "entries":
            per = self._per_block()
            every = jnp.arange(ld.blocks_of(self.problem, per), dtype=jnp.int32)
            kept = jax.lax.map(lambda i: lb.run_heads(ld.block(self.problem, i, per), x), every)
        return LayerLinearization(value, gradient, x, kept, self, gauss_newton)

    @compiled("gauss_newton")
    def value_grad_hessian(
        self, x: LayerWeights, *, gauss_newton: bool = False
    ) -> tuple[jax.Array, LayerWeights, jax.Array]:
        """Value, gradient and the dense Hessian by one product per unknown: for small sizes."""
        line = self.linearize(x, gauss_newton=gauss_newton)
        return line.value, line.gradient, by_products(line, x)

    @compiled()
    def preconditioner(self, x: LayerWeights) -> LayerPreconditioner:
        """A Kronecker factor per head and unknown, from every document.

        A part of the documents would not do: a token that it lacks makes a direction without curvature, and conjugate
        gradients then need five times as many products.

        Cost: about that of six products, and O(h d³) for eigendecompositions.
        """
        probes = signs(self.problem.sizes[3], self.problem.dtype)
        total = self._sum(lambda documents, _: sums(documents, lb.run_heads(documents, x), x, probes))
        return LayerPreconditioner.of(total, x, self.problem.sizes[3])
