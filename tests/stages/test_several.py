"""Several numbers of clusters from one set of features: `--num_clusters 3,4`, and another number later."""

import csv
import functools
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from methods import candidates, pretrained
from methods import number as number_stage
from recipes import running
from tests.methods.test_methods import blobs
from tests.stage import command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("empty_pictures")]
NUM_IMAGES = 48
OWN = (".lock", "manifest.json")  # what any look at an output may write
ROWS, TRUTH = (part.numpy() for part in blobs(NUM_IMAGES, 8, 4, 0.1))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("several")
    (base / "images").mkdir()
    draws = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        Image.fromarray(draws.integers(0, 255, (8, 8)).astype(np.uint8)).save(base / "images" / f"{i:02d}.png")
    np.save(base / "own.npy", ROWS)
    return base


def run(base, numbers, output, *more):
    words = ["--num_clusters", numbers, "--features", base / "own.npy", "--output", output]
    return command("cluster", base / "images", *words, *more)


def read(folder):
    return list(csv.DictReader((folder / "clusters.csv").open(encoding="utf-8", newline="")))


@pytest.fixture(scope="module")
def finished(base):
    output = base / "out"
    assert run(base, "3,4", output) == 0
    return output


def counted(monkeypatch, module):
    """How often a stage trains from here on."""
    calls, train = [], module.train

    @functools.wraps(train)  # whose parameters are what a config may give
    def counting(*given, **options):
        calls.append(given)
        return train(*given, **options)

    monkeypatch.setattr(module, "train", counting)
    return calls


def test_every_number_is_a_whole_output(finished, base, tmp_path):
    assert not (finished / "clusters.csv").exists()
    for number in (3, 4):
        folder = finished / f"k{number:02}"
        assert {path.name for path in folder.iterdir()} > {"model.pth.tar", "config.yml", "clusters.csv", "report.html"}
        assert {int(row["cluster"]) for row in read(folder)} == set(range(number))
        words = ["--model", folder, base / "images", "--features", base / "own.npy", "--output", tmp_path / "new.csv"]
        assert command("predict", *words) == 0
        rows = list(csv.DictReader((tmp_path / "new.csv").open()))
        assert [row["cluster"] for row in rows] == [row["cluster"] for row in read(folder)]
        assert yaml.safe_load((folder / "configs/candidates.yml").read_text())["num_classes"] == number
    pairs = {(row["cluster"], kind) for row, kind in zip(read(finished / "k04"), TRUTH.tolist(), strict=True)}
    assert len(pairs) == 4


def test_the_page_compares_them(finished):
    page = (finished / "index.html").read_text(encoding="utf-8")
    assert "48 images of images in 3 and 4 clusters" in page
    for link in ('href="k03/report.html"', 'href="k04/report.html"'):
        assert link in page
    assert page.count("data:image/webp;base64,") == 7
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_a_second_call_computes_nothing_and_another_number_no_features(base, finished, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    shutil.copytree(finished, output)  # may be moved as a whole
    took, clustered = counted(monkeypatch, pretrained), counted(monkeypatch, candidates)
    assert run(base, "3,4", output) == 0
    assert "these clusterings are finished" in capsys.readouterr().out
    assert (took, clustered) == ([], [])
    before = (output / "k03/clusters.csv").read_bytes()
    assert run(base, "5", output, "--link_to", tmp_path / "sorted") == 0
    assert (len(took), len(clustered)) == (0, 1)
    assert {int(row["cluster"]) for row in read(output / "k05")} == set(range(5))
    assert (output / "k03/clusters.csv").read_bytes() == before
    assert "in 3, 4 and 5 clusters" in (output / "index.html").read_text()
    assert len(list((tmp_path / "sorted").glob("cluster-*/*.png"))) == NUM_IMAGES
    assert run(base, "3-4", output, "--link_to", tmp_path / "each") == 0
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["k03", "k04"]


def test_another_number_comes_after_images_and_results_were_moved(base, finished, tmp_path):
    output, images = tmp_path / "out", tmp_path / "elsewhere"
    shutil.copytree(finished, output)
    shutil.copytree(base / "images", images)
    words = ["--num_clusters", "2,3", "--features", base / "own.npy", "--output", output]
    assert command("cluster", images, *words) == 0
    config = yaml.safe_load((output / "k02/configs/candidates.yml").read_text())
    assert config["train_db_kwargs"]["root"] == str(images)
    assert "48 images of elsewhere in 2, 3 and 4 clusters" in (output / "index.html").read_text()


def test_one_number_stays_where_it_is_when_others_come(base, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    assert run(base, "4", output) == 0
    before = (output / "clusters.csv").read_bytes()
    took = counted(monkeypatch, pretrained)
    record = (output / "cluster.json").read_bytes()
    assert run(base, "2", output, "--leave_out", 0.1) == 0  # of another number's images
    assert (output / "cluster.json").read_bytes() == record
    assert run(base, "2,4", output, "--leave_out", 0) == 0
    assert took == [] and (output / "clusters.csv").read_bytes() == before
    page = (output / "index.html").read_text()
    assert 'href="k02/report.html"' in page and 'href="report.html"' in page and not (output / "k04").exists()
    assert run(base, "4", output) == 0
    assert "this clustering is finished" in capsys.readouterr().out


def test_an_interrupted_call_goes_on_with_what_is_left(base, tmp_path, monkeypatch):
    output, original = tmp_path / "out", running.show

    def interrupted(project):
        if project.request["num_clusters"] == 4:
            raise SystemExit(143)
        return original(project)

    with monkeypatch.context() as patch:
        patch.setattr(running, "show", interrupted)
        assert run(base, "3,4", output) == 143
    assert (output / "k03/report.html").exists() and not (output / "k04/report.html").exists()
    clustered = counted(monkeypatch, candidates)
    assert run(base, "3,4", output) == 0
    assert clustered == [] and (output / "k04/report.html").exists()
    assert "in 3 and 4 clusters" in (output / "index.html").read_text()


def test_a_page_of_the_users_stops_it(base, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(base, "3", output) == 0
    (output / "index.html").write_text("mine")
    assert run(base, "4", output) == 1
    assert "index.html was not written by this program" in capsys.readouterr().err
    assert (output / "index.html").read_text() == "mine" and not (output / "k04").exists()


def test_another_request_is_refused_for_another_number_too(base, finished, capsys):
    assert run(base, "6", finished, "seed=3") == 2
    assert "words was []" in capsys.readouterr().err
    assert not (finished / "k06").exists()


@pytest.mark.parametrize("more", [[], ["overwrite=true"]])
def test_minutes_without_a_network_are_refused_and_nothing_is_lost(base, finished, more, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file() and path.name not in OWN}
    for numbers in ("3,4", "auto:5-5"):
        assert run(base, numbers, output, "--minutes", 1, *more) == 2
        assert "--minutes is for refining" in capsys.readouterr().err
    assert [path for path, content in before.items() if path.read_bytes() != content] == []


def test_auto_takes_the_folder_of_the_number_that_is_there(base, finished, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    searched = counted(monkeypatch, number_stage)
    assert run(base, "auto:4-4", output, "--link_to", tmp_path / "full") == 1
    assert "not an empty folder" in capsys.readouterr().err and searched == []
    clustered = counted(monkeypatch, candidates)
    assert run(base, "auto:4-4", output) == 0
    assert clustered == [] and not (output / "clusters.csv").exists()
    assert "How many clusters: " in (output / "k04/report.html").read_text(encoding="utf-8")  # which was there before
    record = json.loads((output / "k04/cluster.json").read_text())
    assert record["number"]["run"] == "4-4" and record["number"]["seconds"] > 0
    before = {path: path.read_bytes() for path in output.rglob("cluster.json")}
    assert run(base, "auto:4-4", output, "--dry_run") == 0
    assert {path: path.read_bytes() for path in output.rglob("cluster.json")} == before
    assert run(base, "auto:5-5", output) == 0  # now the output's own number
    assert "in 3, 4 and 5 clusters" in (output / "index.html").read_text()
    assert not any("other numbers" in reason for reason in json.loads((output / "cluster.json").read_text())["reasons"])
    assert run(base, "auto:6-6", output) == 0
    page = (output / "k06/report.html").read_text(encoding="utf-8")
    assert "How many clusters: " in page and "data:image/png;base64,iVBOR" in page.split('id="number"')[1]
    assert json.loads((output / "cluster.json").read_text())["number"]["num_clusters"] == 5
    assert len(searched) == 3 and run(base, "auto:6-6", output, "overwrite=true") == 0 and len(searched) == 4
    assert run(base, "auto:4-4", output, "overwrite=true", "seed=3") == 0  # with other features than those of k04
    assert json.loads((output / "cluster.json").read_text())["request"]["words"] == ["seed=3"]


def test_links_that_were_interrupted_go_on_with_auto(tmp_path, monkeypatch):
    """Before the number is known it may have two digits, and its folders such names."""
    (tmp_path / "images").mkdir()
    for i in range(60):
        Image.fromarray(np.full((8, 8), 4 * i, np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")
    np.save(tmp_path / "own.npy", blobs(60, 8, 4, 0.1)[0].numpy())
    words = ("auto:4-12", tmp_path / "out", "--link_to", tmp_path / "links")
    linked = []

    def killed(source, target):
        if len(linked) == 10:
            raise KeyboardInterrupt
        linked.append(target)
        target.symlink_to(source)

    killed.__name__ = "link_file"
    with monkeypatch.context() as patch:
        patch.setattr("recipes.links.link_file", killed)
        assert run(tmp_path, *words) == 130
    assert run(tmp_path, *words) == 0
    assert len([path for path in (tmp_path / "links").rglob("*.png") if path.is_symlink()]) == 60


def test_shares_of_an_unknown_number_are_refused(base, tmp_path, capsys):
    assert run(base, "auto:3-4", tmp_path / "out", "cluster_prior=[0.5,0.3,0.2]") == 2
    assert "cluster_prior has a share for each of a known number" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_of_an_earlier_version_is_on_the_page_too(base, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    path = output / "k03/cluster.json"
    record = json.loads(path.read_text())
    del record["request"]["no_flip"], record["request"]["features"]
    path.write_text(json.dumps(record))
    assert run(base, "4", output) == 0
    assert "in 3 and 4 clusters" in (output / "index.html").read_text()


def test_another_number_says_what_starting_again_would_do(base, finished, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "k03/cluster.json").write_text("{")
    assert run(base, "3", output) == 1
    assert f"overwrite=true starts everything in {output} again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("numbers", "code", "sentence"),
    [
        ("5,,8", 2, "nothing between two commas"),
        ("8-5", 2, "give 5-8"),
        ("1", 2, "at least 2 clusters"),
        ("3,49", 1, "which cannot fill 49 clusters"),
    ],
)
def test_bad_numbers_get_their_sentence(base, numbers, code, sentence, tmp_path, capsys):
    assert run(base, numbers, tmp_path / "out") == code
    error = capsys.readouterr().err
    assert sentence in error and error.count("error:") == 1 and not (tmp_path / "out").exists()


def test_starting_again_makes_all_of_them_anew(base, finished, tmp_path, monkeypatch):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    took, clustered = counted(monkeypatch, pretrained), counted(monkeypatch, candidates)
    assert run(base, "3,4", output, "seed=1", "overwrite=true") == 0
    assert (len(took), len(clustered)) == (1, 2)
    assert json.loads((output / "k04/cluster.json").read_text())["request"]["words"] == ["seed=1"]
