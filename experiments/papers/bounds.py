"""One row for every registered Lipschitz bound, and for those entry by entry and in the tokens."""

from attnreg.bounds import BOUNDS, Bound, Norms
from attnreg.bounds.elementwise import ELEMENTWISE
from attnreg.bounds.joint_tokens import TOKEN_BOUNDS, TokenLimits
from experiments.papers.row import Chapter, Row, show

SIZES = {"softmax": (1, 4), "attention": (2, 3), "one_layer": (2, 3)}  # n1 and n of the attack
HYPERBOLIC = ("cosh", "sinh")
EARLIER = "no recorded run; [section 7](theory/bounds.md) has what attacks have found"


def bound_row(bound: Bound) -> Row:
    """Constants at R = 1, and how much of ours an attack reached."""
    n1, n = SIZES[bound.family]
    norms = Norms.ball(bound.family, 1.0, n1=n1, n=n)
    sharp, printed = bound.sharp(norms), bound.norm_by_norm(norms)
    what, _, variable = bound.name.partition(".")[2].rpartition(".")
    unit = "e^‖ΔS‖∞ − 1" if bound.relative else f"‖Δ{variable}‖"
    says = f"{what.replace('_', ' ')} changes by at most a constant times {unit}"
    return Row(f"`{bound.name}`", says, bound.proof.partition("#")[0], show(printed), show(sharp, 3),
               f"{{{bound.name}}} of ours, {{{bound.name}, pairs}} improved pairs",
               "true" if printed <= 1.01 * sharp else "true, and not sharp", (bound.name,), EARLIER)  # fmt: skip


def bound_rows(family: str, *words: str, without: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """The rows of a family whose quantities contain one of the words (none: all), and none of `without`."""
    chosen = [b for b in BOUNDS.values() if b.family == family]
    chosen = [b for b in chosen if not words or any(word in b.quantity for word in words)]
    return tuple(bound_row(b) for b in chosen if not any(word in b.quantity for word in without))


def _elementwise() -> tuple[Row, ...]:
    n, M = 4, 1.0
    return tuple(
        Row(f"max norm, {row.name}", "the largest entry moves by at most a constant times max|Δs|",
            "attnreg/bounds/elementwise.py", show(row.norm_by_norm(n, M)), show(row.sharp(n, M), 3),
            "0.85 of ours or more on pairs of a box (`tests/bounds/test_elementwise.py`)",
            "true" if row.norm_by_norm(n, M) <= 1.01 * row.sharp(n, M) else "true, and not sharp",
            (f"elementwise.{row.name}",))
        for row in ELEMENTWISE.values()
    )  # fmt: skip


def _tokens() -> tuple[Row, ...]:
    limits, rows = TokenLimits(16, 1.0, 1.0, 1.0), []
    for name, bound in TOKEN_BOUNDS.items():
        printed = f"{show(bound.product(limits), 3)} by the product rule"
        if bound.published is not None:
            source = "attributed to arXiv 2312.14820, print not compared; [derived](theory/bounds.md)"
            printed = f"{show(bound.published(limits), 3)} ({source})"
        rows.append(
            Row(f"tokens, {name}",
                f"the {name} of self-attention moves by at most a constant times ‖ΔZ‖, A1 = A2 = A3 = Z",
                "attnreg/bounds/joint_tokens.py", printed, show(bound.sharp(limits), 3),
                f"{{tokens, {name}}} of ours at most, {{tokens, {name}, points}} improved documents",
                "true, and not sharp", (f"tokens.{name}",))
        )  # fmt: skip
    rows.append(
        Row("tokens, MiniLM", "the same for the heads of a pretrained model, 32 tokens, medians of a layer",
            "configs/joint_tokens.py", "see measured", "see measured",
            "{minilm, measured:3}; at the document {minilm, at the document:3}, "
                "on the ball {minilm, ball:3}, published {minilm, published:3}",
            "true, and far from sharp")
    )  # fmt: skip
    return tuple(rows)


SINGLE = bound_rows("softmax", without=("rescaled", *HYPERBOLIC))
LAYER = Chapter(
    "arXiv 2309.07418: Lipschitz constants of every block of one layer",
    bound_rows("one_layer"),
    "Constants at R = 1, 2 queries and 3 keys, in every variable that the block depends on. Published: norm by norm.",
)
OTHERS = Chapter(
    "Entry by entry, and all tokens at once",
    (*_elementwise(), *_tokens()),
    "The papers bound some blocks entry by entry: constants with 4 keys and logits up to 1. They move one matrix at a "
    "time; a self-attention document moves all three: constants with 16 tokens and r²‖X‖ = 1. "
    "Proofs: [bounds](theory/bounds.md), sections 3 and 8.",
)
