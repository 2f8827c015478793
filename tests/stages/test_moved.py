"""Results and images that were moved, copied or changed: the same command goes on, or says what is the matter."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

import predict
import scan
from report import sorting
from system import files
from system.errors import ConfigError
from tests.stage import command
from utils import saved
from utils.config import load_config

FAST = ["simclr.epochs=1", "scan.epochs=1", "selflabel.epochs=1", "precision=fp32", "num_heads=1"]
FAST += ["selflabel.confidence_threshold=0.1"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("signals")]


def fill(folder, num_images=24):
    folder.mkdir()
    for i in range(num_images):
        pixels = np.random.default_rng(i).integers(0, 60, (8, 8))
        pixels[:, 2 * (i % 3) : 2 * (i % 3) + 2] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.bmp")


def run(images, output, *words):
    return command("cluster", images, "--num_clusters", 3, "--output", output, *FAST, *words)


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    base = tmp_path_factory.mktemp("clustered")
    fill(base / "images")
    assert run(base / "images", base / "out") == 0
    return base


@pytest.fixture
def base(clustered, tmp_path):
    """A copy of a finished clustering and its images, with the images' times."""
    shutil.copytree(clustered / "images", tmp_path / "images")
    shutil.copytree(clustered / "out", tmp_path / "out")
    return tmp_path


def test_a_moved_clustering_is_finished_where_it_is_now(clustered, base, capsys):
    before = snapshot(clustered)
    assert run(clustered / "images", base / "out") == 0
    out = capsys.readouterr().out
    model = next(line for line in out.splitlines() if line.startswith("model: "))[len("model: ") :]
    assert "finished" in out and Path(model).is_file() and Path(model).is_relative_to(base / "out")
    words = ["--config_env", base / "out/configs/env.yml", "--config_exp", base / "out/configs/scan.yml"]
    assert command("scan", *words) == 0
    assert f"Its files are in {base}/out/runs/scan" in capsys.readouterr().out
    assert snapshot(clustered) == before


def test_an_interrupted_clustering_goes_on_where_it_was_moved_to(tmp_path, monkeypatch):
    fill(tmp_path / "images")

    def interrupted(argv):
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "main", interrupted)
        assert run(tmp_path / "images", tmp_path / "res" / "b") == 143
    (tmp_path / "res").rename(tmp_path / "elsewhere")
    written = (tmp_path / "elsewhere/b/runs/pretext/model.pth.tar").stat().st_mtime_ns
    assert run(tmp_path / "images", tmp_path / "elsewhere" / "b") == 0
    assert not (tmp_path / "res").exists()
    assert (tmp_path / "elsewhere/b/runs/pretext/model.pth.tar").stat().st_mtime_ns == written
    assert str(tmp_path) not in (tmp_path / "elsewhere/b/configs/env.yml").read_text()
    config = yaml.safe_load((tmp_path / "elsewhere/b/runs/scan/config.yml").read_text())
    assert config["scan_dir"] == "." and config["pretext_dir"] == "../pretext" and config["root_dir"] == "../.."


def test_moved_images_are_the_same_and_changed_ones_are_told(clustered, base, capsys):
    (base / "images").rename(base / "images2")
    for path in (base / "images2").iterdir():
        os.utime(path)  # as `cp -r` leaves them
    assert run(base / "images2", base / "out") == 0
    assert "they are the same" in capsys.readouterr().out
    for path in (base / "images2").iterdir():
        ImageOps.invert(Image.open(path)).save(path)
    assert run(base / "images2", base / "out") == 1
    assert "24 of 24 files have other contents, such as '000.bmp'" in capsys.readouterr().err


def test_missing_images_name_the_key_to_give(base, capsys):
    words = ["--config_env", str(base / "out/configs/env.yml"), "train_db_kwargs.root=" + str(base / "gone")]
    assert command("eval", *words, "--config_exp", base / "out/configs/scan.yml") == 1
    assert "train_db_kwargs.root=PATH" in capsys.readouterr().err
    (base / "out/runs/pretext/run.json").unlink()
    assert command("simclr", *words, "--config_exp", base / "out/configs/simclr.yml") == 1
    assert "train_db_kwargs.root=PATH" in capsys.readouterr().err
    words[-1] = "train_db_kwargs.root=" + str(base / "images")
    assert command("simclr", *words, "--config_exp", base / "out/configs/simclr.yml") == 0
    assert run(base / "gone", base / "out") == 1
    assert "the same --output" in capsys.readouterr().err


def as_before(output, images):
    """What version 14510b5 left: whole paths, no lists, no notes of the images."""
    record = json.loads((output / "cluster.json").read_text())
    record["result"]["model"] = f"/where/it/was/{record['result']['model']}"
    (output / "cluster.json").write_text(json.dumps(record))
    (output / "configs/env.yml").write_text("root_dir: /where/it/was\n")
    for folder in (output, output / "configs"):
        (folder / files.MANIFEST).unlink()
    for folder in (output / "runs").iterdir():
        known = {name: entries for name, entries in files._read_manifest(folder).items() if entries}
        known.pop("images-train.npy")
        (folder / "images-train.npy").unlink()
        files._write_manifest(folder, known)


def test_an_earlier_output_is_finished_and_starts_again_without_touching_what_is_not_its_own(base, capsys):
    words = [base / "images", base / "out"]
    record = json.loads((base / "out/cluster.json").read_text())
    record["request"]["folder"] = str(base / "images")
    record["result"] = {"model": f"{base}/out/runs/selflabel/model.pth.tar", "scores": {}}
    for facts, key in ((record["request"], "features"), (record, "stages")):
        facts.pop(key, None)
    for name in ("model.pth.tar", "config.yml", "run.json"):
        (base / "out" / name).unlink(missing_ok=True)
    (base / "out/cluster.json").write_text(json.dumps(record))
    as_before(base / "out", base / "images")
    assert run(*words) == 0
    assert f"model: {base}/out/runs/selflabel/model.pth.tar" in capsys.readouterr().out
    foreign = ["notes.txt", "runs/mine/model.pth.tar", "runs/scan/neighbors-mine.png", "runs/scan/x.partial"]
    for name in foreign:
        (base / "out" / name).parent.mkdir(exist_ok=True)
        (base / "out" / name).write_text(name)
    (base / "out/runs/link").symlink_to("mine")
    assert run(*words, "overwrite=true") == 0
    assert all((base / "out" / name).read_text() == name for name in foreign)
    assert (base / "out/runs/link").is_symlink()


@pytest.mark.parametrize("flag", ["--dry_run", "overwrite=true"])
def test_what_is_not_ours_in_the_output_stays(tmp_path, flag, capsys):
    fill(tmp_path / "images")
    for name in ("p/runs/mine/model.pth.tar", "elsewhere/model.pth.tar"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "p/runs/link").symlink_to("../../elsewhere")
    assert run(tmp_path / "images", tmp_path / "p", flag) == 0
    assert [(tmp_path / name).read_text() for name in ("p/runs/mine/model.pth.tar", "elsewhere/model.pth.tar")] == [
        *("x", "x"),
    ]
    (tmp_path / "q/runs").mkdir(parents=True)
    (tmp_path / "q/runs/scan").symlink_to("../../elsewhere")
    assert run(tmp_path / "images", tmp_path / "q", flag) == 1
    assert "is a link" in capsys.readouterr().err
    (tmp_path / "r").mkdir()
    (tmp_path / "r/report.html").write_text("mine")
    assert run(tmp_path / "images", tmp_path / "r", flag) == 1
    assert {path.name for path in (tmp_path / "r").iterdir()} - {".lock"} == {"report.html"}


def test_a_held_output_is_refused_before_it_is_looked_at(tmp_path, capsys):
    fill(tmp_path / "images")
    (tmp_path / "out").mkdir()
    hold = "import sys; from pathlib import Path; from system.lock import lock_folder; lock_folder(Path(sys.argv[1]));"
    holder = [sys.executable, "-c", hold + "print(flush=True); sys.stdin.read()", tmp_path / "out"]
    with subprocess.Popen(holder, cwd=files.REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert run(tmp_path / "images", tmp_path / "out") == 1
        assert f"process {process.pid}" in capsys.readouterr().err
        process.stdin.close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["tensorboard", "report.html", "model.pth.tar", "sweeps", "Config.yml", "x.partial"])
def test_names_of_our_own_files_are_no_run_names(base, name):
    words = [base / "out/configs/env.yml", base / "out/configs/scan.yml"]
    with pytest.raises(ConfigError, match="writes itself"):
        load_config(*words, [f"run_name={name}"])


def sort(base, *words):
    return command("predict", "--model", base / "out", base / "images", "--output", base / "a.csv", *words)


@pytest.mark.parametrize("option", ["--copy_to", "--link_to"])
def test_sorted_images_never_lie_among_the_images(base, option, capsys):
    (base / "link").symlink_to("images")
    for folder in ("images/sorted", "link/sorted", "images"):
        assert sort(base, option, base / folder) == 2
    assert "inside the folder of images" in capsys.readouterr().err
    assert len(list((base / "images").iterdir())) == 24 and not (base / "a.csv").exists()


def test_a_target_is_no_other_target_and_no_input(base, capsys):
    (base / "link.npy").symlink_to("a.csv")
    before = snapshot(base)
    for target in ("a.csv", "images/../a.csv", "link.npy", "images/000.bmp", "out/runs/selflabel/model.pth.tar"):
        assert sort(base, "--embeddings", base / target) == 2
    assert sort(base, "--embeddings", base / "s/e.npy", "--copy_to", base / "s") == 2
    assert snapshot(base) == before


def test_an_interrupted_sorting_goes_on_without_doubled_files(base, monkeypatch, capsys):
    """Killed in the middle of a copy; then another image is in another cluster than before."""
    copied = []

    def killed(source, target):
        if len(copied) == 10:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        copied.append(source)
        shutil.copy2(source, target)

    killed.__name__ = "copy_file"
    with monkeypatch.context() as patch:
        patch.setattr(predict, "copy_file", killed)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # as a kill leaves things
        assert sort(base, "--copy_to", base / "s") == 130
    other = next(name for name in ("cluster-0", "cluster-1") if not (base / "s" / name / "000.bmp").exists())
    (base / "s" / other).mkdir(exist_ok=True)
    with (base / "s" / sorting.UNFINISHED).open("a") as list_of_ours:
        list_of_ours.write(f"{other}/000.bmp\0")
    (base / "s" / other / "000.bmp").write_bytes(b"of the killed call")
    (base / "s/mine.txt").write_text("mine")
    assert sort(base, "--copy_to", base / "s") == 1
    assert "mine.txt" in capsys.readouterr().err
    (base / "s/mine.txt").unlink()
    assert sort(base, "--copy_to", base / "s") == 0
    found = {path.name: path.read_bytes() for path in (base / "s").rglob("*") if path.is_file()}
    assert found == {path.name: path.read_bytes() for path in (base / "images").iterdir()}
    assert len(list((base / "s").rglob("*.bmp"))) == 24 and not (base / "s" / other / "000.bmp").exists()
    assert sort(base, "--copy_to", base / "s") == 1


def test_labels_are_given_from_any_directory_and_nothing_is_written_there(base, monkeypatch):
    table = "path,label\n" + "".join(f"{i:03d}.bmp,{'abc'[i % 3]}\n" for i in range(24))
    (base / "labels.csv").write_text(table)
    (base / "one/two/three").mkdir(parents=True)
    monkeypatch.chdir(base / "one/two/three")
    before = set((base / "one").rglob("*"))
    assert command("label", "../../../out", "../../../labels.csv") == 0
    assert command("predict", "--model", "../../../out", base / "images", "--output", base / "new.csv") == 0
    assert set((base / "one").rglob("*")) == before
    cache = yaml.safe_load((base / "out/labels/config.yml").read_text())["train_db_kwargs"]["cache_dir"]
    assert (base / "out/labels" / cache).resolve() == base / "out/cache"


def test_a_cache_outside_the_results_stays_where_it_is(base, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert run(base / "images", base / "deep/out", f"train_db_kwargs.cache_dir={elsewhere}") == 0
    (written,) = elsewhere.glob("*.bin")
    (base / "x/y/z").mkdir(parents=True)
    shutil.move(base / "deep/out", base / "x/y/z/out")
    (base / "labels.csv").write_text("path,label\n" + "".join(f"{i:03d}.bmp,{'abc'[i % 3]}\n" for i in range(24)))
    assert command("label", base / "x/y/z/out", base / "labels.csv") == 0
    config = yaml.safe_load((base / "x/y/z/out/labels/config.yml").read_text())
    assert config["train_db_kwargs"]["cache_dir"] == str(elsewhere)
    assert [*elsewhere.glob("*.bin")] == [written] and not [*(base / "x").glob("**/*.bin")]


def test_paths_of_results_are_as_the_folder_is_now(monkeypatch):
    """As runs write them now, relative to their folder, and as earlier versions wrote them, whole."""
    monkeypatch.setenv("HOME", "/home/me")
    now = {"setup": "scan", "root_dir": "/old/results", "scan_dir": ".", "pretext_model": "../pretext/model.pth.tar"}
    earlier = {
        "setup": "scan",
        "root_dir": "/old/results",
        "scan_dir": "/old/results/digits/scan",
        "pretext_model": "/old/results/digits/pretext/model.pth.tar",
    }
    folder = Path("/new/digits/scan")
    for config, inside in ((now, "../../cache"), (earlier, "/old/results/cache")):
        for cache, moved in ((inside, "/new/cache"), ("/data/cache", "/data/cache"), ("~/cache", "/home/me/cache")):
            found = saved.anchor({**config, "train_db_kwargs": {"root": "photos", "cache_dir": cache}}, folder)
            assert found["scan_dir"] == "/new/digits/scan"
            assert found["pretext_model"] == "/new/digits/pretext/model.pth.tar"
            assert found["train_db_kwargs"] == {"root": "photos", "cache_dir": moved}
