"""docs/claims.md and the README's rows, written from the registry and the recorded numbers."""

from collections.abc import Mapping

from experiments.claims.claim import Claim, Headline, Section
from experiments.claims.reading import Measured

BEGIN, END = "<!-- claims: written by python -m experiments.claims -->", "<!-- /claims -->"
HEAD = """# Claims, and how each was measured

One command a table, from the repository's root; one number a row. Two CPU cores, no accelerator. Ratios are medians of
one interleaved run. **missed** says that a number is not as expected. "–" stands where nothing is expected: others are
compared with that number.

This page is written by `python -m experiments.claims` from `experiments/claims/registry.py` and `docs/claims.json`.
That command reads the finished runs in `runs/`. With `--quick` (and `pip install -e '.[test]'`) it first makes the
short ones: {quick} of {tables} tables, and {rows} of the {headlines} rows of the README. A quick table is the same
command as ever, not a smaller one. The others keep their numbers. A number keeps its date and its commit until a run
replaces it. One without a commit was written down before this page was generated, on the date beside it, by the
command above it.
"""


def page(sections: tuple[Section, ...], numbers: Mapping[str, Measured], headlines: tuple[Headline, ...] = ()) -> str:
    """The whole of docs/claims.md."""
    found = [claim.met(numbers[claim.name].value) for section in sections for claim in section.claims]
    said = f"\n{found.count(True)} of {found.count(True) + found.count(False)} expectations are met.\n"
    quick = {claim.name for section in sections if section.quick for claim in section.claims}
    rows = sum(not {row.ours, row.ratio}.isdisjoint(quick) for row in headlines)
    count = sum(section.quick for section in sections)
    head = HEAD.format(quick=count, tables=len(sections), rows=rows, headlines=len(headlines))
    return head + said + "".join(_section(section, numbers) for section in sections)


def _section(section: Section, numbers: Mapping[str, Measured]) -> str:
    several = any(numbers[claim.name].seeds > 1 for claim in section.claims)
    columns = ["claim", "expected", "measured", *(["95% of the mean", "seeds"] if several else []), "verdict", "when"]
    lines = [f"\n## {section.title}\n", f"    {section.shown()}\n"]
    lines += [f"{section.note}\n"] if section.note else []
    lines += [_row(columns), _row(["---"] * len(columns))]
    lines += [_row(_cells(claim, numbers[claim.name], several)) for claim in section.claims]
    return "\n".join(lines) + "\n"


def _cells(claim: Claim, number: Measured, several: bool) -> list[str]:
    limit = claim.limit()
    words = {"<=": "at most", ">=": "at least"}
    expected = "–" if limit is None else f"{words[limit[0]]} {shown(limit[1], 6)}"
    interval = "" if number.low is None or number.high is None else " to ".join(
        shown(edge, claim.digits) for edge in (number.low, number.high)
    )  # fmt: skip
    verdict = {True: "met", False: "**missed**", None: "–"}[claim.met(number.value)]
    between = [interval, str(number.seeds) if number.seeds > 1 else ""] if several else []
    when = f"{number.date} {number.commit}".strip()
    return [claim.text, expected, value(number, claim.digits), *between, verdict, when]


def value(number: Measured, digits: int) -> str:
    """The number as people read it."""
    return f"below {shown(number.value, digits)}" if number.at_most else shown(number.value, digits)


def shown(number: float, digits: int) -> str:
    """So many significant digits; large ones whole, small ones with an exponent.

    >>> shown(1.3e-10, 2), shown(412.3, 3), shown(0.20665, 5), shown(89000.0, 2)
    ('1.3e-10', '412', '0.20665', '89,000')
    """
    if number and abs(number) < 1e-3:
        mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    rounded = float(f"{number:.{digits}g}")
    return f"{rounded:,.0f}" if rounded == int(rounded) else f"{rounded:g}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def readme(
    text: str, headlines: tuple[Headline, ...], claims: Mapping[str, Claim], numbers: Mapping[str, Measured]
) -> str:
    """The README with its rows written anew between the two marks.

    Raises:
        ValueError: the marks are not there.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if not 0 <= begin < end:
        raise ValueError(f"README.md has no {BEGIN} and {END} around its table of claims")
    lines = [_row(["what", "attnreg", "the best alternative", "ratio", "command"]), _row(["---"] * 5)]
    for headline in headlines:
        ours, other = (
            value(numbers[name], claims[name].digits) if name else "" for name in (headline.ours, headline.other)
        )
        ratio = _ratio(headline, numbers)
        beside = f"{other} ({headline.by})" if other else headline.by
        lines.append(_row([headline.text, ours or "–", beside, ratio, headline.link]))
    return text[: begin + len(BEGIN)] + "\n" + "\n".join(lines) + "\n" + text[end:]


def _ratio(headline: Headline, numbers: Mapping[str, Measured]) -> str:
    """How many times less ours is than the other; or a claim that is a ratio of times itself."""
    if headline.ratio != "less":
        return f"{shown(numbers[headline.ratio].value, 3)} times faster"
    ratio = numbers[headline.other].value / numbers[headline.ours].value
    more = "more than " if numbers[headline.ours].at_most else ""
    return f"{more}{shown(ratio, 2)} times less"
