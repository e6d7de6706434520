"""Every bound of docs/theory/bounds.md against the largest ratio that gradient ascent can find, over n, d and R.

Command: python -m experiments.run --config configs/lipschitz.py
Expected: 157 bounds, no violation in at least a million improved pairs each; tightness of the sharp column at least 0.5
for u, α, f, c and the normalized gradient, of the norm-by-norm column down to 1e-7. The run fails and prints the
pair if any pair beats a bound. Time: 15 minutes of CPU for the first 97, half of
it compilation; the part :cosh 3 minutes (:sinh, :blocks, :values, :derivatives are the others); smoke: a few seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

SMOKE: dict[str, Any] = {
    "only": ("softmax.f.x",),
    "starts": 64,
    "steps": 20,
    "improved_pairs": 0,
    "max_rounds": 1,
    "scaling": ("softmax.f.x",),
    "scaling_n": (4,),
    "scaling_starts": 64,
    "scaling_steps": 20,
    "row_orders": 1,
    "row_n": (3,),
    "row_starts": 64,
    "row_steps": 20,
    "row_resolution": 8,
}
# Another domain for the one-layer constants that look loose above: one query, many keys, small R. 3 minutes.
SMALL: dict[str, Any] = SMOKE | {
    "only": ("one_layer.gradient_X", "one_layer.hessian"),
    "shapes.one_layer": (1, 64, 1, 1),
    "radii": (0.02, 0.1, 0.25),
    "starts": 256,
    "steps": 150,
}
# The same attack on a part of the bounds, so that no run takes ten minutes of CPU.
PARTS: dict[str, tuple[str, ...]] = {
    "cosh": ("_cosh",),
    "sinh": ("_sinh",),
    "blocks": ("hessian_X",),  # one-layer: the X block and the mixed block
    "values": (".u.", "alpha.", "alpha_inverse.", ".f.", ".residual.", "_relative.", "l_rescaled.", ".h.", ".q."),
    "derivatives": (".gradient.", ".gradient_rescaled.", "gradient_X", "gradient_Y", ".hessian.", ".hessian_rescaled."),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE,
    "small_domain": SMALL,
    **{name: {"only": words, "also": ()} for name, words in PARTS.items()},
}
EXPECTED = {"full": {"violations": (0, 0), "improved_pairs": (1000000.0, None)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="bounds.lipschitz",
        seed=0,
        precision="float64",
        # () measures every bound; otherwise those whose name contains one of these: --config.only=softmax.f.x or
        # --config.only="('softmax.f','attention')".
        only=(),
        also=("rows", "scaling"),  # the suprema of a row, and a few bounds against n
        radii=(0.5, 1.0, 1.5, 2.0),
        shapes=dict(softmax=(1, 4, 2, 1), attention=(2, 3, 2, 1), one_layer=(2, 3, 2, 2)),  # n1, n, d, m
        starts=4096,
        steps=75,
        improved_pairs=1_000_000,
        max_rounds=30,
        tolerance=1e-8,  # rounding of a ratio at the closest separation, relative to the bound
        # How truth and bounds scale with n, at the largest radius but one.
        scaling=("softmax.f.x", "softmax.gradient.x", "softmax.hessian.x"),
        scaling_n=(2, 4, 8, 16, 32),
        scaling_starts=512,
        scaling_steps=150,
        row_orders=3,  # derivatives of the row loss, up to this order
        row_n=(2, 3, 5, 8),
        row_starts=500,
        row_steps=400,
        row_resolution=60,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
