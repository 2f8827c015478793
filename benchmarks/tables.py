"""Fill the tables of a Markdown file from benchmarks/results: figures are never typed.

    python -m benchmarks.tables             # README.md
    python -m benchmarks.tables --check     # change nothing; exit code 1 when a table is not up to date

A table stands between `<!-- table:NAME -->` and `<!-- end -->`, each on a line of its own.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.digits import spread
from system.files import write_text
from utils import cli

MARKED = re.compile(r"(^<!-- table:(?P<name>[\w-]+) -->\n).*?(^<!-- end -->$)", re.MULTILINE | re.DOTALL)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(score: dict[str, Any]) -> str:
    """Mean ± standard deviation, in percent."""
    return f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}"


def digits(results: Path) -> str:
    """Scores on digits over the seeds, and the seconds of the stages."""
    result = json.loads((results / "digits.json").read_text(encoding="utf-8"))
    rows = [[row["title"], *(percent(row[name]) for name in ("acc", "nmi", "ari"))] for row in result["rows"].values()]
    seconds = ", ".join(f"{stage} {taken['mean']:.0f}" for stage, taken in result["seconds"].items())
    return (
        markdown(["digits, test split, %", "ACC", "NMI", "ARI"], rows)
        + f"\nMean ± sample standard deviation over {len(result['seeds'])} seeds, {result['num_test_images']} images. "
        f"Seconds: {seconds} ({where(result['machine'])}).\n"
    )


def cifar10(results: Path) -> str:
    """What a whole recipe reached on CIFAR-10 on the CPU, stage by stage."""
    result = json.loads((results / "cifar10_cpu.json").read_text(encoding="utf-8"))
    stages, machine = result["stages"], result["machine"]
    pretext = stages["pretext"]
    kmeans = [f"{100 * pretext['kmeans'][name]['mean']:.1f}" for name in ("acc", "nmi", "ari")]
    rows = [[f"SimCLR, {pretext['epochs']} epochs; then K-means", *kmeans, f"{pretext['seconds'] / 60:.0f}"]]
    for stage, title in (("scan", "SCAN"), ("selflabel", "self-labeling")):
        found = stages[stage]
        scores = [f"{100 * found[name]:.1f}" for name in ("acc", "nmi", "ari")]
        rows.append([f"{title}, {found['epochs']} epochs", *scores, f"{found['seconds'] / 60:.0f}"])
    return (
        markdown(["CIFAR-10 (JPEG copy), test split, %", "ACC", "NMI", "ARI", "minutes"], rows)
        + f"\nPurity of the 20 nearest neighbours: {100 * pretext['purity']['train']['20']:.1f} %, of raw pixels' "
        f"{100 * pretext['pixel_purity_20']:.1f} %. Seed {result['seed']}, "
        f"{', '.join([*result['recipe'], *result['overrides']])}; "
        f"{where(machine)}.\n"
    )


def precision(results: Path) -> str:
    """Accuracies of the same recipes in fp32 and bf16, on digits and of a pretext task on images."""
    result = json.loads((results / "precision.json").read_text(encoding="utf-8"))
    digits, pretext = result["digits"], result["pretext"]
    precisions = list(digits["scores"])
    rows = [
        [f"digits, {row['title']}, ACC", *(percent(digits["scores"][one][key]["acc"]) for one in precisions)]
        for key, row in digits["scores"][precisions[0]].items()
    ]
    for key, title in {"knn_acc": "k-NN accuracy", "purity_20": "purity of 20 neighbours"}.items():
        values = {one: [run[key] for run in pretext["runs"] if run["precision"] == one] for one in precisions}
        cells = [percent(spread(found)) if found else "" for found in values.values()]
        rows.append([f"CIFAR-10 (JPEG copy), SimCLR, {pretext['runs'][0]['epochs']} epochs, {title}", *cells])
    gradients = [run["gradients"] for run in pretext["runs"] if "gradients" in run][-1]
    shares = {name: number(100 * gradients[name]) + " %" for name in ("error", "batches", "bias", "bias_by_chance")}
    notes = (
        f"Mean ± sample standard deviation over {len(digits['seeds'])} seeds on digits, "
        f"{len({run['seed'] for run in pretext['runs']})} on CIFAR-10. Of the mean gradient over "
        f"{gradients['num_batches']} batches at the end of a run on CIFAR-10, a batch's error in bf16 is "
        f"{shares['error']}, its own distance {shares['batches']}; the mean of the errors is {shares['bias']}, where "
        f"errors without bias would leave {shares['bias_by_chance']}. "
        f"Digits: {where(digits['machine'])}. CIFAR-10: {where(pretext['machine'])}."
    )
    return markdown(["%", *precisions], rows) + f"\n{notes}\n"


def streaming(results: Path) -> str:
    """What the stages take when images are decoded while training."""
    result = json.loads((results / "streaming.json").read_text(encoding="utf-8"))
    workers, stages = result["workers"], result["stages"]
    words = [word for word in result["overrides"] if not word.startswith("root_dir=")]
    rows = [
        [f"{title}, {found['epochs']} epochs", f"{found['seconds'] / 60:.1f}", number(found["views_per_second"])]
        for title, found in zip(("SimCLR", "SCAN", "self-labeling"), stages.values(), strict=True)
    ]
    return (
        markdown(["streamed", "minutes", "views/s"], rows)
        + f"\nThe workers alone decode and crop {number(workers['views_per_second_alone'])} views/s; with steps "
        f"beside them {number(workers['views_per_second_with_steps'])} views/s, and a step waits for them "
        f"{100 * workers['waited']:.1f} % of its time. {', '.join(words)}; {where(result['machine'])}.\n"
    )


def throughput(results: Path) -> str:
    """How many times faster than the published way each part is."""
    result = json.loads((results / "throughput.json").read_text(encoding="utf-8"))
    rows = []
    for name, found in result["results"].items():
        old, new = (found["items"] / found[f"{way}_seconds"]["median"] for way in ("published", "ours"))
        ratio = found["ratio"]
        times = f"{number(ratio['median'])}× ({number(ratio['min'])} to {number(ratio['max'])})"
        rows.append([name, number(old), number(new), found["unit"] + "s/s", times])
    shares = [
        f"{name.removesuffix(' step')} {100 * found['monitoring_share']:.1f} %"
        for name, found in result["results"].items()
        if "monitoring_share" in found
    ]
    return (
        markdown(["", "published way", "here", "", "ratio (range)"], rows)
        + f"\nMedians; monitoring at its default interval adds to an epoch: {', '.join(shares)}. "
        f"{where(result['machine'])}.\n"
    )


def number(value: float) -> str:
    """About three digits, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def where(machine: dict[str, Any]) -> str:
    """The machine in a few words."""
    return (
        f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, torch {machine['versions']['torch']}, "
        f"commit {machine['commit']}"
    )


TABLES: dict[str, Callable[[Path], str]] = {
    "digits": digits,
    "cifar10": cifar10,
    "throughput": throughput,
    "precision": precision,
    "streaming": streaming,
}


def fill(text: str, results: Path = RESULTS) -> str:
    """Replace what stands between the markers of each known table; raises KeyError for a name that is not known."""
    return MARKED.sub(lambda found: found[1] + TABLES[found["name"]](results) + found[3], text)


def main(argv: Sequence[str] | None = None) -> int:
    """Fill or check files; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("files", type=Path, nargs="*", default=[ROOT / "README.md"], metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="what the benchmarks wrote")
    parser.add_argument("--check", action="store_true", help="only say whether the tables are up to date")
    args = parser.parse_args(argv)
    stale = []
    for path in args.files:
        text = path.read_text(encoding="utf-8")
        try:
            filled = fill(text, args.results)
        except FileNotFoundError as error:
            print(f"error: {error.filename} is missing; run the benchmark that writes it", file=sys.stderr)
            return 1
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
