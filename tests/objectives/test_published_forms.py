"""Every closed form that the papers print, against autodiff of the definition it is printed for.

One row a form, with its verdict: "right as printed", or "wrong as printed" with the form that is true. A wrong row must
differ by far more than rounding, and its correction must not. docs/theory/errata.md has the derivations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.problems import losses
from tests.oracles import published as P

RIGHT, WRONG = "right as printed", "wrong as printed, corrected"
N, D = 5, 3
EPS = float(jnp.finfo(jnp.float64).eps)
# Median relative errors of the two wrong kernels over instances of unit-variance logits.
XX_MEDIAN, XY_MEDIAN = 0.807, 1.832


class Instance(NamedTuple):
    """One query a (d,), keys A2 (n, d), A3 (n, d), x (d²,), y (d,), target b, and targets of a single regression."""

    a: np.ndarray
    A2: np.ndarray
    A3: np.ndarray
    x: np.ndarray
    y: np.ndarray
    b: float
    targets: np.ndarray

    @property
    def block(self):
        """`A_[j] = a_jᵀ ⊗ A2`, (n, d²)."""
        return np.kron(self.a[None, :], self.A2)

    @property
    def entry(self):
        return P.entry(self.block, self.A3, self.x, self.y, self.b)


def instance(seed) -> Instance:
    rng = np.random.default_rng(seed)
    shapes = ((D,), (N, D), (N, D), (D * D,), (D,))
    drawn = (rng.normal(size=s) / D**0.5 for s in shapes)
    return Instance(*drawn, float(rng.normal()) / D**0.5, rng.dirichlet(np.ones(N)))


def half(z: Instance, x, y):
    """`½ c²` by the library's plain loss: one query, one output."""
    arrays = (z.a[None], z.A2, z.A3, jnp.full((1, 1), z.b))
    return losses.one_layer_attention(x.reshape(D, D), y[:, None], *arrays) / 2


@jax.jit
def autodiff(z: Instance):
    """What every form should be, by name: derivatives of the definitions, in one compiled program."""
    A, eye = jnp.kron(z.a[None], z.A2), jnp.eye(N)
    blocks = {
        "u": lambda x: jnp.exp(A @ x),
        "alpha": lambda x: jnp.sum(jnp.exp(A @ x)),
        "alpha_inverse": lambda x: 1 / jnp.sum(jnp.exp(A @ x)),
        "f": lambda x: jax.nn.softmax(A @ x),
        "c": lambda x: jnp.dot(jax.nn.softmax(A @ x), z.A3 @ z.y) - z.b,
    }
    found = {name: jax.jacfwd(block)(z.x) for name, block in blocks.items()}
    found["c in y"] = jax.grad(lambda y: jnp.dot(jax.nn.softmax(A @ z.x), z.A3 @ y))(z.y)
    found["c twice"] = jax.hessian(blocks["c"])(z.x)
    slope = jax.grad(lambda x, y: half(z, x, y), argnums=(0, 1))
    found["L in x"], found["L in y"] = slope(z.x, z.y)
    (found["xx"], found["xy"]), (_, found["yy"]) = jax.jacfwd(slope, argnums=(0, 1))(z.x, z.y)
    single = {"normalized": losses.softmax_regression, "rescaled": losses.rescaled_softmax_regression}
    for name, loss in single.items():
        found[f"{name} gradient"], found[f"{name} Hessian"] = (
            transform(lambda s, loss=loss: loss(s, eye, z.targets) / 2)(A @ z.x)
            for transform in (jax.grad, jax.hessian)
        )
    return found


class Form(NamedTuple):
    """A printed form as a function of an instance, the name of what it should be, its verdict, and the true form."""

    where: str
    is_the: str
    printed: Callable
    verdict: str = RIGHT
    corrected: Callable | None = None


def of_entry(form, left="", right=""):
    """A form of `tests.oracles.published` on an instance; a kernel is lifted by the matrices named left and right."""

    def on(z: Instance):
        e = z.entry
        return getattr(e, left).T @ form(e) @ getattr(e, right) if left else form(e)

    return on


def of_row(form, base):
    """A form of a single regression in its logits, from f or u."""
    return lambda z: form(getattr(z.entry, base), z.targets)


GRADIENTS, LAYER = "2309.07418, gradients (B.1–B.5)", "2309.07418"
FORMS = (
    Form(f"{GRADIENTS}: u", "u", of_entry(P.du)),
    Form(f"{GRADIENTS}: α", "alpha", of_entry(P.dalpha)),
    Form(f"{GRADIENTS}: α⁻¹", "alpha_inverse", of_entry(P.dalpha_inverse)),
    Form(f"{GRADIENTS}: f", "f", of_entry(P.df)),
    Form(f"{GRADIENTS}: γ and c", "c", of_entry(P.dc)),
    Form(f"{GRADIENTS}: L in x", "L in x", of_entry(P.dloss_x)),
    Form(f"{GRADIENTS}: c in y", "c in y", of_entry(P.dc_y)),
    Form(f"{GRADIENTS}: L in y", "L in y", of_entry(P.dloss_y)),
    Form(f"{LAYER}, Lemma D.1: ∂²c", "c twice", of_entry(P.hessian_c)),
    Form(
        f"{LAYER}, Definition D.3: xx",
        "xx",
        of_entry(P.kernel_xx_printed, "A", "A"),
        WRONG,
        of_entry(P.kernel_xx, "A", "A"),
    ),
    Form(f"{LAYER}, Lemma G.2: yy", "yy", of_entry(P.kernel_yy, "A3", "A3")),
    Form(f"{LAYER}, Lemma H.1: xy", "xy", of_entry(P.kernel_xy, "A", "A3")),
    Form(
        f"{LAYER}, Definition H.3: xy",
        "xy",
        of_entry(P.kernel_xy_printed, "A", "A3"),
        WRONG,
        of_entry(P.kernel_xy, "A", "A3"),
    ),
    Form("2304.10411: gradient", "normalized gradient", of_row(P.normalized_gradient, "f")),
    Form("2304.10411: Hessian", "normalized Hessian", of_row(P.normalized_hessian, "f")),
    Form("2305.00660: gradient", "rescaled gradient", of_row(P.rescaled_gradient, "u")),
    Form("2305.00660: Hessian", "rescaled Hessian", of_row(P.rescaled_hessian, "u")),
)


def relative_error(have, want) -> float:
    return float(np.linalg.norm(np.asarray(have) - np.asarray(want)) / np.linalg.norm(np.asarray(want)))


@pytest.fixture(scope="module")
def truth():
    return autodiff(jax.tree.map(jnp.asarray, instance(1)))


@pytest.mark.parametrize("form", FORMS, ids=[form.where for form in FORMS])
def test_a_printed_form_is_what_its_verdict_says(form, truth):
    z, want = instance(1), truth[form.is_the]
    assert np.shape(form.printed(z)) == np.shape(want)
    error = relative_error(form.printed(z), want)
    if form.verdict == RIGHT:
        assert error < 200 * EPS
    else:
        assert error > 0.1
        assert relative_error(form.corrected(z), want) < 200 * EPS


def test_how_wrong_the_two_definitions_are():
    """The relative errors of docs/theory/errata.md, over random instances."""
    entries = [instance(seed).entry for seed in range(200)]
    xx = [relative_error(e.A.T @ P.kernel_xx_printed(e) @ e.A, e.A.T @ P.kernel_xx(e) @ e.A) for e in entries]
    xy = [relative_error(e.A.T @ P.kernel_xy_printed(e) @ e.A3, e.A.T @ P.kernel_xy(e) @ e.A3) for e in entries]
    assert np.isclose(np.median(xx), XX_MEDIAN, rtol=0.01)
    assert np.isclose(np.median(xy), XY_MEDIAN, rtol=0.01)


def test_a_kernel_of_the_logits_maps_constants_to_zero_and_the_printed_one_does_not():
    e, one = instance(2).entry, np.ones(N)
    assert np.abs(P.kernel_xx(e) @ one).max() < 20 * EPS
    predicted = -e.gamma * (1 + e.c) * e.w + e.gamma * (e.c - e.gamma) * e.f
    np.testing.assert_allclose(P.kernel_xx_printed(e) @ one, predicted, atol=20 * EPS)
    assert np.abs(predicted).max() > 1e-3


def test_the_papers_disagree_on_what_w_weighs():
    """`A_[j]ᵀ W² A_[j]` summed over j (Lemma F.1) is the Gram matrix of (I ⊗ W)A, not of Definition A.14's (W ⊗ I)A."""
    rng = np.random.default_rng(0)
    A1, A2, w = rng.normal(size=(N, D)), rng.normal(size=(N, D)), rng.uniform(1, 2, N)
    A, eye = np.kron(A1, A2), np.ones(N)
    summed = sum(np.kron(a[None], A2).T @ np.diag(w**2) @ np.kron(a[None], A2) for a in A1)
    keys, queries = ((s[:, None] * A).T @ (s[:, None] * A) for s in (np.kron(eye, w), np.kron(w, eye)))
    np.testing.assert_allclose(summed, keys, rtol=1e-12)
    assert relative_error(summed, queries) > 0.01
