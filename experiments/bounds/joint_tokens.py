"""Self-attention's Lipschitz constant in its tokens: attacked, against n, and on the layers of MiniLM."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds.ascent import ascend
from attnreg.bounds.domain import spectral_ceiling
from attnreg.bounds.joint_tokens import TOKEN_BOUNDS, TokenBound, TokenLimits, local_output, output
from attnreg.data import cache as model_cache
from attnreg.data.minilm.encoder import HEAD_WIDTH, HEADS, LAYERS, load_minilm
from attnreg.data.minilm.heads import head_of
from attnreg.data.minilm.instance import layer_inputs
from attnreg.data.minilm.texts import windows
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError
from experiments.runner.figures import MARKERS, PALETTE, canvas

ABOUT = About(
    "Self-attention in its tokens",
    "How far the map and the output of a head move when its tokens do: proved, attacked, and in a pretrained model.",
    (
        Metric("tightness", "measured over proved, largest", "", "attack.*.tightness", always=False),
        Metric("improved", "improved points of a bound, fewest", "higher", "improved.*", "min", False),
        Metric("local", "measured over proved at the document, median layer", "", "minilm.*.share", "median", False),
    ),
)
COLUMNS = ("quantity", "n", "a", "published", "product rule", "sharp", "measured", "tightness", "improved")
LAYER_COLUMNS = ("layer", "heads", "r", "measured", "at the document", "ball", "published", "share")


class Violation(AssertionError):
    """A document beats a proved constant: the message says which."""


def run(config: Any, record: Any) -> dict[str, Any]:
    """Both parts; fails when a proved constant is beaten."""
    if unknown := set(config.parts) - {"attack", "minilm"}:
        raise UsageError(f"config.parts has {unknown.pop()!r}; there are 'attack' and 'minilm'")
    out: dict[str, Any] = {}
    if "attack" in config.parts:
        out["attack"] = attack(config, record)
        out["improved"] = {
            name: sum(row["improved"] for row in out["attack"] if row["quantity"] == name) for name in TOKEN_BOUNDS
        }
    if "minilm" in config.parts:
        out["minilm"] = layers(config, record)
    return out


def attack(config: Any, record: Any) -> list[dict[str, Any]]:
    """One row a quantity, number of tokens and `a = r²‖X‖`; r = ‖Y‖ = 1, which scaling allows."""
    key, rows = jax.random.key(config.seed), []
    record.expect(len(TOKEN_BOUNDS) * len(config.n))
    for i, bound in enumerate(TOKEN_BOUNDS.values()):
        for n, starts in zip(config.n, config.starts, strict=True):
            for k, a in enumerate(config.a):
                limits = TokenLimits(n, 1.0, a, 1.0)
                drawn = starts_of(jax.random.fold_in(key, 10_000 * i + 100 * n + k), n, config.d, starts)
                found = _ascent(bound, drawn, jnp.asarray(a, drawn["Z"].dtype), config.steps)
                best, sharp = float(jnp.max(found.best)), bound.sharp(limits)
                if not best <= min(sharp, bound.product(limits)) * (1.0 + config.tolerance):
                    raise Violation(f"{bound.name}, n = {n}, a = {a}: found {best!r} > proved {sharp!r}")
                published = None if bound.published is None else bound.published(limits)
                values = (published, bound.product(limits), sharp, best, best / sharp, int(jnp.sum(found.kept)))
                rows.append(dict(zip(COLUMNS, (bound.name, n, a, *values), strict=True)))
            record.log(len(rows) // len(config.a), part="attack", tightness=rows[-1]["tightness"])
    record.table("attack", COLUMNS, [tuple(row.values()) for row in rows])
    record.figure("against_n", figure(rows, config))
    return rows


def starts_of(key: jax.Array, n: int, d: int, count: int) -> dict[str, jax.Array]:
    """Random documents, key matrices and directions; half of the documents have their tokens at a few places."""
    of_tokens, of_places, of_matrix, of_move, of_mix = jax.random.split(key, 5)
    Z = jax.random.normal(of_tokens, (count, n, d))
    places = jax.random.normal(of_places, (count, 3, d))
    chosen = jax.random.randint(of_mix, (count, n), 0, 3)
    clustered = jnp.take_along_axis(places, chosen[:, :, None], axis=1) + 0.1 * Z
    Z = jnp.where((jnp.arange(count) % 2 == 0)[:, None, None], Z, clustered)
    return {"Z": Z, "X": jax.random.normal(of_matrix, (count, d, d)), "V": jax.random.normal(of_move, (count, n, d))}


@functools.partial(jax.jit, static_argnames=("bound", "steps"))
def _ascent(bound: TokenBound, raw: dict[str, jax.Array], a: jax.Array, steps: int) -> Any:
    def value(raw: dict[str, jax.Array]) -> jax.Array:
        Z = raw["Z"] / jnp.maximum(jnp.sqrt(jnp.sum(raw["Z"] ** 2, axis=1, keepdims=True) + 1e-30), 1.0)
        X = a * raw["X"] / spectral_ceiling(raw["X"])
        V = raw["V"] / jnp.sqrt(jnp.sum(raw["V"] ** 2))
        eye, none = jnp.eye(Z.shape[1], dtype=Z.dtype), jnp.zeros(Z.shape[1], Z.dtype)
        moved = jax.jvp(lambda Z: bound.value(Z, X, eye, none), (Z,), (V,))[1]
        return jnp.sqrt(jnp.sum(moved**2) + 1e-30)

    return ascend(value, raw, project=lambda raw: raw, steps=steps)


def layers(config: Any, record: Any) -> list[dict[str, Any]]:
    """One row a layer of MiniLM, medians over its heads and the documents; fails when a limit is beaten."""
    if not model_cache.is_cached():
        record.say("minilm: the weights are not in the cache (python -m attnreg.data.tools.fetch_minilm): skipped")
        return []
    encoder, rows = load_minilm(), []
    ids = windows("docs", config.tokens, config.documents)
    for layer in range(LAYERS):
        heads = [weights(encoder, layer, head) for head in range(HEADS)]
        stacked = tuple(jnp.stack(parts) for parts in zip(*heads, strict=True))
        documents = jnp.asarray(layer_inputs(encoder, ids, layer), jnp.zeros(()).dtype)
        found = [layer_row(Z, stacked, config.powers) for Z in documents]
        row = {"layer": layer, "heads": HEADS}
        rows.append(row | {name: float(np.median([each[name] for each in found])) for name in found[0]})
        record.log(layer + 1, part="minilm", **rows[-1])
    record.table("minilm", LAYER_COLUMNS, [tuple(row.values()) for row in rows])
    return rows


def weights(encoder: Any, layer: int, head: int) -> tuple[jax.Array, ...]:
    """`X` (384, 384), the values `W_V` (384, 32), `W_O` (32, 384) and `c` (384,) of one head.

    Biases of keys add a constant to a row of logits, those of values one to all outputs: neither moves.
    """
    h, dtype = head_of(encoder, layer, head), jnp.zeros(()).dtype
    w_q, w_k, w_v, w_o, b_q = (jnp.asarray(z, dtype) for z in (h.w_q, h.w_k, h.w_v, h.w_o, h.b_q))
    scale = HEAD_WIDTH**-0.5
    return scale * w_q @ w_k.T, w_v, w_o, scale * w_k @ b_q


def layer_row(Z: jax.Array, heads: tuple[jax.Array, ...], powers: int) -> dict[str, float]:
    """Of one document, the median head's: the derivative's norm by power iteration, and three limits of it."""
    measured, local, sizes = (np.asarray(z) for z in _document(Z, heads, powers))
    r = float(np.linalg.norm(np.asarray(Z), axis=1).max())
    limits = [TokenLimits(Z.shape[0], r, *map(float, size)) for size in sizes]
    bound = TOKEN_BOUNDS["output"]
    assert bound.published is not None
    ball, published = (np.array([of(z) for z in limits]) for of in (bound.sharp, bound.published))
    if (measured > local * (1.0 + 1e-9)).any() or (local > ball * (1.0 + 1e-9)).any():
        raise Violation(f"measured {measured}, at the document {local}, on the ball {ball}")
    medians = (float(np.median(z)) for z in (measured, local, ball, published, measured / local))
    return dict(zip(LAYER_COLUMNS[2:], (r, *medians), strict=True))


@functools.partial(jax.jit, static_argnames="powers")
def _document(Z: jax.Array, heads: tuple[jax.Array, ...], powers: int) -> tuple[jax.Array, ...]:
    """Of every head: the norm of the derivative of what it writes, its limit, and the norms of X, Y and c."""
    start = jax.random.normal(jax.random.key(0), Z.shape, Z.dtype)

    def of_head(head: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        X, w_v, w_o, c = head
        Y = w_v @ jnp.linalg.cholesky(w_o @ w_o.T)  # (384, 32), with the norms of W_V W_O

        def written(Z: jax.Array) -> jax.Array:
            return output(Z, X, Y, c)

        back = jax.vjp(written, Z)[1]

        def power(V: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            moved = jax.jvp(written, (Z,), (V,))[1]
            V = back(moved)[0]
            return V / jnp.linalg.norm(V), jnp.linalg.norm(moved)

        norms = jax.lax.scan(power, start / jnp.linalg.norm(start), length=powers)[1]
        largest = [jnp.sqrt(jnp.linalg.eigvalsh(gram)[-1]) for gram in (X @ X.T, Y.T @ Y)]
        return norms[-1], local_output(Z, X, Y, c), jnp.stack([*largest, jnp.linalg.norm(c)])

    return jax.lax.map(of_head, heads)


def figure(rows: list[dict[str, Any]], config: Any) -> Any:
    """Measured and proved against n at the middle a, one panel a quantity."""
    drawn, axes = canvas(1, len(TOKEN_BOUNDS), width=3.4, height=2.8)
    a = config.a[len(config.a) // 2]
    for panel, name in zip(axes[0], TOKEN_BOUNDS, strict=True):
        chosen = [row for row in rows if row["quantity"] == name and row["a"] == a]
        for i, column in enumerate(("published", "product rule", "sharp", "measured")):
            values = [row[column] for row in chosen]
            if None not in values:
                panel.loglog(config.n, values, color=PALETTE[i], marker=MARKERS[i], label=column)
        panel.set(xlabel="tokens n", title=f"{name}, r²‖X‖ = {a}")
        panel.legend(fontsize=7)
    axes[0][0].set_ylabel("Lipschitz constant")
    return drawn
