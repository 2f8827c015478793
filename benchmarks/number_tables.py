"""The tables of how many clusters there are, and of classes of unequal size."""

from benchmarks.markdown import Read, markdown, where

COLUMNS = {
    "within 1": ("within_1", "num_cases"),
    "in the range": ("in_range", "num_cases"),
    "sure": ("sure", "num_cases"),
    "within 1 where sure": ("sure_and_within_1", "sure"),
    "sure where it can be found": ("sure_where_good", "good"),
}


def number_of_clusters(read: Read) -> str:
    """Whether the number of clusters was found, and how often the answer is sure, by data set."""
    result = read("number.json")
    summary = result["summary"]
    rows = [
        [title, *(f"{row[key]} of {row[of]}" for key, of in COLUMNS.values())]
        for title, row in [*summary["held_out"].items(), ("together", summary["together"])]
    ]
    wrong = ", ".join(
        f"{case['data']} {case['num_classes']} as {case['found']}"
        for case in summary["cases"]
        if case["sure"] and abs(case["found"] - case["num_classes"]) > 1
    )
    shipped = summary["shipped_rule"]
    return (
        markdown(["data set", *COLUMNS], rows)
        + f"\nSure and wrong: {wrong or 'none'}. The shipped rule, fixed with all of them in sight, is within 1 in "
        f"{shipped['sure_and_within_1']} of {shipped['sure']} where sure, and sure in {shipped['sure_where_good']} of "
        f"{shipped['good']} where clusters can be found. {where(result['machine'])}.\n"
    )


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
