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


def test_two_clear_groups_are_two():
    x, _ = blobs(120, 30, 2)
    assert count_clusters([x], 2, 5)[1][:1] == (2,)


def test_groups_that_show_only_in_two_spaces_together_are_found():
    """Each space parts the same 320 images in two, across one another: four groups."""
    (one, truth), (two, _) = (blobs(320, 20, 2, spread=0.3, seed=seed) for seed in (0, 1))
    in_turn = truth.argsort(stable=True)
    quarters = in_turn.reshape(4, 80)[[0, 2, 1, 3]].flatten()  # halves of both groups of one are a group of the other
    points, choice, _ = count_clusters([one[in_turn], two[quarters]], 2, 5)
    alone, chosen, _ = count_clusters([one[in_turn]], 2, 5)
    assert (choice.num_clusters, chosen.num_clusters) == (4, 2)
    assert points[0].silhouette < points[2].silhouette and alone[0].silhouette > alone[2].silhouette


def test_a_cloud_and_an_arc_are_not_sure():
    draws = torch.Generator().manual_seed(1)
    cloud = torch.randn(160, 10, generator=draws)
    _, choice, _ = count_clusters([cloud], 3, 4)
    assert not choice.sure and choice.low < choice.high
    turn = 3 * torch.linspace(0, 1, 300)[:, None]  # frames of a slow pan: each like the next, and no group
    arc = torch.cat([turn.cos(), turn.sin()], dim=1) @ torch.randn(2, 32, generator=draws)
    _, choice, _ = count_clusters([arc + 0.02 * torch.randn(300, 32, generator=draws)], 2, 8)
    assert not choice.sure


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
    assert result["in_use"]["4"] == len(result["sheets"]["4"]) == 4
    assert (folder / "number.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert result["sentence"] in said and "validation loss" not in said
    record = (folder / "run.json").read_bytes()
    assert command("methods.number", *words, "method_kwargs.high=4", "run_name=to4") == 0
    assert "this run is finished" in capsys.readouterr().out
    assert command("methods.number", *words, "method_kwargs.high=3", "run_name=to4") == 2
    assert "holds a run with another config: method_kwargs.high differs" in capsys.readouterr().err
    assert (folder / "run.json").read_bytes() == record
