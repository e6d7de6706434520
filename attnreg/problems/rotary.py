"""Rotary positions: pairs of projected columns that turn with the place of their token.

With the pair (x, y) of frequency θ read as the complex number `x + iy`, the token at position p turns it to
`e^{iθp}(x + iy)`. Queries and keys turn alike, so their inner products see the difference of positions only.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.problems.checks import ProblemError, check_choice, check_integer, check_number, pytree_dataclass
from attnreg.problems.reprs import compact_repr

Layout = Literal["half", "interleaved"]


@compact_repr
@dataclasses.dataclass(frozen=True, eq=False)
class Rotary:
    """How queries and keys turn with their positions.

    Args:
        width: w, how many columns turn, an even integer: the first w of a head; the others stay (partial rotary).
        base: of the frequencies `base^(−2f/w)`, f = 0, …, w/2 − 1.
        layout: which columns are a pair: "half" (f, f + w/2), as Llama, Mistral, Qwen and SmolLM store their weights,
            or "interleaved" (2f, 2f + 1), as GPT-J.
        frequencies: (w/2,) floats in place of those of the base, radians per position.
        positions: (…, n) real numbers, of the queries, leading axes as in the data; None is 0, …, n − 1.
        key_positions: (…, m) the same of the keys; None is `positions`, where that has as many.

    Precision: angles, cosines and sines are computed in float64 and then rounded to the dtype of the data.
    Cost: 4 numbers per position and frequency, once for a problem.

    Raises:
        ProblemError: an option of a wrong type or range; where a problem is built, positions that do not fit it.

    Source: arXiv 2104.09864; the formulas are in docs/theory/rotary.md.

    Example:
        >>> Rotary(4, base=100.0).angles([0.0, 1.0]).round(2).tolist()
        [[0.0, 0.0], [1.0, 0.1]]
    """

    width: int
    base: float = 1e4
    layout: Layout = "half"
    frequencies: np.ndarray | None = None
    positions: np.ndarray | None = None
    key_positions: np.ndarray | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            width: int,
            base: float = 1e4,
            layout: Layout = "half",
            frequencies: ArrayLike | None = None,
            positions: ArrayLike | None = None,
            key_positions: ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        check_integer("rotary.width", self.width, at_least=2)
        if self.width % 2:
            raise ProblemError(f"rotary.width is {self.width}; it must be even, as columns turn in pairs")
        check_number("rotary.base", self.base, above=0)
        check_choice("rotary.layout", self.layout, get_args(Layout))
        for name in ("frequencies", "positions", "key_positions"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _real(f"rotary.{name}", getattr(self, name)))
        if self.frequencies is not None and self.frequencies.shape != (self.width // 2,):
            raise ProblemError(
                f"rotary.frequencies has shape {self.frequencies.shape}; it must be ({self.width // 2},), one a pair"
            )

    def turns(self) -> np.ndarray:
        """The frequencies (w/2,), float64."""
        if self.frequencies is not None:
            return self.frequencies
        return float(self.base) ** (-np.arange(0, self.width, 2) / self.width)

    def angles(self, positions: ArrayLike) -> np.ndarray:
        """`θ_f p` for positions p (…), (…, w/2) float64."""
        return np.asarray(positions, np.float64)[..., None] * self.turns()

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the second columns of the pairs, (w/2,) integers each."""
        half = np.arange(self.width // 2)
        return (half, half + self.width // 2) if self.layout == "half" else (2 * half, 2 * half + 1)

    def turned(self, x: np.ndarray, positions: ArrayLike) -> np.ndarray:
        """Rows x (…, n, r) turned by their positions (n,), on the host in float64."""
        first, second = self.pairs()
        pairs = (x[..., first] + 1j * x[..., second]) * np.exp(1j * self.angles(positions))
        out = np.array(x, np.float64)
        out[..., first], out[..., second] = pairs.real, pairs.imag
        return out

    def bare(self) -> "Rotary":
        """The same without positions: what other documents can take."""
        return dataclasses.replace(self, positions=None, key_positions=None)

    def at(self, lead: tuple[int, ...], n: int, m: int, dtype: Any) -> "Rotation":
        """The turns of n queries and m keys of documents with these leading axes."""
        queries = np.arange(n) if self.positions is None else self.positions
        keys = self.key_positions
        if keys is None and self.positions is not None:
            if n != m:
                raise ProblemError(f"rotary.positions are given, but there are {n} queries and {m} keys; give "
                                   "rotary.key_positions too")  # fmt: skip
            keys = self.positions
        keys = np.arange(m) if keys is None else keys
        return Rotation(
            *self._tables("rotary.positions", queries, (*lead, n), dtype),
            *self._tables("rotary.key_positions", keys, (*lead, m), dtype),
            self.layout,
        )

    def _tables(
        self, name: str, positions: np.ndarray, full: tuple[int, ...], dtype: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines (k|1, n, w/2)."""
        try:
            fits = np.broadcast_shapes(positions.shape, full) == full and positions.shape[-1:] == full[-1:]
        except ValueError:
            fits = False
        if not fits:
            raise ProblemError(f"{name} has shape {positions.shape}; it must be {full}, or one row of it for all")
        if positions[..., 0].size > 1:
            positions = np.broadcast_to(positions, full)
        angles = self.angles(positions.reshape(-1, full[-1]))
        return jnp.asarray(np.cos(angles).astype(dtype)), jnp.asarray(np.sin(angles).astype(dtype))


@pytree_dataclass("layout")
class Rotation:
    """A `Rotary` at the positions of some documents: linear maps of queries and keys, and their transposes.

    Args:
        cos_q, sin_q: (k, n, w/2) floats, of the queries; one document where all have the same positions.
        cos_k, sin_k: (k, m, w/2) floats, the same of the keys.
        layout: as in `Rotary`.

    Source: docs/theory/rotary.md.
    """

    cos_q: jax.Array
    sin_q: jax.Array
    cos_k: jax.Array
    sin_k: jax.Array
    layout: Layout = "half"

    @property
    def width(self) -> int:
        """How many columns turn."""
        return 2 * self.cos_q.shape[-1]

    def queries(self, x: jax.Array, *, back: bool = False) -> jax.Array:
        """Projected queries x (k, n, r) or (k, h, n, r) turned, or turned `back`: the inverse, and the transpose."""
        return self._turned(x, self.cos_q, -self.sin_q if back else self.sin_q)

    def keys(self, x: jax.Array, *, back: bool = False) -> jax.Array:
        """The same of projected keys (k, m, r) or (k, h, m, r)."""
        return self._turned(x, self.cos_k, -self.sin_k if back else self.sin_k)

    def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """First columns (…, w/2), second columns (…, w/2) and columns that stay, of x (…, r)."""
        w, p = self.width, self.width // 2
        if self.layout == "half":
            return x[..., :p], x[..., p:w], x[..., w:]
        pairs = x[..., :w].reshape(*x.shape[:-1], p, 2)
        return pairs[..., 0], pairs[..., 1], x[..., w:]

    def joined(self, first: jax.Array, second: jax.Array, rest: jax.Array) -> jax.Array:
        """The columns that `split` has taken apart, (…, r)."""
        if self.layout == "half":
            return jnp.concatenate([first, second, rest], axis=-1)
        pairs = jnp.stack([first, second], axis=-1)
        return jnp.concatenate([pairs.reshape(*first.shape[:-1], self.width), rest], axis=-1)

    def largest(self, x: jax.Array) -> jax.Array:
        """At least |Rx| and |Rᵀx| in every entry, whatever the turn R, for x (…, r)."""
        first, second, rest = self.split(x)
        length = jnp.sqrt(first**2 + second**2)
        return self.joined(length, length, jnp.abs(rest))

    def documents(self, cut: Any) -> "Rotation":
        """The turns of some documents: `cut` of each table that has more than one."""
        return jax.tree.map(lambda table: cut(table) if table.shape[0] > 1 else table, self)

    def _turned(self, x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
        if x.ndim == cos.ndim + 1:
            cos, sin = cos[:, None], sin[:, None]
        first, second, rest = self.split(x)
        return self.joined(first * cos - second * sin, first * sin + second * cos, rest)


def checked_rotary(value: Any, lead: tuple[int, ...], n: int, m: int, dtype: Any) -> Rotation | None:
    """The turns of a problem's documents from a `Rotary`, or from the `Rotation` of a problem like it."""
    if value is None:
        return None
    if isinstance(value, Rotary):
        return value.at(lead, n, m, dtype)
    if not isinstance(value, Rotation):
        raise ProblemError(f"rotary is a {type(value).__name__}; it must be a Rotary, e.g. Rotary(width=64, base=1e4)")
    k = int(np.prod(lead, dtype=int))
    for name, length in (("cos_q", n), ("sin_q", n), ("cos_k", m), ("sin_k", m)):
        table = getattr(value, name)
        if table.ndim != 3 or table.shape[0] not in (1, k) or table.shape[1] != length or table.dtype != dtype:
            raise ProblemError(
                f"rotary was made for other data: its {name} is {table.shape} {table.dtype}, and must be "
                f"({k}, {length}, ·) {dtype}; give a Rotary"
            )
    return value


def check_rotary_width(rotary: Rotation | None, rank: int) -> None:
    """Refuse heads with fewer columns than turn."""
    if rotary is not None and rank < rotary.width:
        raise ProblemError(
            f"rank is {rank}, but rotary.width is {rotary.width}; a head must have all columns that turn"
        )


def _real(name: str, value: Any) -> np.ndarray:
    """A finite array of real numbers on the host, float64."""
    if isinstance(value, jax.core.Tracer):
        raise ProblemError(f"{name} is traced; it must be known when the problem is built, outside jit")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ProblemError(f"{name} is {value!r:.60}, not an array of real numbers") from None
    if array.ndim == 0 or array.size == 0:
        raise ProblemError(f"{name} has shape {array.shape}; it must have an entry per {_PER[name]}")
    if not np.isfinite(array).all():
        raise ProblemError(f"{name} has {int((~np.isfinite(array)).sum())} NaN or infinite entries")
    return array


_PER = {"rotary.frequencies": "pair", "rotary.positions": "query", "rotary.key_positions": "key"}
