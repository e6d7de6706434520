"""Convexity threshold and Newton's radius of single softmax regression, predicted by attnreg.bounds and observed."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from attnreg.bounds import Norms
from attnreg.bounds.ascent import ascend
from attnreg.bounds.newton_region import hessian_lipschitz, newton_radius, required_weight
from attnreg.bounds.quantities import row_loss
from attnreg.problems import losses
from experiments.runner.about import About, Metric
from experiments.runner.figures import PALETTE, canvas

ABOUT = About(
    "Convexity and Newton's region of softmax regression",
    "The weight that makes the loss convex and the radius from which Newton converges, predicted and observed.",
    (
        Metric("threshold_observed", "w² that a search finds to be needed", better=""),
        Metric("threshold_sharp", "w² that is proved to be enough"),
        Metric("radius", "proved radius of Newton over the observed one, largest", "", "radius_sharp_over_observed"),
        Metric("broken", "guarantees that failed"),
    ),
)


class GuaranteeBroken(AssertionError):
    """A predicted threshold or radius fails on an instance, which the message holds."""


class Region(NamedTuple):
    """Newton around one minimiser."""

    curvature: float
    sharp: float
    published: float
    observed: float


def run(config: Any, record: Any) -> dict[str, Any]:
    """Both parts over all radii; fails when a guarantee fails."""
    key = jax.random.key(config.seed)
    thresholds, regions = [], []
    for i, R in enumerate(config.radii):
        a, b = jax.random.split(jax.random.fold_in(key, i))
        thresholds.append((R, *threshold(a, R, config)))
        for case in ("regularized", "realizable"):
            for j in range(config.instances):
                regions.append((R, case, region(jax.random.fold_in(b, j), R, case, config)))
        record.log(i + 1, needed=thresholds[-1][1], observed=regions[-1][2].observed)
    sharp, published = (required_weight(config.l, 1.0, kind=k) - config.l for k in ("sharp", "published"))
    record.table(
        "threshold",
        ("R", "needed w² − l/σ²", "sharp", "published", "least curvature at the sharp weight", "wanted"),
        [(R, needed, sharp, published, least, config.l) for R, needed, least in thresholds],
    )
    record.table("radius", ("R", "case", "l at x*", "published 2l/3M", "sharp 2l/3M", "observed"), radius_rows(regions))
    record.figure("newton_region", figure(thresholds, regions, sharp, published))
    return {
        "threshold_observed": max(row[1] for row in thresholds),
        "threshold_sharp": sharp,
        "threshold_published": published,
        "radius_sharp_over_observed": max(r.sharp / r.observed for *_, r in regions),
        "radius_sharp_over_published": max(r.sharp / r.published for *_, r in regions),
        "broken": 0,
    }


def threshold(key: jax.Array, R: float, config: Any) -> tuple[float, float]:
    """The largest w² − l/σ_min² any sampled instance needs, after ascent, and the least curvature at the sharp w².

    With equal singular values R of A the logits are s = R Q x, and the Hessian is at least l exactly when
    `w² ≥ l/R² − λ_min(Qᵀ H(s) Q)`; v in the range of Q reaches λ_min, so the ascent is over (Q, x, v).
    """
    k1, k2, k3 = jax.random.split(key, 3)
    dtype = jnp.zeros(()).dtype
    W = jax.random.normal(k1, (config.points, config.n, config.d), dtype)
    x = jax.random.normal(k2, (config.points, config.d), dtype)
    v = jax.random.normal(k3, (config.points, config.d), dtype)
    z, scale = (W, x, v), jnp.asarray(R * R, dtype)
    start = _depths(z, scale)
    best = jnp.argsort(-start)[: min(config.points, 512)]  # all points are sampled, the deepest few climbed
    climbed = _climb(tuple(q[best] for q in z), scale, jnp.geomspace(0.5, 1e-3, config.ascent, dtype=dtype)[:-1])
    needed = max(float(jnp.max(start)), float(climbed))
    w2 = required_weight(config.l, R)
    least = R * R * (w2 - needed)
    if least < config.l * (1.0 - 1e-9):
        raise GuaranteeBroken(f"curvature {least} < l = {config.l} at w² = {w2}, R = {R}")
    return needed, least


def _depth(z: tuple, scale: jax.Array) -> jax.Array:
    """`−vᵀ Qᵀ H(s) Q v` for z = (W, x, v), Q = orth(W), s = scale · Q x, ‖x‖ ≤ 1, ‖v‖ = 1, b = e_1."""
    Q = jnp.linalg.qr(z[0])[0]
    b = jnp.zeros((Q.shape[0],), Q.dtype).at[0].set(1.0)
    s = scale * jnp.matmul(Q, z[1] / jnp.maximum(jnp.linalg.norm(z[1]), 1.0), precision="highest")
    along = jnp.matmul(Q, z[2] / jnp.linalg.norm(z[2]), precision="highest")

    def slope(t: jax.Array) -> jax.Array:
        return jax.jvp(lambda r: row_loss(r, b), (t,), (along,))[1]

    return -jax.jvp(slope, (s,), (along,))[1]


_depths = jax.jit(jax.vmap(_depth, (0, None)))


@jax.jit
def _climb(z: tuple, scale: jax.Array, lengths: jax.Array) -> jax.Array:
    """The largest depth along a normalized gradient ascent from every z."""

    def project(z: tuple) -> tuple:
        W, x, v = z
        return W, x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1.0), v

    return jnp.max(ascend(lambda q: _depth(q, scale), z, project=project, lengths=lengths).best)


def region(key: jax.Array, R: float, case: str, config: Any) -> Region:
    """Predicted and observed distance from which plain Newton converges to one minimiser x*.

    "regularized": random targets, `½w²‖Ax‖²` with the sharp weight. "realizable": b = softmax(A x*), no regularizer but
    the curvature that x* itself has; not convex, so that the observed region ends somewhere.
    """
    ka, kx, kb, kv = jax.random.split(key, 4)
    dtype = jnp.zeros(()).dtype
    A = R * jnp.linalg.qr(jax.random.normal(ka, (config.n, config.d), dtype))[0]
    x = jax.random.normal(kx, (config.d,), dtype)
    x = jnp.minimum(1.0, R / 2.0) * x / jnp.linalg.norm(x)
    w2, b = 0.0, jax.nn.softmax(jnp.matmul(A, x, precision="highest"))
    if case == "regularized":
        w2, x = required_weight(config.l, R), jnp.zeros_like(x)
        b = jnp.zeros((config.n,), dtype).at[jax.random.randint(kb, (), 0, config.n)].set(1.0)
    ends, _ = newton(x[None], A, b, w2, x, steps=60)
    star = ends[0]
    slope = float(jnp.linalg.norm(gradient(star, A, b, w2)))
    if not slope < 1e-10 * (1.0 + R):
        raise RuntimeError(f"Newton from 0 did not find a minimiser to study: gradient {slope} at R = {R}, {case}")
    curvature = float(jnp.linalg.eigvalsh(hessian(star, A, b, w2))[0])
    norms = Norms.ball("softmax", R, n1=1, n=config.n)
    radius = newton_radius(curvature, hessian_lipschitz(norms))
    published = newton_radius(curvature, hessian_lipschitz(norms, kind="published"))
    v = jax.random.normal(kv, (config.directions, config.d), dtype)
    v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
    distances = np.geomspace(radius / 4.0, config.far, config.distances)
    distances = np.unique(np.append(distances, 0.999 * radius))
    starts = star[None, None] + jnp.asarray(distances)[:, None, None] * v[None]
    ends, errors = newton(starts.reshape(-1, config.d), A, b, w2, star, steps=config.newton_steps)
    arrived = np.asarray(jnp.linalg.norm(ends - star[None], axis=1) < 1e-8).reshape(len(distances), -1)
    shrank = np.asarray(errors[1] <= errors[0]).reshape(arrived.shape)
    inside = distances < radius
    if not (arrived[inside].all() and shrank[inside].all()):
        raise GuaranteeBroken(f"Newton fails inside {radius} of x* = {star}, A = {A}, b = {b}, w² = {w2}")
    failed = ~arrived.all(axis=1)
    observed = float(distances[failed].min()) if failed.any() else config.far
    return Region(curvature, radius, published, observed)


def objective(x: jax.Array, A: jax.Array, b: jax.Array, w2: Any) -> jax.Array:
    """`‖softmax(Ax) − b‖² + ½ w² ‖Ax‖²`."""
    s = jnp.matmul(A, x, precision="highest")
    return losses.softmax_regression(x, A, b) + 0.5 * w2 * jnp.sum(s * s)


gradient = jax.jit(jax.grad(objective))
hessian = jax.jit(jax.hessian(objective))


@functools.partial(jax.jit, static_argnames="steps")
def newton(
    starts: jax.Array, A: jax.Array, b: jax.Array, w2: Any, star: jax.Array, *, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Plain undamped Newton from every start: where it ends, and ‖x − x*‖ before each step, (steps, starts)."""

    def step(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        move = jnp.linalg.solve(jax.hessian(objective)(x, A, b, w2), jax.grad(objective)(x, A, b, w2))
        return jnp.where(jnp.all(jnp.isfinite(move)), x - move, x), jnp.linalg.norm(x - star)

    ends, errors = jax.vmap(lambda x: jax.lax.scan(step, x, None, length=steps))(starts)
    return ends, errors.T


def radius_rows(regions: list) -> list[tuple]:
    """Medians over the instances of each radius and case."""
    groups: dict[tuple, list[Region]] = {}
    for R, case, r in regions:
        groups.setdefault((R, case), []).append(r)
    out = []
    for (R, case), rs in groups.items():
        median = [
            float(np.median([getattr(r, k) for r in rs])) for k in ("curvature", "published", "sharp", "observed")
        ]
        out.append((R, case, *median))
    return out


def figure(thresholds: list, regions: list, sharp: float, published: float) -> Figure:
    """Left: observed threshold and both predictions against R. Right: radii against R, log axis."""
    fig, axes = canvas(1, 2, width=3.4, height=2.6)
    left, right = axes[0]
    radii = [row[0] for row in thresholds]
    left.semilogy(radii, [row[1] for row in thresholds], "kx--", label="observed")
    left.axhline(sharp, color=PALETTE[0], label=f"sharp {sharp:.4f}")
    left.axhline(published, color=PALETTE[1], label=f"published {published:g}")
    left.set_title("w² − l/σ² that convexity needs")
    rows = [row for row in radius_rows(regions) if row[1] == "realizable"]
    x = [row[0] for row in rows]
    lines = ((3, "published", PALETTE[1], "s-"), (4, "sharp", PALETTE[0], "o-"), (5, "observed", "k", "x--"))
    for k, label, color, style in lines:
        right.semilogy(x, [row[k] for row in rows], style, markersize=3, color=color, label=label)
    right.set_title("Newton's radius, realizable x*")
    for panel in (left, right):
        panel.set_xlabel("R")
        panel.legend(fontsize=7)
    return fig
