"""Every claim, by the command that measures it. Numbers measured are in docs/claims.json, never here."""

from experiments.claims.claim import Claim, Headline
from experiments.claims.costs import COSTS
from experiments.claims.heads import HEADS
from experiments.claims.statements import STATEMENTS

SECTIONS = (*HEADS, *COSTS, *STATEMENTS)

HEADLINES = (
    Headline("one head from its maps: loss on unseen texts", "head_heldout", "head_lbfgs_heldout",
             "L-BFGS, 500 steps", "less", "`configs/quickstart.py`"),
    Headline("one head from its outputs: loss on unseen texts", "outputs_heldout", "outputs_adam",
             "minibatch Adam, best of 15 settings", "less", "[`configs/recover_head.py`](docs/guides/recover.md)"),
    Headline("a head cut to rank 8: squared error of its map, relative, median of 72", "compress_8_ours",
             "compress_8_closed", "activation-aware SVD", "less",
             "[`configs/compress_heads.py`](docs/guides/compress.md)"),
    Headline("the exact Hessian of 256 unknowns, 512 queries", "", "", "`jax.hessian`", "hessian",
             "[`configs/benchmark_closed_forms.py`](docs/guides/benchmarks.md)"),
    Headline("smallest weight of the regulariser that guarantees convexity", "convex_sharp",
             "convex_published", "published", "less", "[`configs/newton_region.py`](docs/theory/bounds.md)"),
)  # fmt: skip


def claims() -> dict[str, Claim]:
    """Every claim by its name."""
    return {claim.name: claim for section in SECTIONS for claim in section.claims}
