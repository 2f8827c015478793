"""What label.py does besides training: look before it writes, say what was labeled, sort and export."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import exports
from report.edits import Clustering, Labels
from report.sorting import Sorter, copy_file, folder_names, link_file
from system import owned
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.text import shown
from training.folder import CONFIG, MODEL
from training.record import RECORD
from utils import saved

ADVICE = "move it away"


@dataclass(frozen=True)
class Labeling:
    """A clustering's output folder, its images, and the labels that they are given."""

    output: Path
    images: Path
    clustering: Clustering
    labels: Labels

    def rows(self) -> tuple[list[str], list[str]]:
        """Whole paths of the labeled images, and their labels."""
        root, pairs = self.images.resolve(), zip(self.clustering.paths, self.labels.names, strict=True)
        chosen = [(str(root / path), name) for path, name in pairs if name]
        return [path for path, _ in chosen], [name for _, name in chosen]


@dataclass(frozen=True)
class Places:
    """Where labels go besides the output folder: a folder a label, by copies or links, and an export to a tool."""

    sorted: Path | None
    place: Any
    kind: str
    exported: Path | None


def find_places(args: Any) -> Places:
    """The places that a command line names; an export goes next to the output folder unless it says where."""
    if args.export_to and not args.export:
        raise ConfigError("--export_to says where an export goes; say which one with --export")
    folder = args.copy_to or args.link_to
    output = Path(args.output) if Path(args.output).name not in ("", "..") else Path(args.output).resolve()
    target = Path(args.export_to or output.with_name(f"{output.name}-{args.export}")) if args.export else None
    if args.export != exports.IMAGEFOLDER:
        return Places(Path(folder) if folder else None, copy_file if args.copy_to else link_file, args.export, target)
    if folder:
        raise ConfigError(
            "--export imagefolder copies images into one folder a label; leave out --copy_to or --link_to"
        )
    return Places(target, copy_file, "", None)


def check(task: Labeling, places: Places, given: str) -> None:
    """Raise UserError where nothing is named or a labeled image is gone, ConfigError for a place among other files."""
    if not task.labels.classes:
        raise UserError(f"{given} gives no image a label; name at least two clusters in report.html")
    gone = [path for path in task.rows()[0] if not Path(path).is_file()]
    if gone:
        more = f" and {len(gone) - 1:,} other images are" if len(gone) > 1 else " is"
        raise UserError(f"{shown(gone[0])}{more} gone; put them back, or give --images DIR if the folder was moved")
    for folder in filter(None, (places.sorted, places.exported)):
        for other, what in ((task.images, "the folder of images"), (task.output, "the output folder")):
            if folder.resolve().is_relative_to(other.resolve()):
                raise ConfigError(f"{folder} is inside {what} {other}; give another")


def require_own(task: Labeling, places: Places) -> None:
    """Raise UserError where what will be written stands as a file of the user's."""
    owned.require_own(task.output, [saved.LABELS], ADVICE)
    owned.require_own(task.output / saved.CLASSIFIER, [MODEL, CONFIG, RECORD], ADVICE)
    if places.exported:
        exports.check(places.kind, places.exported)


def find_sorter(task: Labeling, places: Places) -> Sorter | None:
    """What puts images into one folder a label, where that is asked for; raises UserError for a folder in use."""
    if places.sorted is None:
        return None
    request = {"labels": str(task.output.resolve()), "images": str(task.images.resolve())}
    return Sorter(places.sorted, places.place, folder_names(task.labels.classes), request)


def sort(sorter: Sorter, task: Labeling) -> None:
    """Copy or link the labeled images into one folder a label."""
    paths, names = task.rows()
    numbers = {name: number for number, name in enumerate(task.labels.classes)}
    with contextlib.closing(sorter):
        sorter.write(paths, [numbers[name] for name in names])
        sorter.finish()
    say(f"sorted: {sorter.folder}")
    changed = [name for name, folder in zip(numbers, sorter.groups, strict=True) if name != folder]
    if changed:
        say(f"labels that cannot be folder names are changed there: {listed(changed)}")
    if left_out := len(task.labels.names) - len(names):
        say(f"{left_out:,} images without a label are left out")


def say_labels(path: Path, labels: Labels) -> None:
    """Say what was labeled, and what may surprise."""
    counts = Counter(name for name in labels.names if name)
    total, by_hand = sum(counts.values()), sum(labels.by_hand)
    say(f"labels: {path}: {total:,} of {len(labels.names):,} images in {len(counts):,} classes, {by_hand:,} by hand")
    say(", ".join(f"{shown(name, 40)} {count:,}" for name, count in counts.most_common()))
    for name in labels.shared:
        say(f"several clusters are called {shown(name)}; they are one class")
    single = [name for name, count in counts.items() if count == 1]
    if single:
        warn(f"classes of a single image, which say little: {listed(single)}")


def listed(names: Sequence[str]) -> str:
    """Names from outside, in a sentence."""
    return ", ".join(map(shown, names))
