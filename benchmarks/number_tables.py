"""The tables of how many clusters there are, of classes of unequal size, and of what belongs in no cluster."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import Read, markdown, where

COLUMNS = {
    "within 1": ("within_1", "num_cases"),
    "in the range": ("in_range", "num_cases"),
    "sure": ("sure", "num_cases"),
    "within 1 where sure": ("sure_and_within_1", "sure"),
    "sure where it can be found": ("sure_where_good", "good"),
}
WAYS = ("share", "auto", "confidence", "agreement", "both")
"""Of leaving images out; the last three are only compared with the first."""


def number_of_clusters(read: Read) -> str:
    """Whether the number of clusters was found, and how often the answer is sure, by data set."""
    result = read("number.json")
    summary = result["summary"]
    unseen = summary["unseen"]
    unsure = [case for case in summary["cases"] if not case["sure"]]
    groups = [
        *((name, row, [case for case in unsure if case["data"] == name]) for name, row in summary["held_out"].items()),
        ("together", summary["together"], unsure),
        ("the shipped rule, on all of them", summary["shipped_rule"], []),
        *([("the shipped rule, on choices that it has not seen", unseen, [])] if unseen["num_cases"] else []),
    ]
    rows = [
        [title, *(f"{row[key]} of {row[of]}" for key, of in COLUMNS.values()), mean_width(cases)]
        for title, row, cases in groups
    ]
    wrong = ", ".join(
        f"{case['data']} {case['num_classes']} as {case['found']}"
        for case in summary["cases"]
        if case["sure"] and abs(case["found"] - case["num_classes"]) > 1
    )
    return (
        markdown(["data set", *COLUMNS, "numbers in the range, not sure"], rows)
        + f"\nSure and wrong: {wrong or 'none'}. {where(result['machine'])}.\n"
    )


def mean_width(cases: Sequence[Mapping[str, Any]]) -> str:
    """How many numbers are in the ranges that are told, on average; empty without any."""
    widths = [case["high"] - case["low"] + 1 for case in cases]
    return f"{sum(widths) / len(widths):.1f}" if widths else ""


def speed(read: Read) -> str:
    """How long the search takes."""
    result = read("number_speed.json")
    row = [f"{result['num_images']:,}", str(len(result["parts"]) - 1), f"{result['seconds']:.0f}"]
    return (
        markdown(["images", "numbers tried", "seconds beyond the features"], [row]) + f"\n{where(result['machine'])}.\n"
    )


def leave_out(read: Read) -> str:
    """Of the images that are left out, how many are foreign, and how many of the foreign ones they are."""
    result = read("leave_out.json")
    rows = []
    for row in result["summary"]:
        auto = row["auto"]
        of_those_left = {way: share(row[way]["foreign_left_out"], row[way]["left_out"]) for way in WAYS if way in row}
        cells = [
            of_those_left.get("share", ""),
            of_those_left["auto"],
            share(auto["foreign_left_out"], row["num_foreign"]),
            share(auto["left_out"], row["num_images"]),
            *(of_those_left.get(way, "") for way in WAYS[2:]),
        ]
        rows.append([f"{row['data']}, foreign: {row['foreign']}", *cells])
    heads = ["foreign, by the share", "foreign, by auto", "of the foreign ones", "of all, by auto"]
    compared = ["by confidence", "by agreement", "by distance and agreement"]
    return markdown(["%", *heads, *compared], rows) + f"\n{where(result['machine'])}.\n"


def share(part: int, whole: int) -> str:
    """A share in %, empty of nothing."""
    return f"{100 * part / whole:.1f}" if whole else ""


def prior(read: Read) -> str:
    """Scores with and without a prior where classes are unequal."""
    result = read("prior.json")
    rows = [
        [
            f"{row['data']}, {row['fall']} : 1, {row['method']}",
            *(f"{row[key]['mean']:.1f} ± {row[key]['std']:.1f}" for key in ("acc", "nmi", "balanced")),
        ]
        for row in result["summary"]
    ]
    return (
        markdown(["%", "ACC", "NMI", "balanced ACC"], rows)
        + f"\nMean ± sample standard deviation over {result['summary'][0]['num_cases']} draws of the images. "
        f"{where(result['machine'])}.\n"
    )
