"""The rows of the ablations: which commands make each, what of their scores it keeps, and the paper's figures."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

PRETEXT_SCORES = {"knn": "knn_acc", "purity_20": "purity.20", "kmeans": "kmeans.acc.mean"}
SIMCLR_VIEWS = (
    "augmentation_strategy=simclr",
    "augmentation_kwargs={random_resized_crop: {scale: [0.2, 1.0]}, color_jitter_random_apply: {p: 0.8}, "
    "color_jitter: {brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}, random_grayscale: {p: 0.2}, "
    "flip: FLIP}",
)
STRONG_VIEWS = (
    "augmentation_strategy=ours",
    "augmentation_kwargs={num_strong_augs: 4, cutout_kwargs: {n_holes: 1, length: SIDE, random: true}}",
)

RECORDED = {"ucc": ("unseen_bag_acc",)}  # scores of a method that eval.py does not give

_CLUSTERS = {"acc": "acc", "nmi": "nmi", "ari": "ari"}
_KMEANS = {name: f"kmeans.{name}.mean" for name in _CLUSTERS}


class Step(NamedTuple):
    """A command: a method's script with a config, or with `sweep` a sweep of it; and what is kept of its scores."""

    setup: str
    config: str
    """Below configs, without its ending."""
    words: tuple[str, ...] = ()
    scores: Mapping[str, str] = MappingProxyType({})
    """The name of a score here → where eval.py's JSON has it."""
    recorded: tuple[str, ...] = ()
    """Scores that only the run itself has, by their names in its result."""
    sweep: str = ""
    """The name of the sweep, whose table is kept."""


class Row(NamedTuple):
    """A line of a table."""

    table: str
    title: str
    steps: tuple[Step, ...]
    minutes: int
    """About how long it takes on two idle cores; what an earlier row has trained is not trained again."""
    printed: str = ""
    """The paper's figures, in words."""


def _key(data: str) -> str:
    return data.removesuffix("_cpu")


_SIMCLR = "pretext/simclr_cifar10_cpu"
# What SCAN's paper gives SimCLR; the recipe for two cores has .3, which spreads images less evenly.
_PUBLISHED = ("criterion_kwargs={temperature: 0.1}",)
_MUON = ("optimizer=muon", "optimizer_kwargs={lr: 0.03, momentum: 0.95, vector_factor: 5}")


def _simclr(data: str) -> Step:
    """The run that everything on a data set starts from, with neighbors enough for the sweep of them."""
    words = ("epochs=45",) if data == "cifar10_cpu" else ()
    return Step("simclr", f"pretext/simclr_{data}", (*words, "num_mined_train=50"), PRETEXT_SCORES)


def _scan(data: str, *words: str, kept: str = "scan") -> Step:
    return Step("scan", f"scan/scan_{data}", words, {kept: "acc"})


def _selflabel(data: str, *words: str, kept: str = "selflabel", recorded: tuple[str, ...] = ()) -> Step:
    return Step("selflabel", f"selflabel/selflabel_{data}", words, {kept: "acc"}, recorded)


def _pretext(name: str, title: str, printed: str = "", first: Step | None = None, run: str = "") -> Row:
    """A pretext task, by default that of the config of this name, and the stages after it."""
    data = "cifar10_cpu"
    first = first or Step(name, f"pretext/{name}_{data}", scores=PRETEXT_SCORES)
    words = (f"run_name={name}", f"pretext_run={run or name}")
    after = (_scan(data, *words), _selflabel(data, *words, f"scan_run={name}", recorded=("scan_loss",)))
    return Row("pretext", title, (first, *after), 70, printed)


def _clustering(method: str, title: str, minutes: int, printed: str, *words: str, config: str = "mnist") -> Row:
    step = Step(method, f"methods/{method}_{config}", words, _CLUSTERS, recorded=RECORDED.get(method, ()))
    return Row("mnist", title, (step,), minutes, printed)


def _views(data: str, views: tuple[str, ...]) -> tuple[str, ...]:
    """With holes of half the side; a mirrored digit is no digit."""
    side, flip = ("8", "0") if data == "digits" else ("16", "0.5")
    return tuple(word.replace("SIDE", side).replace("FLIP", flip) for word in views)


def _view_rows(data: str, label: str, minutes: int, printed: Mapping[str, str]) -> dict[str, Row]:
    """The SCAN loss with both kinds of views, and self-labeling after each as in the paper's table."""
    kinds = {"simclr": ("SimCLR's views", SIMCLR_VIEWS), "strong": ("strong views", STRONG_VIEWS)}
    scans = {
        kind: _scan(data, f"run_name=views-{kind}", *_views(data, views), kept="acc")
        for kind, (_, views) in kinds.items()
    }
    rows = {
        f"scan-{kind}": Row("views", f"{label}: SCAN loss, {kinds[kind][0]}", (_simclr(data), scan), minutes)
        for kind, scan in scans.items()
    }
    for name, first, last in (
        ("selflabel-simclr", "simclr", "simclr"),
        ("selflabel-mixed", "simclr", "strong"),
        ("selflabel-strong", "strong", "strong"),
    ):
        title, views = kinds[last]
        words = (f"run_name={name}", f"scan_run=views-{first}", *_views(data, views))
        steps = (_simclr(data), scans[first]._replace(scores={}), _selflabel(data, *words, kept="acc"))
        rows[name] = Row("views", f"{label}: self-labeling, {title}, after SCAN with {kinds[first][0]}", steps, minutes)
    return {f"{_key(data)}-{name}": row._replace(printed=printed.get(name, "")) for name, row in rows.items()}


def _sweep(data: str, label: str, seeds: str, minutes: int) -> dict[str, Row]:
    first = (_simclr(data), _scan(data))
    neighbors = Step("scan", f"scan/scan_{data}", ("num_neighbors=5,10,20,50", seeds), sweep="neighbors")
    threshold = Step(
        "selflabel",
        f"selflabel/selflabel_{data}",
        ("confidence_threshold=0.5,0.8,0.9,0.95,0.99", seeds),
        sweep="threshold",
    )
    rows = {
        "neighbors": ("number of neighbors K", (first[0], neighbors), "flat from 5 to 50"),
        "threshold": ("threshold of self-labeling", (*first, threshold), "flat from .9 to .99: 86.8, 87.3, 86.7"),
    }
    return {
        f"{_key(data)}-{name}": Row("sweeps", f"{label}: {title}", steps, minutes, printed)
        for name, (title, steps, printed) in rows.items()
    }


class Change(NamedTuple):
    """What a row changes of the recipe for two cores on CIFAR-10."""

    title: str
    pretext_words: tuple[str, ...] = ()
    scan: tuple[str, ...] = ()
    """Words of its SCAN run."""
    last: str = "selflabel"
    last_words: tuple[str, ...] = ()


AVERAGED = ("average_decay=0.99",)
CHANGES = {
    "recipe": Change("the recipe"),
    "muon": Change("SimCLR by Muon, 60 epochs instead of 90", pretext_words=(*_MUON, "epochs=60")),
    "average": Change("average of weights in self-labeling", last_words=AVERAGED),
    "fixmatch": Change("FixMatch, average of weights", last="fixmatch"),
}
"""After the whole pretext task, over seeds."""
HALF_CHANGES = {
    "recipe": Change("the recipe but for the pretext task"),
    "scan-longer": Change("three times the epochs of SCAN", scan=("epochs=24",)),
    "average-scan": Change("average of weights in SCAN", scan=AVERAGED),
    "longer": Change("twice the epochs of self-labeling", last_words=("epochs=40",)),
    "fixmatch": Change("FixMatch, average of weights", last="fixmatch"),
}
"""After half the epochs of the pretext task, with one seed."""
SEEDS = (0, 1, 2)
LOSSES = ("scan_loss", "last_loss")


def _changed(change: Change, scan: str, run: str, words: tuple[str, ...]) -> tuple[Step, Step]:
    """SCAN and the last stage with a change, as runs of these names, both with these words."""
    last = (f"run_name={run}", f"scan_run={scan}", *words, *change.last_words)
    return (
        _scan("cifar10_cpu", f"run_name={scan}", *words, *change.scan),
        Step("selflabel", f"selflabel/{change.last}_cifar10_cpu", last, {"selflabel": "acc"}, LOSSES),
    )


def _change_rows() -> dict[str, Row]:
    """Every change with three seeds of the last two stages, all first ones first; the pretext run is shared."""
    rows = {}
    first = {"recipe": 80, "muon": 70}  # minutes of what the rows after it share
    for seed in SEEDS:
        for name, change in CHANGES.items():
            own = f"simclr-{name}" if change.pretext_words else "simclr"
            pretext, scan = f"recipe-{own}", f"{own}-{seed}"
            words = (f"seed={seed}", f"pretext_run={pretext}")
            once: Mapping[str, str] = {"kmeans": PRETEXT_SCORES["kmeans"]} if seed == SEEDS[0] else {}
            features = Step("simclr", _SIMCLR, (f"run_name={pretext}", *change.pretext_words), once)
            steps = (features, *_changed(change, scan, f"{name}-{seed}", words))
            rows[f"changes-{name}-{seed}"] = Row("changes", change.title, steps, 25 + first.pop(name, 0))
    return rows


def _half_rows() -> dict[str, Row]:
    """Changes after the pretext run of the rows of views; the first row is one of these, scored after every stage."""
    rows, views = {}, _views("cifar10_cpu", STRONG_VIEWS)
    pretext = _simclr("cifar10_cpu")._replace(scores={"kmeans": PRETEXT_SCORES["kmeans"]})
    for name, change in HALF_CHANGES.items():
        scan = f"half-{name}" if change.scan else "views-strong"
        run = "selflabel-strong" if name == "recipe" else f"half-{name}"
        steps = (pretext, *_changed(change, scan, run, views))
        rows[f"half-{name}"] = Row("half", change.title, steps, 40 if change.scan else 25)
    return rows


_MNIST_SIMCLR = Step("simclr", "pretext/simclr_mnist", scores=_KMEANS)
_MNIST_SCAN = Step("scan", "scan/scan_mnist", scores=_CLUSTERS)
_MNIST_LAST = Step("selflabel", "selflabel/selflabel_mnist", scores=_CLUSTERS)
_PRETRAINED = Step("pretrained", "pretext/pretrained_digits", scores=_KMEANS)


def _digits_step(name: str) -> Step:
    """The run of SimCLR is that of the other tables."""
    words = _simclr("digits").words if name == "simclr" else ()
    return Step(name, f"pretext/{name}_digits", words, _KMEANS)


def _digits() -> dict[str, Row]:
    """Every method by its config for handwritten digits."""
    titles = {"simclr": "SimCLR", "instdisc": "memory bank", "byol": "BYOL", "rotnet": "rotation"}
    rows = {
        f"digits-{name}": Row("digits", f"{title} + K-means", (_digits_step(name),), 1)
        for name, title in titles.items()
    }
    scan = (_digits_step("simclr"), Step("scan", "scan/scan_digits", scores=_CLUSTERS))
    for name, title in {"selflabel": "self-labeling", "fixmatch": "FixMatch"}.items():
        last = Step("selflabel", f"selflabel/{name}_digits", scores=_CLUSTERS)
        rows[f"digits-{name}"] = Row("digits", f"SimCLR, SCAN, {title}", (*scan, last), 1)
    supervised = Step("supervised", "pretext/supervised_digits", scores={"acc": "acc"})
    candidates = Step("candidates", "methods/candidates_digits", scores=_CLUSTERS)
    rows |= {
        "digits-supervised": Row("digits", "supervised", (supervised,), 1),
        "digits-pretrained": Row("digits", "pretrained network + K-means", (_PRETRAINED,), 1),
        "digits-candidates": Row("digits", "pretrained network, candidates", (_PRETRAINED, candidates), 2),
    }
    for name, title in {"kmeans": "K-means on pixels", "iic": "IIC", "ucc": "UCC"}.items():
        step = Step(name, f"methods/{name}_digits", scores=_CLUSTERS, recorded=RECORDED.get(name, ()))
        rows[f"digits-{name}"] = Row("digits", title, (step,), 1)
    return rows


ROWS: dict[str, Row] = {
    "pretext-rotnet": _pretext("rotnet", "rotation", "K-means 27.1, then SCAN and self-labeling 74.3"),
    "pretext-instdisc": _pretext("instdisc", "memory bank", "K-means 52.0, then SCAN and self-labeling 83.5"),
    "pretext-published": _pretext(
        "published",
        "SimCLR, temperature .1",
        "K-means 65.9, then SCAN and self-labeling 87.6",
        Step("simclr", _SIMCLR, ("run_name=published", "epochs=45", *_PUBLISHED), PRETEXT_SCORES),
    ),
    "pretext-simclr": _pretext("simclr", "SimCLR, temperature .3", first=_simclr("cifar10_cpu"), run="cpu"),
    "pretext-muon": _pretext(
        "muon20",
        "SimCLR, temperature .3, Muon, 20 epochs",
        "",
        Step("simclr", _SIMCLR, ("run_name=muon20", "epochs=20", "knn_every=5", *_MUON), PRETEXT_SCORES),
    ),
    "pretext-byol": _pretext("byol", "BYOL", "K-means 89.4, not in SCAN's paper"),
    "mnist-kmeans": _clustering("kmeans", "K-means on pixels", 2, "57.2, another protocol"),
    "mnist-autoencoder": _clustering(
        "ucc",
        "autoencoder + K-means",
        9,
        "",
        "criterion_kwargs={reconstruction: 1}",
        "run_name=autoencoder",
        config="mnist_cpu",
    ),
    "mnist-ucc": _clustering("ucc", "UCC, counts of classes in bags", 9, "98.4", config="mnist_cpu"),
    "mnist-iic": _clustering("iic", "IIC, train + test", 18, "98.4 ± .65, best 99.2", config="mnist_cpu"),
    "mnist-simclr": Row("mnist", "SimCLR + K-means", (_MNIST_SIMCLR,), 12, ""),
    "mnist-scan": Row("mnist", "SCAN", (_MNIST_SIMCLR, _MNIST_SCAN), 4, ""),
    "mnist-selflabel": Row("mnist", "self-labeling", (_MNIST_SIMCLR, _MNIST_SCAN, _MNIST_LAST), 3, ""),
    "mnist-supervised": Row(
        "mnist", "supervised", (Step("supervised", "pretext/supervised_mnist", (), {"acc": "acc"}),), 3, "98.8"
    ),
    **_digits(),
    **_view_rows("digits", "digits", 2, {}),
    **_view_rows(
        "cifar10_cpu",
        "CIFAR-10",
        15,
        {
            "scan-simclr": "78.7",
            "scan-strong": "81.8",
            "selflabel-simclr": "10.0",
            "selflabel-mixed": "87.4",
            "selflabel-strong": "87.6",
        },
    ),
    **_sweep("digits", "digits", "seed=0,1,2", 5),
    **_sweep("cifar10_cpu", "CIFAR-10", "seed=0", 60),
    **_change_rows(),
    **_half_rows(),
}
"""In the order in which they run."""
