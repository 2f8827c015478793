"""Tables about folders of one's own: what comes out, the choice among clusterings, and how fast features are."""

from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import Read, markdown, number, where


def folders(read: Read) -> str:
    """What cluster.py makes of folders, and in what time."""
    cases = read("folders.json")["cases"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault((case["data"], case["way"]), []).append(case)
    rows = []
    for (data, way), found in groups.items():
        accs = [f"{100 * case['acc_from_labels']:.1f}" for case in found]
        seconds = [f"{case['seconds']:.0f}" for case in found]
        rows.append([f"{data}, {found[0]['num_images']:,} images, {way}", ", ".join(accs), ", ".join(seconds)])
    head = ["`cluster.py` on a folder", "ACC of each seed, %", "seconds, all included"]
    return markdown(head, rows) + f"\n{_machines(cases)}.\n"


def _machines(cases: Sequence[dict[str, Any]]) -> str:
    """Where cases were measured, each machine and commit once."""
    return ". ".join(dict.fromkeys(where(case["machine"]) for case in cases))


def refining(read: Read) -> str:
    """What refining makes of the clustering that it begins with, and whether the label-free score hands it out."""
    rows = []
    for case in read("folders.json")["cases"]:
        if refined := case.get("refined"):
            pair = refined["before"], refined["after"]
            rows.append(
                [
                    f"{case['data']}, seed {case['seed']}",
                    *(f"{row['neighbors']:.3f}" for row in pair),
                    *(f"{100 * row['acc_from_labels']:.1f}" for row in pair),
                    "yes" if refined["handed_out"] else "no",
                ]
            )
    return markdown(["folder", "neighbors before", "after", "ACC before, %", "after, %", "kept"], rows)


def judge(read: Read) -> str:
    """What the label-free choice among clusterings of the same features costs, by a rule fixed without the data set."""
    summary = read("judge.json")["summary"]
    keys = ("chosen", "best", "worst", "kmeans", "regret")
    found = {**summary["held_out"], "all": summary["overall"]}
    found["all, by the rule of cluster.py"] = summary["shipped_rule"]
    rows = [
        [name, str(one["num_cases"]), *(f"{one[key]:.1f}" for key in keys), f"{100 * one['not_below_kmeans']:.0f} %"]
        for name, one in found.items()
    ]
    return (
        markdown(["ACC, %", "cases", "chosen", "best", "worst", "K-means", "regret", "K-means or better"], rows)
        + f"\n{where(read('judge.json')['machine'])}.\n"
    )


def spaces(read: Read) -> str:
    """What the same methods reach in one feature space, in another, and in both together."""
    rows = []
    for one in read("judge.json")["summary"]["between_spaces"]:
        accs = (*one["each"], one["better"], one["together"], one["chosen"])
        names = " and ".join(name.removeprefix("efficientnet_") for name in one["networks"])
        rows.append([f"{one['data']}, {names}", str(one["num_cases"]), *(f"{acc:.1f}" for acc in accs)])
    head = ["ACC, %", "cases", "in the first", "in the second", "in the better one", "in both together", "chosen"]
    return markdown(head, rows)


def rivals(read: Read) -> str:
    """Which of two ways label-free scores prefer, the pretrained or the one from scratch, and what both reach."""
    result = read("rivals.json")
    rows = []
    for case in sorted(result["cases"], key=lambda case: (case["data"], case["number"])):
        both = case["pretrained"], case["scratch"]
        support = [f"{sum(side['neighbors']) / 2:.3f}" for side in both]
        name = f"{case['data']}, {case['num_images']:,} images, {len(case['classes'])} classes"
        accs = [f"{side['acc']:.1f}" for side in both]
        rows.append([name, *accs, *support, case["handed_out"], f"{case['seconds']:.0f}"])
    sides = ("pretrained", "from scratch")
    head = ["folder", *(f"ACC %, {side}" for side in sides), *(f"support, {side}" for side in sides)]
    found = [f"{name} {one['regret']:.1f} ({one['right']} right)" for name, one in result["rules"].items()]
    held_out = [f"{one['data']} {one['regret']:.1f}" for one in result["held_out"]]
    return (
        markdown([*head, "kept", "seconds"], rows)
        + f"\nPoints lost by each rule over {len(rows)} cases: {'; '.join(found)}. By the rule that is best on the "
        f"other data sets: {', '.join(held_out)}. {_machines(result['cases'])}.\n"
    )


def orientation(read: Read) -> str:
    """In which data sets images are told from their mirror images, as the lowest and highest share of any choice."""
    result = read("orientation.json")
    rows = []
    for name, shares in result["shares"].items():
        cells = [f"{100 * min(found):.0f} to {100 * max(found):.0f} %" for found in shares.values()]
        cells += [f"{sum(one >= result['limit'] for one in found)} of {len(found)}" for found in shares.values()]
        rows.append([name, *cells])
    counts = list(next(iter(result["shares"].values())))
    head = ["told from the mirror image", *(f"{count} images" for count in counts)]
    return markdown([*head, *(f"flips forbidden, {count}" for count in counts)], rows)


def features(read: Read) -> str:
    """How fast a pretrained network's features are, beside onnxruntime as it comes."""
    try:
        result = read("features.json")
    except FileNotFoundError:
        return "Not measured yet: `python -m benchmarks.features --json benchmarks/results/features.json`.\n"
    rows = []
    for found in result["results"]:
        rates = {name: number(rate["median"]) for name, rate in found["images_per_second"].items()}
        name = f"{found['backbone']} at {found['side']}: {found['choice']['library']} {found['choice']['precision']}"
        ratio = found["ratio_to_onnxruntime"]["ours"]
        ways = ("ours", "onnxruntime", "torch fp32", "torch bf16", "pixels")
        rows.append([name, *(rates[way] for way in ways), f"{number(ratio)}×", f"{found['lowest_cosine']['ours']:.4f}"])
    head = ["images/s", "here", "onnxruntime", "torch fp32", "torch bf16", "resizing alone", "ratio", "lowest cosine"]
    return (
        markdown(head, rows)
        + f"\nMedians of {result['repeats']} rounds; the ratio is that of neighboring measurements to onnxruntime, the "
        f"cosine that to the features in fp32. {where(result['machine'])}.\n"
    )
