"""Counting clusters in features whose groups are plain to see, or are none; and what is asked in vain."""

import json

import pytest
import torch

from methods.number import count_clusters
from system.files import REPOSITORY
from tests.methods.test_methods import blobs
from tests.stage import command, few_digits, stage

pytestmark = pytest.mark.slow


def test_clear_groups_are_counted_and_the_answer_is_sure():
    x, truth = blobs(150, 30, 4)
    points, choice, sheets = count_clusters([x], 3, 5)
    assert (choice.num_clusters, choice.sure) == (4, True)
    assert [point.num_clusters for point in points] == [2, 3, 4, 5, 6]
    assert points[2].agreement > 0.9 and points[2].silhouette > 0.5 and points[2].generalisation > 0.95
    assert sorted(sheets) == [2, 3, 4, 5, 6]
    assert [size for size, _ in sheets[4]] == sorted(torch.bincount(truth).tolist(), reverse=True)
    assert {int(truth[image]) for _, image in sheets[4]} == {0, 1, 2, 3}
    assert count_clusters([x], 3, 5) == (points, choice, sheets)


def test_two_spaces_are_looked_at_together_and_one_cloud_is_not_sure():
    cloud = torch.randn(160, 10, generator=torch.Generator().manual_seed(1))
    _, choice, _ = count_clusters([cloud, cloud.flip(0)], 3, 4)
    assert not choice.sure
    assert choice.low < choice.high


@pytest.mark.usefixtures("signals")
def test_the_stage_leaves_curves_and_a_choice_and_refuses_a_wrong_range(tmp_path, capsys):
    few = few_digits(80, 40)
    assert stage("simclr", tmp_path, "run_name=pretrained", *few) == 0
    config = REPOSITORY / "configs/methods/number_digits.yml"
    words = ["--config_exp", config, f"root_dir={tmp_path}", "num_workers=0", *few]
    assert command("methods.number", *words, "method_kwargs.low=5", "method_kwargs.high=4") == 2
    assert "begins at 5 and ends at 4; give the smaller number first" in capsys.readouterr().err
    assert command("methods.number", *words, "method_kwargs.high=4", "run_name=to4") == 0
    folder = tmp_path / "digits/number/to4"
    result = json.loads((folder / "run.json").read_text())["result"]
    assert result["curves"]["num_clusters"] == [2, 3, 4, 5] and 3 <= result["num_clusters"] <= 4
    assert (folder / "number.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert result["sentence"] in said and "validation loss" not in said
    record = (folder / "run.json").read_bytes()
    assert command("methods.number", *words, "method_kwargs.high=4", "run_name=to4") == 0
    assert "this run is finished" in capsys.readouterr().out
    assert command("methods.number", *words, "method_kwargs.high=3", "run_name=to4") == 2
    assert "holds a run with another config: method_kwargs.high differs" in capsys.readouterr().err
    assert (folder / "run.json").read_bytes() == record
