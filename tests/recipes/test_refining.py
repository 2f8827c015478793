import math
from types import SimpleNamespace

import pytest
import torch

from clustering.prediction import Prediction
from recipes.choose import choose
from recipes.configs import Configs
from recipes.deliver import Delivery, choose_last, choose_row, trust_in_one, verdict_of
from recipes.features import Features, make_recipe
from recipes.refining import by_the_clock, num_epochs, stages_of
from system.errors import ConfigError
from system.runtime import Runtime
from utils.cli import minutes
from utils.common_config import get_train_transformations, get_val_transformations


def look(gray=False, short_side=32, has_sides=False):
    return SimpleNamespace(
        files=SimpleNamespace(root=SimpleNamespace(resolve=lambda: "/images")),
        num_images=2000,
        short_side=short_side,
        gray=gray,
        mean=[0.5] * 3,
        std=[0.2] * 3,
        words="2,000 images",
        has_sides=has_sides,
    )


def lite0():
    """The recipe with features of the installed network."""
    return make_recipe(look(), 5, "cpu", False, Features("efficientnet_lite0", "as asked"))


def test_one_number_is_refined_by_default_and_for_minutes_all_are():
    recipe = lite0()
    refined = ["pretrained", "candidates", "selflabel"]
    assert stages_of(recipe) == stages_of(by_the_clock(recipe)) == refined
    assert stages_of(recipe, several=True) == refined[:2]
    quick = make_recipe(look(), 5, "cpu", True, Features("efficientnet_lite0", "as asked"))
    assert stages_of(quick) == refined[:2]
    scratch = make_recipe(look(), 5, "cpu", False, Features("scratch", "as asked"))
    assert stages_of(scratch, several=True) == stages_of(by_the_clock(scratch)) == ["simclr", "scan", "selflabel"]
    assert by_the_clock(recipe).configs["selflabel"]["epochs"] == 30 > recipe.configs["selflabel"]["epochs"]
    recipe.configs.pop("selflabel")
    with pytest.raises(ConfigError, match="--minutes"):
        by_the_clock(recipe)


def test_a_network_that_does_not_tell_its_last_layers_is_not_refined():
    recipe = make_recipe(look(), 5, "cuda", False, Features("timm/poolformer_s12.sail_in1k", "as asked"))
    assert stages_of(recipe) == ["pretrained", "candidates"] and "not refined" in recipe.reasons[-1]
    with pytest.raises(ConfigError, match="whose last layers are known"):
        by_the_clock(recipe)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("words", [[], ["transformation_kwargs.crop_size=160"]])
def test_strong_views_have_the_side_of_the_plain_ones(tmp_path, gray, words):
    configs = Configs(tmp_path, tmp_path)
    recipe = make_recipe(look(gray), 5, "cpu", False, Features("efficientnet_lite0", "as asked"))
    configs.write_env(Runtime(torch.device("cpu"), torch.float32, torch.float32))
    configs.write(recipe, words)
    p = configs.load("selflabel")
    strong, plain = get_train_transformations(p), get_val_transformations(p)
    assert strong.size == plain.size == (160 if words else 128)
    assert p.transformation_kwargs.normalize == recipe.configs["selflabel"]["transformation_kwargs"]["normalize"]


@pytest.mark.parametrize(
    ("num_images", "gflop", "device", "epochs"),
    [
        (2_000, 0.5, "cpu", 2),  # 1,300 + 0.4 · 2,000 = 2,100 for passes of 1,000 each
        (50_000, 0.4, "cpu", 1),  # 21,300 for passes of 20,000
        (2_000, 4.0, "cpu", 0),
        (2_000, 4.0, "cuda", 7),  # 63,000 for passes of 8,000
        (20, 0.4, "cpu", 10),  # at most
    ],
)
def test_epochs_follow_from_images_and_network(num_images, gflop, device, epochs):
    assert num_epochs(num_images, gflop, device) == epochs


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "scratch"])
def test_no_flip_holds_in_every_stage(gray, name):
    def flips(flip):
        recipe = make_recipe(look(gray), 5, "cpu", False, Features(name, "as asked"), flip)
        views = [config for config in recipe.configs.values() if "augmentation_strategy" in config]
        assert views
        return [
            config["augmentation_kwargs"].get("flip", 0.5)
            for config in views
            if config["augmentation_strategy"] != "affine"  # which never flips
        ]

    assert set(flips(True)) == (set() if gray else {0.5})
    assert set(flips(False)) == (set() if gray else {0.0})
    assert "never flipped" in choose(look(gray), 5, "cpu", flip=False).reasons[0]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "scratch"])
def test_it_is_said_where_images_themselves_forbid_flips(name):
    def reasons(has_sides, flip):
        found = make_recipe(look(has_sides=has_sides), 5, "cpu", False, Features(name, "as asked"), flip).reasons
        return " ".join(found)

    assert "never flipped" in reasons(True, False) and "--flip flips views anyway" in reasons(True, False)
    assert "--flip" not in reasons(False, False) + reasons(True, True) + reasons(False, True)
    quick = make_recipe(look(has_sides=True), 5, "cpu", True, Features("efficientnet_lite0", "as asked"), False)
    assert "never flipped" not in " ".join(quick.reasons)  # there are no views
    signs = make_recipe(look(True, has_sides=True), 5, "cpu", False, Features(name, "as asked"), flip=False)
    assert "--flip" not in " ".join(signs.reasons)  # their views are never flipped, whatever is asked


def row(name, neighbors, used=5, **more):
    return {"name": name, "neighbors": neighbors, "evenness": 0.9, "used": used, "sizes": [10] * 5, **more}


def test_what_was_refined_competes_as_what_it_began_as():
    table = [row("kmeans", 0.71), row("vote", 0.70)]
    assert choose_row([*table, row("best", 0.701, refines="vote")])[0] == 2
    assert choose_row([*table, row("best", 0.70, refines="vote")])[0] == 1  # a draw changes nothing
    assert choose_row([*table, row("best", 0.715, refines="kmeans")])[0] == 1
    assert choose_row([*table, row("best", 0.95, used=4, refines="vote")])[0] == 1
    assert choose_row([*table, row("best", math.nextafter(0.70, 1), refines="vote")])[1].startswith("best: neighbors")


def test_from_scratch_the_last_model_that_kept_its_clusters_is_handed_out():
    scan, best, last = row("scan", 0.9), row("best", 0.8), row("last", 0.5)
    assert choose_last([scan, best, last]) == (2, "last: the last model of the stages that kept its clusters")
    lost = last | {"used": 4}
    assert choose_last([scan, best, lost])[0] == 1 and choose_last([scan, best, lost])[1].endswith(
        "; last left clusters nearly empty"
    )
    assert choose_last([scan, best | {"used": 4}, lost])[1].endswith("; best and last left clusters nearly empty")
    assert choose_last([scan, best, last | {"evenness": 0.0}])[0] == 1
    assert choose_last([scan])[0] == 0
    empty = {"used": 1, "evenness": 0.0}
    assert choose_last([scan | empty, last | empty])[0] == 0
    assert "every model of the stages" in choose_last([scan | empty, last | empty])[1]


def test_trust_does_not_promise_fewer_clusters():
    assert "one cluster" in trust_in_one(0.0, 1, 4)
    assert len({trust_in_one(value, 4, 4) for value in (0.9, 0.6, 0.1)}) == 3
    assert trust_in_one(-1.5, 4, 4) == trust_in_one(0.1, 4, 4) == trust_in_one(0.1, 3, 4)
    assert not any("fewer" in trust_in_one(value, 4, 4) for value in (0.9, 0.6, 0.1))


def test_empty_clusters_are_no_reason_for_trust():
    assert trust_in_one(1.0, 3, 4).startswith("of 4 clusters 1 hold no image: expect others to hold several kinds")
    few = row("scan", 0.9, used=9) | {"sizes": [10] * 9 + [0]}
    assert choose_last([few])[1] == "scan: the last model of the stages that did not collapse (empty clusters: 1 of 10)"


def test_a_cluster_whose_images_are_all_left_out_is_not_in_use(tmp_path):
    left_out = torch.tensor([False, False, True])
    prediction = Prediction(torch.zeros(3, 2), torch.eye(4)[[0, 1, 2]], left_out)
    found = verdict_of(Delivery(None, None, "candidates", tmp_path, prediction, [], "", ""))
    assert found["in_use"] == [2, 4] and found["left_out"] == 1


def test_minutes_are_numbers_above_zero():
    assert minutes("2.5") == 2.5
    for text in ("0", "-1", "nan", "inf", "five"):
        with pytest.raises(Exception, match="minutes"):
            minutes(text)
