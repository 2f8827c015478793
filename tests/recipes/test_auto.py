"""`--num_clusters auto`: what is asked, and a folder clustered into the number that was found."""

import argparse
import json

import pytest
import yaml

from recipes.auto import Auto, parse_number_words
from system.errors import ConfigError
from tests.stages.test_cluster import FAST, draw, read, run


def test_words_for_a_number():
    assert parse_number_words("auto") == Auto(2, None)
    assert parse_number_words("auto:5-20") == Auto(5, 20)
    assert parse_number_words("5,8") == [5, 8]


@pytest.mark.parametrize(
    "text", ["auto:", "auto:5", "auto:5-", "auto:-5", "auto:a-b", "auto:5-6-7", "auto:1.5-3", "Auto"]
)
def test_other_words_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_number_words(text)


@pytest.mark.parametrize(
    ("auto", "words"),
    [
        (Auto(9, 5), "begins at 9 and ends at 5; give the smaller number first"),
        (Auto(1, 5), "begins at 1, but grouping needs at least 2 clusters"),
        (Auto(2, 21), "ends at 21, but 100 images can be asked for at most 20 clusters"),
    ],
)
def test_a_range_that_does_not_fit_is_one_sentence(auto, words):
    with pytest.raises(ConfigError, match=words):
        auto.within(100)


def test_few_images_are_no_range_that_somebody_gave():
    with pytest.raises(ConfigError, match=r"^59 images are too few to look for a number from 2 on; give"):
        Auto().within(59)
    assert Auto().within(60) == (2, 3)


@pytest.mark.slow
def test_a_folder_is_clustered_into_the_number_that_was_found(tmp_path, capsys):
    for i in range(24):
        draw(tmp_path / f"images/{i:03d}.png", i % 3, i)
    output = tmp_path / "out"
    words = [tmp_path / "images", "--output", output, *FAST, "selflabel.confidence_threshold=0.1"]
    assert run(*words, "--num_clusters", "auto:3-9") == 2
    assert "ends at 9, but 24 images can be asked for at most 4 clusters" in capsys.readouterr().err
    output.mkdir()
    (output / "numbers.html").write_text("mine")
    assert run(*words, "--num_clusters", "auto:3-4") == 1
    assert "numbers.html was not written by this program" in capsys.readouterr().err
    assert (output / "numbers.html").read_text() == "mine"
    (output / "numbers.html").unlink()
    assert run(*words, "--num_clusters", "auto:3-4") == 0
    record = json.loads((output / "cluster.json").read_text())
    number = record["number"]["num_clusters"]
    assert number == record["request"]["num_clusters"] in (3, 4)
    assert {int(row["cluster"]) for row in read(output / "clusters.csv")} <= set(range(number))
    assert yaml.safe_load((output / "configs/scan.yml").read_text())["num_classes"] == number
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "How many clusters: " in page and "data:image/png;base64,iVBOR" in page.split('id="number"')[1]
    assert 'href="numbers.html"' in page and "sheets" not in record["number"]
    tried = (output / "numbers.html").read_text(encoding="utf-8")
    assert all(f'id="k{number}"' in tried for number in (2, 3, 4, 5)) and tried.count("data:image/webp") >= 3
    assert record["number"]["sentence"] in capsys.readouterr().out
    env = output / "configs/env.yml"
    env.write_text(env.read_text() + "# mine\n")
    before = (output / "cluster.json").read_bytes()
    assert run(*words, "--num_clusters", number) == run(*words, "--num_clusters", "auto:3-4") == 0
    assert "finished" in capsys.readouterr().out
    assert (output / "cluster.json").read_bytes() == before
    assert env.read_text().endswith("# mine\n")
