"""Fill the tables of Markdown files from benchmarks/results: figures are never typed.

    python -m benchmarks.tables             # README.md, docs/measurements.md, docs/methods.md
    python -m benchmarks.tables --check     # change nothing; exit code 1 when a table is not up to date

A table stands between `<!-- table:NAME -->` and `<!-- end -->`, each on a line of its own.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import ablation_tables, folder_tables, label_tables, number_tables, recipe_tables
from benchmarks.common import RESULTS, ROOT
from benchmarks.digits import spread
from benchmarks.markdown import Read, markdown, number, percent, telling, where
from system.files import write_text
from utils import cli

MARKED = re.compile(r"(^<!-- table:(?P<name>[\w-]+) -->\n).*?(^<!-- end -->$)", re.MULTILINE | re.DOTALL)


def digits(read: Read, names: Sequence[str] | None = None) -> str:
    """Scores on digits over the seeds, of some rows or all, and the seconds of the stages."""
    result = read("digits.json")
    found = [result["rows"][name] for name in names or result["rows"]]
    rows = [[row["title"], *(percent(row[name]) for name in ("acc", "nmi", "ari"))] for row in found]
    seconds = ", ".join(f"{stage} {taken['mean']:.0f}" for stage, taken in result["seconds"].items())
    return (
        markdown(["digits, test split, %", "ACC", "NMI", "ARI"], rows)
        + f"\nMean ± sample standard deviation over {len(result['seeds'])} seeds, {result['num_test_images']} images. "
        f"Seconds: {seconds} ({where(result['machine'])}).\n"
    )


def crash(read: Read) -> str:
    """What SIGKILLs at random moments left behind, of stages and of the commands for people."""
    stages = read("crash.json")
    commands = stages["commands"]
    rows = []
    for title, result, kinds in (
        ("stages", stages, stages["kills_by_stage"]),
        ("commands", commands, commands["kills_by_command"]),
    ):
        orphans = str(len(result["orphans"])) if "orphans" in result else "not counted"
        left = [str(len(result[kind])) for kind in ("stray_files", "files_differing_from_the_reference", "failed")]
        parts = ", ".join(f"{name} {count}" for name, count in kinds.items())
        rows.append([f"{title}: {parts}", str(result["kills"]), orphans, *left])
    flips, lost, writing = (stages[name] for name in ("bit_flips", "seconds_lost_per_kill", "writing_a_checkpoint"))
    return (
        markdown(["killed", "kills", "processes left", "stray files", "files that differ", "failed"], rows)
        + f"\nProcesses are counted {commands['orphans_after_seconds']:.0f} s after the kill. A kill of a stage costs "
        f"{number(lost['median'])} s (median; at most {number(lost['max'])}), with a checkpoint every "
        f"{stages['seconds_between_checkpoints']} s; writing one of {number(writing['mib'])} MiB takes "
        f"{number(writing['seconds']['median'])} s. Flipped bits noticed: {flips['noticed']} of {flips['flips']}. "
        f"Stages: {where(stages['machine'])}. Commands: {where(commands['machine'])}.\n"
    )


def precision(read: Read) -> str:
    """Accuracies of the same recipes in fp32 and bf16, on digits and of a pretext task on images."""
    result = read("precision.json")
    digits, pretext = result["digits"], result["pretext"]
    precisions = list(digits["scores"])
    rows = [
        [f"digits, {row['title']}, ACC", *(percent(digits["scores"][one][key]["acc"]) for one in precisions)]
        for key, row in digits["scores"][precisions[0]].items()
    ]
    for key, title in {"knn_acc": "k-NN accuracy", "purity_20": "purity of 20 neighbors"}.items():
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


def streaming(read: Read) -> str:
    """What the stages take when images are decoded while training."""
    result = read("streaming.json")
    workers, stages = result["workers"], result["stages"]
    rows = [
        [f"{title}, {found['epochs']} epochs", f"{found['seconds'] / 60:.1f}", number(found["views_per_second"])]
        for title, found in zip(("SimCLR", "SCAN", "self-labeling"), stages.values(), strict=True)
    ]
    return (
        markdown(["streamed", "minutes", "views/s"], rows)
        + f"\nThe workers alone decode and crop {number(workers['views_per_second_alone'])} views/s; with steps "
        f"running at the same time {number(workers['views_per_second_with_steps'])} views/s, and a step waits for them "
        f"{100 * workers['waited']:.1f} % of its time. {', '.join(telling(result['overrides']))}; "
        f"{where(result['machine'])}.\n"
    )


def throughput(read: Read, file: str = "throughput.json") -> str:
    """How many times faster than the published way each part is."""
    result = read(file)
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


TABLES: dict[str, Callable[[Read], str]] = {
    "digits": digits,
    "digits-whole-method": partial(digits, names=["selflabel"]),
    "cifar10": recipe_tables.cifar10,
    "cifar10-temperature": partial(recipe_tables.cifar10, file="cifar10_cpu_temperature-0.1.json"),
    "throughput": throughput,
    "throughput-avx512": partial(throughput, file="throughput-avx512.json"),
    "precision": precision,
    "streaming": streaming,
    "features": folder_tables.features,
    "gpu-recipe": recipe_tables.gpu_recipe,
    "gpu-longer-recipe": recipe_tables.gpu_longer_recipe,
    "gpu-smoke": recipe_tables.gpu_smoke,
    "gpu-profile": recipe_tables.gpu_profile,
    "gpu-scale": recipe_tables.gpu_scale,
    "crash": crash,
    "judge": folder_tables.judge,
    "spaces": folder_tables.spaces,
    "orientation": folder_tables.orientation,
    "folders": folder_tables.folders,
    "rivals": folder_tables.rivals,
    "refining": folder_tables.refining,
    "number": number_tables.number_of_clusters,
    "number-speed": number_tables.speed,
    "leave-out": number_tables.leave_out,
    "prior": number_tables.prior,
    "labels": label_tables.labels,
    "scrolling": label_tables.scrolling,
    "ablation-pretext": ablation_tables.pretext,
    "ablation-mnist": ablation_tables.mnist,
    "ablation-digits": ablation_tables.digits,
    "ablation-views": ablation_tables.views,
    "ablation-sweeps": ablation_tables.sweeps,
    "ablation-changes": ablation_tables.changes,
    "ablation-half": ablation_tables.half_changes,
}
PAGES = [ROOT / "README.md", ROOT / "docs/measurements.md", ROOT / "docs/methods.md"]


def fill(text: str, results: Path = RESULTS) -> str:
    """Replace what stands between the markers of each known table by what a folder of results says.

    Raises KeyError for a table that is not known, FileNotFoundError for a result that is not there, ValueError for a
    marker without its other one on a line of its own: its table would go stale unseen.
    """
    if len(MARKED.findall(text)) != max(text.count("<!-- table:"), text.count("<!-- end -->")):
        raise ValueError("a table lacks one of its markers")

    def read(name: str) -> dict[str, Any]:
        return json.loads((results / name).read_text(encoding="utf-8"))

    return MARKED.sub(lambda found: found[1] + TABLES[found["name"]](read) + found[3], text)


def main(argv: Sequence[str] | None = None) -> int:
    """Fill or check files; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("files", type=Path, nargs="*", default=PAGES, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="only say whether the tables are up to date")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where benchmarks wrote them")
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
