import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cluster
import scan
from data.files.decode import read_image
from data.files.listing import ImageFiles
from recipes import opening
from recipes.choose import STAGES, choose
from recipes.configs import check_configs
from recipes.display import Clock, Display, Work, duration
from recipes.look import Look, look_at
from report.outputs import encode_rows
from system.errors import ConfigError, UserError
from system.runtime import Runtime
from system.text import csv_path
from tests.stage import command
from utils.config import load_config
from utils.schema import Config

HOSTILE = [
    "=cmd.png",
    "two words.png",
    'it\'s, "quoted".png',
    "日本.png",
    "<img src=x onerror=alert(1)>.png",
    "-dash.png",
]
BROKEN = ["broken.png", "bro\nken.png"]
FAST = ["simclr.epochs=1", "scan.epochs=1", "selflabel.epochs=1", "precision=fp32", "num_heads=1"]


def draw(path, kind, seed, size=(8, 8)):
    """A bar in one of three places, with noise."""
    pixels = np.random.default_rng(seed).integers(0, 60, size)
    pixels[:, 2 * kind : 2 * kind + 2] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def fill(folder, num_images=24, labels=False):
    for i in range(num_images):
        name = HOSTILE[i] if i < len(HOSTILE) else f"{i:03d}.png"
        draw(folder / (f"class{i % 3}/{name}" if labels else name), i % 3, i)


def run(*words):
    return command("cluster", *words)


def read(path):
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with hostile names and an unreadable file, clustered; self-labeling finds nothing confident enough."""
    base = tmp_path_factory.mktemp("cluster")
    fill(base / "images")
    for name in BROKEN:
        (base / "images" / name).write_bytes(b"no image")
    output = base / "out"
    words = [base / "images", "--num_clusters", 3, "--output", output, *FAST, "selflabel.confidence_threshold=1.0"]
    assert run(*words) == 0
    return words, output


def test_every_image_has_a_row(finished):
    words, output = finished
    rows = read(output / "clusters.csv")
    assert list(rows[0]) == ["path", "cluster", "confidence"]
    names = {path.name for path in words[0].iterdir()} - set(BROKEN)
    assert {Path(row["path"]).name for row in rows} == names and len(rows) == len(names)
    assert all((words[0] / row["path"]).is_file() for row in rows)
    assert not any(row["path"][0] in "=+-@" for row in rows)
    assert all(int(row["cluster"]) in range(3) and 1 / 3 < float(row["confidence"]) <= 1 for row in rows)


def test_report_and_log_are_there(finished):
    _, output = finished
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "日本.png" in page and "<img src=x onerror=" not in page
    assert "epoch 1/1" in (output / "log.txt").read_text(encoding="utf-8")
    assert sorted((output / "unreadable.txt").read_text().splitlines()) == ["bro\\nken.png", "broken.png"]


def test_nothing_confident_leaves_the_clusters_of_scan(finished):
    _, output = finished
    result = json.loads((output / "cluster.json").read_text())["result"]
    assert result["model"] == "model.pth.tar" and [row["name"] for row in result["verdict"]["candidates"]] == ["scan"]
    assert yaml.safe_load((output / "config.yml").read_text())["setup"] == "scan"
    assert (output / "model.pth.tar").read_bytes() == (output / "runs/scan/model.pth.tar").read_bytes()


def test_configs_are_plain_and_continue_by_hand(finished):
    _, output = finished
    for stage in STAGES:
        text = (output / "configs" / f"{stage}.yml").read_text()
        assert f"{stage}.py --config_env" in text and "&id" not in text
        p = load_config(output / "configs" / "env.yml", output / "configs" / f"{stage}.yml")
        assert p.setup == stage and p.epochs == 1 and p.scan_dir == str(output / "runs" / "scan")


def test_eval_writes_the_report_of_the_same_folder(finished, tmp_path, capsys):
    _, output = finished
    words = ["--config_env", str(output / "configs/env.yml"), "--report", "--out", str(tmp_path)]
    assert command("eval", *words, "--config_exp", output / "configs/scan.yml") == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "two words.png" in page and str(tmp_path / "report.html") in capsys.readouterr().out
    assert command("eval", *words, "--config_exp", output / "configs/simclr.yml") == 2


def test_a_second_call_trains_nothing(finished, capsys):
    words, output = finished
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*") if path.is_file()}
    assert run(*words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*") if path.is_file()}
    out = capsys.readouterr().out
    assert "finished" in out and str(output / "report.html") in out and str(output / "clusters.csv") in out


def test_a_finished_clustering_is_sorted_by_links(finished, tmp_path, capsys):
    words, output = finished
    assert run(*words, "--link_to", tmp_path / "sorted") == 0
    found = {path.name: int(path.parent.name.removeprefix("cluster-")) for path in (tmp_path / "sorted").glob("*/*")}
    assert found == {Path(row["path"]).name: int(row["cluster"]) for row in read(output / "clusters.csv")}
    assert f"24 in {tmp_path / 'sorted'}" in capsys.readouterr().out
    assert run(*words, "--link_to", tmp_path / "sorted") == 1
    assert run(*words, "--link_to", words[0] / "sorted") == 2


def test_another_request_is_refused(finished, capsys):
    words, _ = finished
    assert run(*words, "--quick") == 2
    assert "quick was False" in capsys.readouterr().err


@pytest.mark.slow
def test_another_number_takes_the_features_that_were_learned(finished, capsys):
    words, output = finished
    learned = (output / "runs/pretext/run.json").read_bytes()
    assert run(*[2 if word == 3 else word for word in words]) == 0
    assert (output / "runs/pretext/run.json").read_bytes() == learned
    assert {int(row["cluster"]) for row in read(output / "k02/clusters.csv")} <= {0, 1}
    assert yaml.safe_load((output / "k02/config.yml").read_text())["scan_dir"] == "../runs/scan/k02"
    assert str(output / "index.html") in capsys.readouterr().out


def test_words_of_stages_that_do_not_run_are_refused(finished, tmp_path, capsys):
    words, _ = finished
    assert (
        run(words[0], "--num_clusters", 3, "--features", "embedded", "--output", tmp_path / "out", "scan.epochs=3") == 2
    )
    assert "scan.epochs=3 is of a stage that these features do without" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("word", "sentence"), [("simclr.epoch=9", "epochs"), ("--dry_run", "starts nothing again")])
def test_starting_again_deletes_nothing_before_it_can(finished, word, sentence, capsys):
    words, output = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert run(*words, word, "overwrite=true") == 2
    assert sentence in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}


def test_a_changed_folder_is_noticed(finished, capsys):
    words, output = finished
    before = (output / "clusters.csv").read_bytes()
    draw(words[0] / "new.png", 0, 99)
    try:
        assert run(*words) == 1
        assert "26 images then, 27 now" in capsys.readouterr().err
        assert (output / "clusters.csv").read_bytes() == before
    finally:
        (words[0] / "new.png").unlink()


def test_labels_score_and_an_interrupted_clustering_goes_on(tmp_path, monkeypatch, capsys):
    fill(tmp_path / "images", labels=True)
    words = [tmp_path / "images", "--num_clusters", 3, "--output", tmp_path / "out", *FAST]
    words += ["selflabel.confidence_threshold=0.1", "tensorboard=true"]

    def interrupted(argv):
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "main", interrupted)
        assert run(*words) == 143
    pretext = tmp_path / "out" / "runs" / "pretext" / "model.pth.tar"
    written = pretext.stat().st_mtime_ns
    assert run(*words) == 0
    assert pretext.stat().st_mtime_ns == written
    assert "labels only score" in capsys.readouterr().out
    assert "acc" in json.loads((tmp_path / "out" / "cluster.json").read_text())["result"]["scores"]
    for stage, shown in {"pretext": [], "scan": ["prototypes"], "selflabel": ["prototypes"]}.items():
        board = EventAccumulator(str(tmp_path / "out" / "runs" / stage / "tensorboard")).Reload().Tags()
        assert "loss" in board["scalars"] and {tag.split("/")[0] for tag in board["images"]} == set(shown)


@pytest.mark.parametrize(
    ("num_images", "clusters", "code", "sentence"),
    [
        (0, 3, 1, "holds no images"),
        (1, 3, 1, "holds one image that can be read"),
        (4, 5, 1, "which cannot fill 5 clusters"),
        (4, 100_000, 1, "which cannot fill 100,000 clusters"),
        (4, 1, 2, "at least 2 clusters"),
        (4, 0, 2, "at least 2 clusters"),
    ],
)
def test_bad_numbers_get_their_sentence(tmp_path, capsys, num_images, clusters, code, sentence):
    (tmp_path / "images").mkdir()
    for i in range(num_images):
        draw(tmp_path / "images" / f"{i}.png", i % 3, i)
    assert run(tmp_path / "images", "--num_clusters", clusters, "--output", tmp_path / "out") == code
    error = capsys.readouterr().err
    assert sentence in error and error.count("error:") == 1 and not (tmp_path / "out").exists()


def test_identical_images_get_their_sentence(tmp_path):
    for i in range(5):
        draw(tmp_path / f"{i}.png", 1, 7)
    with pytest.raises(UserError, match="identical"):
        look_at(tmp_path, 2)


def test_no_readable_image_gets_its_sentence(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="can be read"):
        look_at(tmp_path, 2)


def test_wildly_different_sizes_get_a_warning(tmp_path, capsys):
    draw(tmp_path / "a.png", 0, 1)
    draw(tmp_path / "b.png", 1, 2, (500, 90))
    look_at(tmp_path, 2)
    assert "short sides of 8 to 90" in capsys.readouterr().err


def test_the_output_may_not_lie_among_the_images(tmp_path, capsys):
    draw(tmp_path / "a.png", 0, 1)
    assert run(tmp_path, "--num_clusters", 2, "--output", tmp_path / "out") == 2
    assert "inside the folder of images" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["num_classes=3", "scan.run_name=x", "root_dir=y", "overwrite=perhaps"])
def test_keys_that_are_not_for_overriding(tmp_path, word):
    with pytest.raises(ConfigError):
        cluster.main([str(tmp_path), "--num_clusters", "2", word])


def look(num_images, short_side, gray):
    files = ImageFiles("folder", Path("images"), [f"{i}.png" for i in range(num_images)], torch.zeros(0), [])
    return Look(files, num_images, short_side, gray, [0.3] * 3, [0.2] * 3)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("short_side", "gray"), [(8, True), (28, True), (32, False), (64, False), (300, True)])
def test_every_recipe_is_a_config_that_fits_the_images(device, quick, short_side, gray):
    for num_images in (2, 37, 1800, 60_000):
        recipe = choose(look(num_images, short_side, gray), 2, device, quick)
        for stage, config in recipe.configs.items():
            checked = Config.model_validate(config)
            assert checked.setup == stage and checked.batch_size <= num_images
        mined = Config.model_validate(recipe.configs["simclr"]).num_mined_train
        assert Config.model_validate(recipe.configs["scan"]).num_neighbors <= mined < num_images
    check_configs(recipe, [], Runtime.start("cpu"), [])  # which builds what the configs name


def test_signs_are_warped_and_pictures_are_flipped():
    views = {
        gray: [choose(look(500, 28, gray), 10, "cpu").configs[stage]["augmentation_strategy"] for stage in STAGES]
        for gray in (True, False)
    }
    assert views == {True: ["affine"] * 3, False: ["simclr", "ours", "ours"]}


def test_gray_is_told_from_color_without_labels(tmp_path):
    for i in range(4):
        draw(tmp_path / "gray" / f"{i}.png", i % 3, i)
        (tmp_path / "color").mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "color" / f"{i}.png")
    assert look_at(tmp_path / "gray", 2).gray and not look_at(tmp_path / "color", 2).gray


def test_mean_and_std_are_those_of_the_pixels(tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i, i, (32, 32))
    pixels = np.stack([np.asarray(read_image(str(path))[0]) for path in tmp_path.iterdir()]) / 255
    found = look_at(tmp_path, 2)
    assert found.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-3)
    assert found.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-3)


def test_time_left_follows_what_epochs_really_take(tmp_path):
    works = [Work("a", tmp_path / "a", 10, 1.0), Work("b", tmp_path / "b", 5, 2.0)]
    clock = Clock(works, now=100.0)
    first = clock.look(100.0)
    assert (first.share, first.left, first.words) == (0.0, 20.0, "epoch 1 of 10, about 20 s left")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.json").write_text("{}")
    line = '{"epoch": 1, "loss": 2.34567}\n'
    (tmp_path / "a" / "metrics.jsonl").write_text(line * 5)
    seen = clock.look(115.0)  # 5 of 20 estimated seconds took 15
    assert seen.share == pytest.approx(0.25) and seen.left == pytest.approx(45.0)
    assert seen.words == "epoch 6 of 10, loss 2.346, about 45 s left"
    (tmp_path / "a" / "metrics.jsonl").write_text(line * 10)
    (tmp_path / "a" / "run.json").write_text('{"status": "finished", "seconds": 30.0}')
    seen = clock.look(130.0)
    assert seen.share == pytest.approx(0.5) and seen.left == pytest.approx(30.0)
    assert seen.words == "epoch 1 of 5, about 30 s left"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text('{"status": "finished", "seconds": 30.0}')
    assert clock.look(160.0).words == "nearly done"


def test_time_left_is_no_more_than_what_was_given(tmp_path):
    works = [Work("a", tmp_path / "a", 3, 1.0), Work("b", tmp_path, 40, 1.0, timed=True)]
    clock = Clock(works, now=0.0, ends=10.0)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' * 4)
    seen = clock.look(4.0)
    assert seen.left == 6.0 and seen.share == 0.4
    assert clock.look(9.0).left == 3.0  # what is not timed takes what it takes


def test_time_left_is_never_an_estimate_that_was_measured_once(tmp_path):
    clock = Clock([Work("a", tmp_path, 40, 1.0)], now=0.0)
    left, now = [], 0.0
    for epoch in range(1, 21):  # epochs of 10 s, of which the later ones take 2 s
        now += 10.0 if epoch <= 10 else 2.0
        (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' * epoch)
        left.append(clock.look(now).left)
    assert left[9] == pytest.approx(30 * 10) and left[19] == pytest.approx(20 * 2)
    assert left[11] == pytest.approx(28 * (3 * 10 + 2 * 2) / 5)  # the mean of the last five


def test_what_stages_say_goes_to_the_log_and_warnings_first_and_last_to_the_user(tmp_path, capsys):
    with Display([], tmp_path / "log.txt") as display, display.stage("a stage"):
        print("epoch 1/2  loss 3")
        for number in (3, 5, 7):
            print(f"\x1b[33mwarning: {number} clusters are empty\x1b[0m")
            print("warning: images differ")
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "warning: 3 clusters are empty",
        "warning: images differ",
        "warning: 7 clusters are empty (the last of 3 such warnings)",
    ]
    assert "epoch" not in shown.out
    assert (tmp_path / "log.txt").read_text().count("warning:") == 6


def test_durations_in_words():
    assert [duration(seconds) for seconds in (0.2, 45, 600, 7200)] == ["1 s", "45 s", "10 min", "2.0 h"]


def test_no_path_begins_a_formula_and_all_survive_csv():
    paths = ["=1+1.png", "@x", "+y", "-z", "a,b.png", 'q"q.png', "line\nbreak.png", "b\udcffd.png"]
    text = encode_rows([[csv_path(path)] for path in paths]).decode("utf-8", "surrogateescape")
    found = [row[0] for row in csv.reader(text.splitlines(keepends=True))]
    assert [str(Path(path)) for path in found] == paths
    assert not any(path[0] in "=+-@" for path in found)


def test_identity_of_a_look_is_kept():
    assert replace(look(3, 8, True), gray=False).words.startswith("3 color images")


def test_a_dry_run_writes_the_configs_and_runs_nothing(tmp_path, capsys):
    fill(tmp_path / "images")
    assert run(tmp_path / "images", "--num_clusters", 3, "--output", tmp_path / "out", "--dry_run", *FAST) == 0
    assert "learning features 1 epochs" in capsys.readouterr().out
    assert sorted(path.stem for path in (tmp_path / "out/configs").glob("s*.yml")) == sorted(STAGES)
    assert not (tmp_path / "out/runs").exists()
    for words in (["--num_clusters", 4], ["--num_clusters", 3, "--no_flip"]):
        words = [tmp_path / "images", *words, "--output", tmp_path / "out", "--dry_run", *FAST]
        assert run(*words) == 2
        assert "nothing ran there yet; overwrite=true writes its configs again" in capsys.readouterr().err
        assert run(*words, "overwrite=true") == 0 and not (tmp_path / "out" / "k04").exists()


def test_a_dry_run_starts_nothing_again_where_results_are_but_no_runs(tmp_path, capsys):
    fill(tmp_path / "images")
    words = [tmp_path / "images", "--num_clusters", 3, "--output", tmp_path / "out", "--dry_run", *FAST]
    assert run(*words) == 0
    (tmp_path / "out" / "clusters.csv").touch()
    assert run(*words, "overwrite=true") == 2
    assert "a dry run starts nothing again" in capsys.readouterr().err


@pytest.mark.slow
def test_names_that_are_no_text_and_no_markup(tmp_path, capsys):
    """A folder and classes whose names are not UTF-8, look like formulas, or would be obeyed by a terminal."""
    base = tmp_path / os.fsdecode(b"caf\xe9")
    classes = ["$5_to_$10", "<b>|x", os.fsdecode(b"\xff\x1b[31m")]
    for i in range(24):
        draw(base / "images" / classes[i % 3] / f"{i:03d}.png", i % 3, i)
    words = [base / "images", "--num_clusters", 3, "--output", base / "out", *FAST]
    assert run(*words, "selflabel.confidence_threshold=0.0") == 0
    rows = list(csv.DictReader((base / "out/clusters.csv").open(errors="surrogateescape", newline="")))
    assert len(rows) == 24 and all((base / "images" / row["path"]).is_file() for row in rows)
    for stage in ("scan", "selflabel"):
        with Image.open(base / "out/runs" / stage / "confusion_matrix.png") as picture:
            picture.load()
    page = (base / "out/report.html").read_text(encoding="utf-8")
    assert "<b>|x" not in page.partition('id="facts"')[0] and "%FF%1B%5B31m/002.png" in page
    assert run(*words, "selflabel.confidence_threshold=0.0") == 0
    said = capsys.readouterr()
    assert "this clustering is finished" in said.out and r"caf\xe9/out/report.html" in said.out
    assert all(line.isprintable() for line in [*said.out.splitlines(), *said.err.splitlines()])
    (line,) = [x for x in (base / "out/configs/scan.yml").read_text("utf-8").splitlines() if "Run it," in x]
    assert line.endswith(
        "--config_env configs/env.yml --config_exp configs/scan.yml"
    )  # it may be moved with the report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["timm/resnet5O"], 2, "did you mean timm/resnet50?"),
        (["efficientnet"], 2, "it is auto, embedded, dinov2, scratch, timm/NAME, or a .npy or .parquet file"),
        (["timm/resnet18"], 1, "cannot be downloaded from 127.0.0.1:9"),
        (["timm/resnet18", "--offline"], 1, "downloading is switched off"),
        (["embedded", "weights=other.safetensors"], 2, "one network's"),
        (["efficientnet_lite2", "weights=other.safetensors"], 1, "do not fit backbone 'efficientnet_lite2'"),
        (["efficientnet_lite2", "weights=none.pth"], 1, "none.pth does not exist"),
    ],
)
def test_networks_that_are_not_to_be_had_are_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, more, code, sentence
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    fill(tmp_path / "images")
    assert run(tmp_path / "images", "--num_clusters", 3, "--output", tmp_path / "out", "--features", *more) == code
    error = capsys.readouterr().err
    assert sentence in error and error.count("error:") == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_auto_chose_stays_when_a_network_comes_back(tmp_path, monkeypatch):
    """Begun without a network, and so with the embedded weights; later the others could be had."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    words = [tmp_path / "images", "--num_clusters", 2, "--output", tmp_path / "out", "--dry_run"]
    assert run(*words) == 0
    before = (tmp_path / "out/configs/pretrained.yml").read_text()
    assert yaml.safe_load(before)["backbone"] == "efficientnet_lite0+efficientnet_lite2"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(opening, "choose_features", None)  # it is not asked again
    assert run(*words) == 0
    assert (tmp_path / "out/configs/pretrained.yml").read_text() == before
