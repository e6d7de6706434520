"""How much of the pages runs: `python -m tests.pages`."""

from tests.pages.extract import PAGES, blocks, commands, name


def main() -> None:
    """Print a line a page, and the sums."""
    total = [0, 0, 0]
    print(f"{'page':32} {'Python blocks':>13} {'of them not run':>15} {'commands':>9}")
    for page in PAGES:
        found = blocks(page)
        counts = (len(found), sum(bool(block.not_run) for block in found), len(commands(page)))
        total = [a + b for a, b in zip(total, counts, strict=True)]
        print(f"{name(page):32} {counts[0]:13} {counts[1]:15} {counts[2]:9}")
    print(f"{'all':32} {total[0]:13} {total[1]:15} {total[2]:9}")


if __name__ == "__main__":
    main()
