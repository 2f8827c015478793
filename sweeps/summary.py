"""The table of a sweep: mean ± standard deviation over seeds of every score and of the label-free one."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeps.plan import Plan
from sweeps.runner import read_result
from system.files import write_text
from system.text import csv_cell, csv_text, markdown_text

# Columns of the table, the place of each in a run's result, and whether it is a share of 1, shown as percent.
COLUMNS: dict[str, tuple[tuple[str, ...], bool]] = {
    "acc": (("acc",), True),
    "nmi": (("nmi",), True),
    "ari": (("ari",), True),
    "ami": (("ami",), True),
    "top5": (("top5",), True),
    "acc_many_to_one": (("acc_many_to_one",), True),
    "purity@1": (("purity_train", "1"), True),
    "purity@5": (("purity_train", "5"), True),
    "purity@20": (("purity_train", "20"), True),
    "num_clusters": (("num_clusters",), False),
    "val_loss": (("last_loss",), False),
    "lowest_val_loss": (("best_loss",), False),
    "loss": (("loss",), False),
    "seconds": (("seconds",), False),
}
LABEL_FREE = ("val_loss", "lowest_val_loss", "loss")  # lower is better; the first that a stage has counts


def _take(result: Any, keys: Sequence[str]) -> float | None:
    for key in keys:
        result = result.get(key) if isinstance(result, dict) else None
    return result if isinstance(result, int | float) else None


def collect(plan: Plan) -> list[dict[str, Any]]:
    """For each setting its values, the number of finished runs, and every score's numbers over the seeds."""
    table = []
    for setting in plan.settings:
        results = [result for result in map(read_result, setting.runs) if result is not None]
        scores = {}
        for name, (place, _) in COLUMNS.items():
            numbers = [number for result in results if (number := _take(result, place)) is not None]
            if numbers:
                scores[name] = numbers
        table.append({"setting": setting, "num_runs": len(results), "scores": scores})
    return table


def mean_std(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one number)."""
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def present(table: list[dict[str, Any]]) -> list[str]:
    """The columns that any setting has."""
    return [name for name in COLUMNS if any(name in row["scores"] for row in table)]


def label_free(names: Sequence[str]) -> str | None:
    """The label-free score among the columns."""
    return next((name for name in LABEL_FREE if name in names), None)


def label_free_score(result: dict[str, Any]) -> float:
    """The label-free score of a run's result, lower is better; infinite where its stage has none."""
    found = (_take(result, COLUMNS[name][0]) for name in LABEL_FREE)
    return next((number for number in found if number is not None), math.inf)


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    """Write a row a setting, a column for the mean and one for the standard deviation of every score, as fractions."""
    names, keys = present(table), list(table[0]["setting"].values)
    rows = [[*map(csv_cell, keys), "num_runs", *(f"{name}_{kind}" for name in names for kind in ("mean", "std"))]]
    for row in table:
        cells: list[Any] = [*map(csv_cell, row["setting"].values.values()), row["num_runs"]]
        for name in names:
            found = mean_std(row["scores"][name]) if name in row["scores"] else ("", "")
            cells += [round(value, 6) if isinstance(value, float) else value for value in found]
        rows.append(cells)
    write_text(path, csv_text(rows), listed=True)


def markdown(table: list[dict[str, Any]]) -> str:
    """The table as Markdown: `87.6 ± 0.4` in percent, other numbers as they are."""
    names, keys = present(table), list(table[0]["setting"].values)
    heads = [
        *map(markdown_text, keys),
        "runs",
        *(f"{name.upper()} %" if COLUMNS[name][1] else name.replace("_", " ") for name in names),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table:
        cells = [*map(markdown_text, row["setting"].values.values()), str(row["num_runs"])]
        cells += [_cell(row["scores"].get(name), COLUMNS[name][1]) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(numbers: Sequence[float] | None, share: bool) -> str:
    if not numbers:
        return "–"
    mean, std = mean_std(numbers)
    text = f"{100 * mean:.1f}" if share else f"{mean:.4g}"
    deviation = f"{100 * std:.1f}" if share else f"{std:.2g}"
    return text if len(numbers) == 1 else f"{text} ± {deviation}"


def write_markdown(path: Path, plan: Plan, table: list[dict[str, Any]], command: str) -> None:
    """Write the table with the command that made it, and how to read it."""
    seeds = [axis for axis in plan.axes if axis.key == "seed" and len(axis.values) > 1]
    names = " and ".join(markdown_text(axis.shown(plan.stage)) for axis in seeds)
    over = f"Mean ± standard deviation over {names}" if seeds else "One run each"
    text = (
        f"# Sweep of {plan.stage}\n\n    {command}\n\n{over}. ACC, NMI, ARI, AMI, Top-5 and purity are scored by "
        "labels; the losses use none: lower is better, negative is normal. `val loss` is that of the last epoch, "
        "`lowest val loss` that of the best.\n\n" + markdown(table)
    )
    write_text(path, text, listed=True)
