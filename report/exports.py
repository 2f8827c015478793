"""Labels in the forms that other tools import: FiftyOne, Label Studio, COCO; and how each of them takes them in."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from data.files.decode import upright_size
from data.files.formats import BadImageError
from report.edits import Clustering, Labels
from system import owned
from system.console import say, warn
from system.errors import UserError
from system.files import MANIFEST, is_own, names_of, write_text
from system.text import is_utf8, shown

IMAGEFOLDER = "imagefolder"
ADVICE = "move it away, or give another folder with --export_to"


class Row(NamedTuple):
    """An image: its number in the clustering, its path in the folder of images, its label, empty where it has none."""

    number: int
    path: str
    label: str
    by_hand: bool
    confidence: float


class Format(NamedTuple):
    """A tool's form: the files of an export, what makes their contents, what becomes of images without a label."""

    files: tuple[str, ...]
    make: Callable[[Path, Sequence[Row], list[str]], tuple[str, ...]]
    unlabeled: str
    how: str
    """How the tool takes them in."""


def fiftyone(root: Path, rows: Sequence[Row], classes: list[str]) -> tuple[str, str]:
    """data.json, where each image is, and labels.json, its class's number, null where it has no label."""
    numbers = {name: number for number, name in enumerate(classes)}
    data = {str(row.number): str(root / row.path) for row in rows}
    labels = {str(row.number): numbers.get(row.label) for row in rows}
    return _json(data), _json({"classes": classes, "labels": labels})


def labelstudio(root: Path, rows: Sequence[Row], classes: list[str]) -> tuple[str, str]:
    """tasks.json and labeling.xml; what a person decided is an annotation, what came with a cluster a prediction."""

    def task(row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {"data": {"image": f"/data/local-files/?d={quote(f'{root.name}/{row.path}')}"}}
        if not row.label:
            return found
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [row.label]}}
        if row.by_hand:
            return found | {"annotations": [{"result": [{"id": "label", **result}]}]}
        score = {"model_version": "clusters", "score": row.confidence}
        return found | {"predictions": [{**score, "result": [{"id": "label", **result}]}]}

    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    xml = (
        '<View>\n  <Image name="image" value="$image"/>\n  <Choices name="label" toName="image" choice="single">\n'
        f"{choices}  </Choices>\n</View>\n"
    )
    return _json([task(row) for row in rows]), xml


def coco(root: Path, rows: Sequence[Row], classes: list[str]) -> tuple[str]:
    """labels.json: of every labeled image a box around all of it; file names are relative to the folder of images."""
    numbers = {name: number for number, name in enumerate(classes, 1)}
    images, annotations, unreadable = [], [], []
    for row in (row for row in rows if row.label):
        try:
            width, height = upright_size(str(root / row.path))
        except BadImageError:
            unreadable.append(row.path)
            continue
        images.append({"id": row.number, "file_name": row.path, "width": width, "height": height})
        box = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0, "segmentation": []}
        own = {"id": len(images), "image_id": row.number, "category_id": numbers[row.label]}
        annotations.append({**own, **box})
    if unreadable:
        warn(f"images that cannot be read any more are left out: {shown(unreadable[0])} ({len(unreadable):,} such)")
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    return (_json({"images": images, "annotations": annotations, "categories": categories}),)


FORMATS = {
    "fiftyone": Format(
        ("data.json", "labels.json"),
        fiftyone,
        "are in it, without a class",
        "in Python: fiftyone.Dataset.from_dir(dataset_dir={folder!r}, "
        "dataset_type=fiftyone.types.FiftyOneImageClassificationDataset)",
    ),
    "labelstudio": Format(
        ("tasks.json", "labeling.xml"),
        labelstudio,
        "are tasks without a choice",
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={parent}; in a new project, paste labeling.xml under Labeling "
        "Interface, Code, add {root} under Cloud Storage as Local files (without synchronizing), and import tasks.json",
    ),
    "coco": Format(
        ("labels.json",),
        coco,
        "are left out",
        "file names in it are relative to {root}; a label is a box around the whole image",
    ),
}
CHOICES = (IMAGEFOLDER, *FORMATS)
"""What `--export` takes; a folder a class is no file, and is made by `report.sorting.Sorter`."""


def check(kind: str, folder: Path) -> None:
    """Raise UserError where an export would replace a file of the user's, or mix with one for another tool."""
    own = FORMATS[kind].files
    try:
        names_of(folder)
    except UserError as error:
        raise UserError(f"{folder / MANIFEST} is not a list of this program's, or is damaged; {ADVICE}") from error
    owned.require_own(folder, own, ADVICE)
    others = [name for found in FORMATS.values() for name in found.files if name not in own]
    if not is_own(folder / own[0]):  # it is written first, so that the rest is not of this form
        others += own
    if others := [name for name in others if is_own(folder / name)]:
        raise UserError(f"{folder / others[0]} is of an export for another tool; give another folder with --export_to")


def export(kind: str, folder: Path, root: Path, clustering: Clustering, labels: Labels) -> None:
    """Write labels as a tool imports them, and say how; `root` is the folder of images.

    Names that are not UTF-8 cannot stand in these files, and their images are left out. Raises UserError when a file
    cannot be written.
    """
    found, root = FORMATS[kind], root.resolve()
    confidence = map(float, clustering.confidence)
    table = zip(clustering.paths, labels.names, labels.by_hand, confidence, strict=True)
    rows = [Row(number, *row) for number, row in enumerate(table, 1)]
    good = [row for row in rows if is_utf8(row.path)]
    if len(good) < len(rows):
        bad = next(row.path for row in rows if not is_utf8(row.path))
        warn(f"names that are not UTF-8 are left out of the export: {shown(bad)} ({len(rows) - len(good):,} such)")
    for name, text in zip(found.files, found.make(root, good, labels.classes), strict=True):
        write_text(folder / name, text, listed=True)
    say(f"export: {folder} ({', '.join(found.files)})")
    if without := sum(not row.label for row in good):
        say(f"{without:,} images without a label {found.unlabeled}")
    say(found.how.format(folder=str(folder.resolve()), root=root, parent=root.parent))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
