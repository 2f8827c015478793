"""Exports, read back by what the tools' own documents say of their forms."""

import json
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pydantic import BaseModel, ConfigDict, Field

from report.edits import Clustering, Labels
from report.exports import check, export
from system.errors import UserError

PATHS = ["a.jpg", "sub/b #1?.png", 'c & "d".png', "none.png", "\udce9.png"]
NAMES = ["cat", 'a "dog" & <b>', "cat", "", "cat"]
SIZES = [(30, 20), (7, 9), (5, 5), (4, 4), (4, 4)]


@pytest.fixture
def given(tmp_path):
    """Images, of which the first is shown turned, and their labels; what stands in the folder `out` is the export."""
    for path, size in zip(PATHS, SIZES, strict=True):
        file = tmp_path / "my images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if path == "a.jpg" else 1
        Image.new("RGB", size).save(file, exif=exif)
    clustering = Clustering(PATHS, [0, 1, 0, 2, 0], ["0.9", "0.25", "1", "0.5", "0.5"])
    return tmp_path, clustering, Labels(NAMES, [False, True, False, False, False], [])


def write(kind, given):
    base, clustering, labels = given
    export(kind, base / "out", base / "my images", clustering, labels)
    return base / "out"


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_fiftyone_finds_every_image_and_its_class(given, capsys):
    out = write("fiftyone", given)
    files, labels = load(out / "data.json"), load(out / "labels.json")
    assert files.keys() == labels["labels"].keys() and not any("." in key for key in files)
    found = {}
    for key, target in labels["labels"].items():
        path = Path(files[key])
        assert path.is_absolute() and path.is_file()
        found[str(path.relative_to(given[0] / "my images"))] = None if target is None else labels["classes"][target]
    assert found == {path: name or None for path, name in zip(PATHS[:4], NAMES[:4], strict=True)}
    said = capsys.readouterr()
    assert "\\xe9.png (1 such)" in said.err and "1 images without a label are in it" in said.out


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Choices(Closed):
    choices: Annotated[list[str], Field(min_length=1, max_length=1)]


class Result(Closed):
    id: str
    from_name: str
    to_name: str
    type: Literal["choices"]
    value: Choices


class Annotation(Closed):
    result: list[Result]


class Prediction(Annotation):
    model_version: str
    score: Annotated[float, Field(ge=0, le=1)]


class Data(Closed):
    image: str


class Task(Closed):
    data: Data
    annotations: list[Annotation] = []
    predictions: list[Prediction] = []


def test_label_studio_gets_tasks_that_fit_its_labeling_interface(given):
    out = write("labelstudio", given)
    view = ElementTree.parse(out / "labeling.xml").getroot()
    image, choices = view.find("Image"), view.find("Choices")
    assert view.tag == "View" and image.get("value") == "$image" and choices.get("toName") == image.get("name")
    offered = [choice.get("value") for choice in choices.findall("Choice")]
    tasks = [Task.model_validate(task) for task in load(out / "tasks.json")]
    for task, path, name, size in zip(tasks, PATHS[:4], NAMES[:4], SIZES[:4], strict=True):
        address = urlsplit(task.data.image)
        assert address.path == "/data/local-files/" and not address.fragment
        with Image.open(given[0] / parse_qs(address.query)["d"][0]) as file:  # as seen from the document root
            assert file.size == size
        results = [one.result[0] for one in (*task.annotations, *task.predictions)]
        assert [result.value.choices[0] for result in results] == [name] * bool(name) and path in PATHS
        for result in results:
            assert (result.from_name, result.to_name) == (choices.get("name"), image.get("name"))
            assert result.value.choices[0] in offered
    assert [len(task.annotations) for task in tasks] == [0, 1, 0, 0]  # what a person decided
    assert [[one.score for one in task.predictions] for task in tasks] == [[0.9], [], [1.0], []]


def test_coco_has_a_box_around_every_labeled_image(given, capsys):
    (given[0] / "my images" / PATHS[2]).write_bytes(b"no image")
    out = write("coco", given)
    content = load(out / "labels.json")
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(images) == len(content["images"]) and min(names) == 1
    found = {}
    for number, own in enumerate(content["annotations"], 1):
        image = images[own["image_id"]]
        assert own["id"] == number and own["iscrowd"] == 0 and own["segmentation"] == []
        assert own["bbox"] == [0, 0, image["width"], image["height"]]
        assert own["area"] == image["width"] * image["height"]
        found[image["file_name"]] = (names[own["category_id"]], image["width"], image["height"])
    assert found == {"a.jpg": ("cat", 20, 30), "sub/b #1?.png": ('a "dog" & <b>', 7, 9)}  # the first is shown upright
    said = capsys.readouterr()
    assert "cannot be read any more" in said.err and "1 images without a label are left out" in said.out


def test_the_coco_api_reads_what_is_written(given):
    content = COCO(str(write("coco", given) / "labels.json"))
    found = {}
    for category in content.loadCats(content.getCatIds()):
        images = content.loadImgs(content.getImgIds(catIds=[category["id"]]))
        found |= {image["file_name"]: category["name"] for image in images}
    assert found == {path: name for path, name in zip(PATHS[:4], NAMES[:4], strict=True) if name}
    sizes = [own["area"] for own in content.loadAnns(content.getAnnIds(catIds=content.getCatIds(catNms=["cat"])))]
    assert sorted(sizes) == [5 * 5, 20 * 30]


def test_an_export_is_written_again_but_never_over_files_of_others(given):
    out = write("coco", given)
    check("coco", out)
    write("coco", given)
    (out / "data.json").write_text("mine")
    with pytest.raises(UserError, match=r"data\.json was not written by this program.*--export_to"):
        check("fiftyone", out)


@pytest.mark.parametrize("first, second", [("coco", "fiftyone"), ("fiftyone", "coco"), ("labelstudio", "coco")])
def test_one_folder_holds_one_export(given, first, second):
    out = write(first, given)
    check(first, out)
    with pytest.raises(UserError, match=r"is of an export for another tool; .*--export_to"):
        check(second, out)


def test_a_manifest_of_the_users_is_found_before_anything_is_written(given):
    (given[0] / "out").mkdir()
    (given[0] / "out" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json is not a list of this program's.*move it away"):
        check("coco", given[0] / "out")
