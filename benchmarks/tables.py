"""Fill the tables of a Markdown file from benchmarks/results: figures are never typed.

    python -m benchmarks.tables             # README.md
    python -m benchmarks.tables --check     # change nothing; exit code 1 when a table is not up to date

A table stands between `<!-- table:NAME -->` and `<!-- end -->`, each on a line of its own.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from utils.files import write_text

MARKED = re.compile(r"(^<!-- table:(?P<name>[\w-]+) -->\n).*?(^<!-- end -->$)", re.MULTILINE | re.DOTALL)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(score: dict[str, Any]) -> str:
    """Mean ± standard deviation, in percent."""
    return f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}"


def digits() -> str:
    """Scores on digits over the seeds, and the seconds of the stages."""
    result = json.loads((RESULTS / "digits.json").read_text(encoding="utf-8"))
    rows = [[row["title"], *(percent(row[name]) for name in ("acc", "nmi", "ari"))] for row in result["rows"].values()]
    seconds = ", ".join(f"{stage} {taken['mean']:.0f}" for stage, taken in result["seconds"].items())
    machine = result["machine"]
    return (
        markdown(["digits, test split, %", "ACC", "NMI", "ARI"], rows)
        + f"\nMean ± sample standard deviation over {len(result['seeds'])} seeds, {result['num_test_images']} images. "
        f"Seconds: {seconds} ({machine['cpu']}, {machine['threads']} of {machine['cores']} cores, "
        f"torch {machine['versions']['torch']}).\n"
    )


TABLES: dict[str, Callable[[], str]] = {"digits": digits}


def fill(text: str) -> str:
    """Replace what stands between the markers of each known table; raises KeyError for a name that is not known."""
    return MARKED.sub(lambda found: found[1] + TABLES[found["name"]]() + found[3], text)


def main(argv: Sequence[str] | None = None) -> int:
    """Fill or check files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=[ROOT / "README.md"], metavar="FILE")
    parser.add_argument("--check", action="store_true", help="only say whether the tables are up to date")
    args = parser.parse_args(argv)
    stale = []
    for path in args.files:
        text = path.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            stale.append(path)
            if not args.check:
                write_text(path, filled, record=False)
                print(f"filled: {path}")
    if args.check and stale:
        print("not up to date: " + ", ".join(map(str, stale)) + "; run python -m benchmarks.tables", file=sys.stderr)
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
