"""The tables of the ablations: what was run, and next to it what the papers report."""

from typing import Any

from benchmarks.ablation_rows import CHANGES, HALF_CHANGES, LOSSES, ROWS, SEEDS
from benchmarks.digits import spread
from benchmarks.markdown import Read, markdown, percent, where

UNRUN = "unrun"
PRETEXT = {
    "knn": "k-NN",
    "purity_20": "purity at 20",
    "kmeans": "K-means",
    "scan": "SCAN",
    "selflabel": "self-labeling",
}
CLUSTERS = {"acc": "ACC", "nmi": "NMI", "ari": "ARI"}
FITS = " K-means on the features of a pretext task or of a pretrained network is the mean of five fits."


def _machines(found: dict[str, Any]) -> str:
    """Where each row was run; rows of one machine and commit are told together."""
    places: dict[str, list[str]] = {}
    for name, row in found.items():
        words = f", with {' '.join(row['overrides'])}" if row["overrides"] else ""
        places.setdefault(where(row["machine"]) + words, []).append(name)
    return "".join(f" {', '.join(names)}: {place}." for place, names in places.items())


def _minutes(found: dict[str, Any]) -> str:
    """The minutes of all steps of a row; at most so many where the machine did other work."""
    minutes = sum(filter(None, found["seconds"].values())) / 60
    machine = found["machine"]
    busy = (machine.get("load_average") or [0])[0] > machine["cores"] + 1
    return ("≤ " if busy else "") + (f"{minutes:.0f}" if minutes >= 1 else "1" if busy else "< 1")


def _table(result: dict[str, Any], table: str, columns: dict[str, str], first: str, note: str) -> str:
    rows, there = [], {}
    for name, row in ROWS.items():
        if row.table != table:
            continue
        found = result["rows"].get(name)
        cells = [UNRUN] * len(columns) + [""]
        if found:
            there[name] = found
            cells = [f"{100 * found['scores'][key]:.1f}" if key in found["scores"] else "" for key in columns]
            cells.append(_minutes(found))
        rows.append([row.title, *cells, row.printed])
    if any("≤" in minutes for *_, minutes, _ in rows):
        note += " ≤: at the end of the row the machine did other work."
    head = [first, *columns.values(), "minutes", "published"]
    return markdown(head, rows) + f"\n{note}{_machines(there)}\n"


def pretext(read: Read) -> str:
    """Pretext tasks on CIFAR-10, and what the stages make of them."""
    result = read("ablations.json")
    minutes, losses = [], []
    for name, row in ROWS.items():
        found = result["rows"].get(name)
        if found and row.table == "pretext":
            if seconds := found["seconds"].get(row.steps[0].setup):
                minutes.append(f"{row.title}: {seconds / 60:.0f}")
            if "scan_loss" in found["scores"]:
                losses.append(f"{row.title}: {found['scores']['scan_loss']:.2f}")
    note = (
        f"One seed. Minutes of the pretext task, {'; '.join(minutes)}. "
        "SimCLR by SGD is given half the epochs of its config for two cores. What is published is of other "
        "networks and hundreds of epochs: the order is what to compare. SCAN's validation loss, which needs no labels "
        f"and is of the neighbors of each pretext task itself, {'; '.join(losses) or UNRUN}.{FITS}"
    )
    return _table(result, "pretext", PRETEXT, "CIFAR-10 (JPEG copy), two cores, %", note)


def mnist(read: Read) -> str:
    """Every kind of method on MNIST."""
    result = read("ablations.json")
    note = "Test images, IIC's all 70,000; one seed. UCC reads the counts of classes in bags, supervised all labels."
    note += FITS
    return _table(result, "mnist", CLUSTERS, "MNIST, two cores, %", note + _counted(result, "mnist-ucc"))


def digits(read: Read) -> str:
    """Every method by its config for handwritten digits."""
    result = read("ablations.json")
    note = "360 test images, on which the recipes were chosen; one seed." + FITS
    return _table(result, "digits", CLUSTERS, "digits, %", note + _counted(result, "digits-ucc"))


def _counted(result: dict[str, Any], name: str) -> str:
    """How well the classes of unseen bags were counted, where the row has it."""
    share = result["rows"].get(name, {}).get("scores", {}).get("unseen_bag_acc")
    if share is None:
        return ""
    return f" UCC's count of classes is right for {100 * share:.0f} % of unseen bags, by chance for 25."


def views(read: Read) -> str:
    """The SCAN loss and self-labeling with both kinds of views, and whether a collapse was warned of."""
    result = read("ablations.json")
    note = "One seed."
    for name, row in ROWS.items():
        said = [text for texts in result["rows"].get(name, {}).get("warnings", {}).values() for text in texts]
        if row.table == "views" and said:
            note += f" While {row.title} ran, it said: {'; '.join(said)}."
    return _table(result, "views", {"acc": "ACC"}, "views, test split, %", note)


def changes(read: Read) -> str:
    """What each change of the recipe for two cores brings alone, after its whole pretext task, over seeds."""
    rows = {change.title: [f"changes-{name}-{seed}" for seed in SEEDS] for name, change in CHANGES.items()}
    note = "mean ± sample standard deviation over seeds of the last two stages, after one pretext run"
    return _changes(read("ablations.json"), rows, note)


def half_changes(read: Read) -> str:
    """The same after half the epochs of the pretext task, with one seed."""
    rows = {change.title: [f"half-{name}"] for name, change in HALF_CHANGES.items()}
    return _changes(read("ablations.json"), rows, "one seed, all after the same pretext run of 45 epochs")


def _changes(result: dict[str, Any], titled: dict[str, list[str]], note: str) -> str:
    rows, there = [], dict[str, Any]()
    for title, names in titled.items():
        found = {name: result["rows"][name] for name in names if name in result["rows"]}
        cells = [UNRUN] * 4 + [""] * 2
        if found:
            there |= found
            first = next(iter(found.values()))
            last = [spread([row["scores"][stage] for row in found.values()]) for stage in ("scan", "selflabel")]
            times = [f"{max(row['seconds'][stage] for row in found.values()) / 60:.0f}" for stage in first["seconds"]]
            scores = [row["scores"] for row in found.values()]
            kmeans = next((f"{100 * one['kmeans']:.1f}" for one in scores if "kmeans" in one), "")  # of the first seed
            losses = [[one[key] for one in scores if key in one] for key in LOSSES]
            means = ", ".join(f"{sum(values) / len(values):.3f}" for values in losses if values)
            shown = [percent(score) if len(found) > 1 else f"{100 * score['mean']:.1f}" for score in last]
            cells = [kmeans, *shown, means, ", ".join(times), str(len(found))]
        rows.append([title, *cells])
    scores = ["K-means", "SCAN", "last stage", "validation losses"]
    head = ["CIFAR-10 (JPEG copy), two cores, %", *scores, "minutes of each stage", "seeds"]
    note = (
        f"Test ACC, {note}; a row changes only what it says. The validation losses of SCAN and of the last stage need "
        "no labels; they are of the pretext run's neighbors, and that of the last stage does not order such stages as "
        f"ACC does.{FITS}"
    )
    return markdown(head, rows) + f"\n{note}{_machines(there)}\n"


def sweeps(read: Read) -> str:
    """ACC over numbers of neighbors and thresholds."""
    result, rows, there = read("ablations.json"), [], {}
    for name, row in ROWS.items():
        if row.table != "sweeps":
            continue
        found = result["rows"].get(name)
        cells = UNRUN
        if found:
            there[name] = found
            key = next(iter(found["sweep"][0]))
            cells = ", ".join(f"{line[key]}: {100 * float(line['acc_mean']):.1f}" for line in found["sweep"])
            cells += f"; seeds: {found['sweep'][0]['num_runs']}"
        rows.append([row.title, cells, row.printed])
    note = f"Means over the seeds; a dot in the pictures is one run.{_machines(there)}"
    pictures = "".join(f"\n![{ROWS[name].title}](../benchmarks/results/{name}.png)\n" for name in there)
    return markdown(["sweep", "ACC, %, by value", "published"], rows) + f"\n{note}\n{pictures}"
