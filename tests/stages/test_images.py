"""How images are read: found out by the first stage, recorded with every run, and used by all that follows."""

import json

import numpy as np
import pytest
from PIL import Image

from system import files
from tests.stage import command
from utils import saved
from utils.common_config import get_val_dataset
from utils.config import load_config

pytestmark = pytest.mark.slow
QUICK = ["--num_clusters", 2, "--quick", "--dry_run", "--output"]
NORMALIZE = "normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"


def write(folder, num=24, top=4095):
    """12-bit gray of two kinds, of which some are much darker."""
    random = np.random.default_rng(0)
    folder.mkdir()
    rows = np.linspace(0, top, 32)[:, None].repeat(32, 1)
    for number in range(num):
        level = (rows if number % 2 else rows.T) / (1 + number % 3)
        level = np.clip(level + random.normal(0, 20, level.shape), 0, top).astype(np.uint16)
        level[0, 0] = top if number == 0 else 0
        Image.fromarray(level).save(folder / f"{number:02d}.tif")
    return folder


@pytest.fixture
def words(tmp_path):
    folder = write(tmp_path / "photos")
    return [
        "train_db_name=folder", "val_db_name=null", f"train_db_kwargs={{root: {folder}}}", "num_classes=2",
        "backbone=resnet8", "width=4", "stem=cifar_s2", "epochs=1", "batch_size=8", "num_neighbors=3",
        "num_mined_train=3", "num_mined_val=5", "db_alias=runs", f"root_dir={tmp_path / 'results'}", "device=cpu",
        "precision=fp32", f"transformation_kwargs={{crop_size: 32, {NORMALIZE}}}",
    ]  # fmt: skip


def config(stage):
    return ["--config_exp", str(files.REPOSITORY / f"configs/{stage}_cifar10.yml")]


def record(tmp_path, stage):
    return json.loads((tmp_path / "results/runs" / stage / "run.json").read_text())


def test_runs_record_how_images_are_read_and_later_ones_go_by_it(tmp_path, words, capsys):
    assert command("simclr", *config("pretext/simclr"), *words) == 0
    expected = {"side": 32, "streamed": False, "values": {"whole": [0, 4095]}}
    found = record(tmp_path, "pretext")["images"]
    assert {key: found[key] for key in expected} == expected
    # A dark picture more would not change the range, a bright one would; neither does once it is known.
    assert command("scan", *config("scan/scan"), *words) == 0
    assert record(tmp_path, "scan")["images"]["values"] == {"whole": [0, 4095]}
    p = load_config(None, config("scan/scan")[1], words)
    assert saved.reading(p, tmp_path / "results/runs/scan/model.pth.tar").values.whole == (0, 4095)
    seen = get_val_dataset(p).images
    dark = tmp_path / "dark"
    dark.mkdir()
    level = np.asarray(Image.open(tmp_path / "photos/05.tif"))
    Image.fromarray(level).save(dark / "05.tif")
    p.train_db_kwargs.root = str(dark)
    assert get_val_dataset(p).images[0].equal(seen[5])
    # predict gives the very features that the stage saw, of a file alone.
    rows = tmp_path / "rows.npy"
    arguments = ["--model", str(tmp_path / "results/runs/scan"), "--device", "cpu", "--output", str(tmp_path / "o.csv")]
    assert command("predict", *arguments, "--embeddings", rows, tmp_path / "photos") == 0
    whole = np.load(rows)
    assert command("predict", *arguments, "--embeddings", rows, dark / "05.tif") == 0
    np.testing.assert_allclose(np.load(rows)[0], whole[5], rtol=1e-4, atol=1e-5)
    assert command("eval", *config("scan/scan"), *words) == 0
    capsys.readouterr()


def test_a_run_that_recorded_nothing_is_read_as_it_was(tmp_path, words):
    assert command("simclr", *config("pretext/simclr"), *words) == 0
    path = tmp_path / "results/runs/pretext/run.json"
    old = json.loads(path.read_text())
    del old["images"]
    files.write_text(path, json.dumps(old), record=True)
    p = load_config(None, config("scan/scan")[1], words)
    assert get_val_dataset(p).images.max() == 16  # of 0..65535, in which 4095 is 16 of 255
    old["images"] = {"side": "nonsense"}
    files.write_text(path, json.dumps(old), record=True)
    assert get_val_dataset(p).images.max() == 255


def test_a_dry_run_shows_images_as_the_network_will_see_them(tmp_path, capsys):
    folder, output = write(tmp_path / "photos", 60), tmp_path / "out"
    assert command("cluster", folder, *QUICK, output) == 0
    said = capsys.readouterr().out
    assert said.count("16-bit gray from 0 (black) to 4095 (white)") == 1
    assert str(output / "images.png") in said
    assert json.loads((output / "images.json").read_text())["values"] == {"whole": [0, 4095]}
    sheet = np.asarray(Image.open(output / "images.png").convert("L"))
    inner = sheet[40:-40, 30:-30]
    assert len(np.unique(inner)) > 100
    assert inner.mean() < 200
    assert not (output / "runs").exists()


def test_an_unreadable_image_leaves_a_gap_in_the_picture(tmp_path):
    folder = write(tmp_path / "photos", 30)
    (folder / "00.tif").write_bytes(b"no image")
    assert command("cluster", folder, *QUICK, tmp_path / "o") == 0
    assert (tmp_path / "o" / "images.png").stat().st_size > 1000
