"""Views of several steps made together are those of each step made alone, wherever one begins."""

from types import SimpleNamespace

import pytest
import torch

from data.augment import Evaluation, build_augmentation
from data.dataset import ImageDataset
from data.loaders import InferenceLoader, NeighborPartner, ViewLoader, count_steps_at_once
from system.runtime import Runtime
from utils.common_config import add_labeled

NORMALIZE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
STRONG = {"crop_size": 8, "num_strong_augs": 2, "cutout_kwargs": {"n_holes": 1, "length": 4}, "normalize": NORMALIZE}
STANDARD = {"random_resized_crop": {"size": 8, "scale": [0.2, 1.0]}, "normalize": NORMALIZE}


@pytest.fixture
def runtime():
    return Runtime(torch.device("cpu"), torch.float32, torch.float32)


@pytest.fixture
def dataset():
    images = torch.randint(0, 256, (45, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageDataset("noise", images, torch.zeros(45), ["a"], [f"noise/{i}" for i in range(45)])


def make(dataset, runtime):
    neighbors = torch.randint(0, 45, (45, 4), generator=torch.Generator().manual_seed(1))
    strong = build_augmentation("ours", **STRONG)
    views = [strong, Evaluation(8, NORMALIZE), strong, build_augmentation("standard", **STANDARD)]
    partners = [None, None, NeighborPartner(neighbors, 3), None]
    return ViewLoader(dataset, views, 6, runtime, (0, "test"), partners)


@pytest.mark.parametrize("num", [2, 3, 7, 9])
@pytest.mark.parametrize("first_step", [0, 1, 4])
def test_steps_made_together_are_steps_made_alone(dataset, runtime, num, first_step):
    loader = make(dataset, runtime)
    alone = list(loader.epoch(2, first_step))
    loader.steps_at_once = num
    together = list(loader.epoch(2, first_step))
    assert len(alone) == len(together) == 7 - first_step
    for one, other in zip(alone, together, strict=True):
        assert [view.shape for view in one.views] == [(6, 3, 8, 8)] * 4
        assert torch.equal(one.indices, other.indices)
        for view, made in zip(one.views, other.views, strict=True):
            torch.testing.assert_close(made, view)


@pytest.mark.parametrize("first_step", [0, 6])
def test_what_is_compiled_are_the_batches_of_whole_groups_wherever_one_begins(dataset, monkeypatch, first_step):
    """Of seven steps in groups of three the last is alone: an epoch that is resumed there compiles nothing else."""
    sizes = []

    def compiler(runtime, function, **kwargs):
        return lambda images, params: sizes.append(len(images)) or function(images, params)

    monkeypatch.setattr(Runtime, "guarded_compile", compiler)
    runtime = Runtime(torch.device("cpu"), torch.float32, torch.float32, compiles=True)
    twice = build_augmentation("standard", **STANDARD)
    loader = ViewLoader(dataset, [twice, Evaluation(8, NORMALIZE), twice], 6, runtime, (0, "test"))
    loader.steps_at_once = 3
    loader.compile()
    list(loader.epoch(2, first_step))
    list(loader.epoch(3))
    assert sizes == [2 * 18, 18] * (2 if first_step else 4)  # of two steps' groups an epoch


def test_number_of_steps_made_together(dataset, runtime):
    assert make(dataset, runtime).steps_at_once == 1  # a processor's cache is small
    gpu = torch.device("meta")
    num_pixels = {1: 32, 2**18: 32, 2**21: 4, 2**21 + 1: 3, 2**23: 1, 2**30: 1}
    assert {num: count_steps_at_once(gpu, num) for num in num_pixels} == num_pixels


def test_held_images_are_what_load_gives(dataset):
    expected = dataset.load(torch.tensor([3, 1, 3]), "cpu")
    dataset.hold(torch.device("cpu"))
    dataset.images = torch.zeros_like(dataset.images)
    assert torch.equal(dataset.load(torch.tensor([3, 1, 3]), "cpu"), expected)


def test_inference_goes_through_all_images_in_order(dataset, runtime):
    loader = InferenceLoader(dataset, Evaluation(8, NORMALIZE), 10, runtime)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [10, 10, 10, 10, 5] and len(loader) == 5
    mean, std = (torch.tensor(NORMALIZE[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(torch.cat(batches), (dataset.images / 255 - mean) / std)


def with_labeled(dataset, runtime, rows=(3, 8, 21, 30, 44)):
    """Seven steps of six images, and in each four of `rows`, whose target is ten times their number."""
    rows = torch.tensor(rows)
    loader = make(dataset, runtime)
    p, run = {"reliable_batch_size": 4, "num_workers": 0}, SimpleNamespace(runtime=runtime, key=(0, "test"))
    return loader, add_labeled(p, loader, dataset, loader.strategies[0], run, rows, 10 * torch.arange(45))


def test_labeled_images_come_equally_often_with_their_targets(dataset, runtime):
    loader, both = with_labeled(dataset, runtime)
    batches = list(both.epoch(1))
    assert len(batches) == len(both) == 7
    for batch, alone in zip(batches, loader.epoch(1), strict=True):
        assert torch.equal(batch.indices, alone.indices)
        assert all(map(torch.equal, batch.views, alone.views))
        assert batch.labeled[0].shape == (4, 3, 8, 8)
    shown = torch.cat([batch.labeled[1] for batch in batches]).bincount()
    assert shown.nonzero().flatten().tolist() == [30, 80, 210, 300, 440]
    assert sorted(shown[shown > 0].tolist()) == [5, 5, 6, 6, 6]  # 28 in all


def test_more_labeled_images_than_places_all_have_their_turn(dataset, runtime):
    """Forty images for 28 places: an epoch shows none twice, and several epochs all."""
    _, both = with_labeled(dataset, runtime, range(40))
    epochs = [torch.cat([batch.labeled[1] for batch in both.epoch(epoch)]) // 10 for epoch in range(8)]
    assert all(len(shown) == len(shown.unique()) == 28 for shown in epochs)
    assert torch.cat(epochs).unique().tolist() == list(range(40))
    assert both.num_pixels == 7 * (4 * 6 + 4) * 8 * 8


def test_labeled_images_of_a_resumed_epoch_are_those_of_the_whole(dataset, runtime):
    _, both = with_labeled(dataset, runtime)
    whole = [batch.labeled for batch in both.epoch(1)]
    assert all(
        torch.equal(one, other)
        for batch, expected in zip(both.epoch(1, 3), whole[3:], strict=True)
        for one, other in zip(batch.labeled, expected, strict=True)
    )
    assert not torch.equal(whole[0][0], next(both.epoch(2)).labeled[0])


def test_partners_are_an_image_and_its_first_neighbors_equally_often():
    neighbors = torch.arange(50)[:, None] + 100 * torch.arange(6)  # row i holds i, 100 + i, 200 + i, …
    rows = torch.arange(50).repeat(200)
    found = NeighborPartner(neighbors, 3)(rows, torch.Generator().manual_seed(0))
    assert torch.equal(found % 100, rows)
    shares = (found // 100).bincount(minlength=6) / len(found)
    assert shares[4:].tolist() == [0, 0]
    assert (shares[:4] - 1 / 4).abs().max() < 0.02


def test_a_partners_view_is_of_its_own_image_and_the_anchors_of_the_batch(runtime):
    """Image i is of level i throughout; its neighbors are i + 5 and i + 10."""
    images = torch.arange(45, dtype=torch.uint8)[:, None, None, None].expand(45, 3, 8, 8).contiguous()
    levels = ImageDataset("levels", images, torch.zeros(45), ["a"], [str(i) for i in range(45)])
    neighbors = (torch.arange(45)[:, None] + torch.tensor([0, 5, 10, 20])) % 45
    views = [Evaluation(8, {"mean": [0.0] * 3, "std": [1 / 255] * 3})] * 2
    loader = ViewLoader(levels, views, 6, runtime, (0, "test"), [None, NeighborPartner(neighbors, 2)])
    apart = []
    for batch in loader.epoch(0):
        anchors, partners = (view[:, 0, 0, 0].round().long() for view in batch.views)
        assert torch.equal(anchors, batch.indices)
        apart += ((partners - anchors) % 45).tolist()
    assert set(apart) == {0, 5, 10}


def test_every_view_of_every_image_at_every_step_has_draws_of_its_own(runtime):
    """Of one picture under 24 numbers, two views in each of four steps of two epochs: 96 different pictures."""
    one = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = ImageDataset("same", one.repeat(24, 1, 1, 1), torch.zeros(24), ["a"], [str(i) for i in range(24)])
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    kwargs = {**STANDARD, "color_jitter_random_apply": {"p": 1.0}, "color_jitter": jitter, "random_grayscale": {"p": 0}}
    augment = build_augmentation("simclr", **kwargs)
    loader = ViewLoader(same, [augment, augment], 6, runtime, (0, "test"))
    views = [image for epoch in (0, 1) for batch in loader.epoch(epoch) for view in batch.views for image in view]
    assert len(views) == len({image.numpy().tobytes() for image in views}) == 96


def test_an_epoch_shows_no_image_twice_and_the_next_one_in_another_order(dataset, runtime):
    loader = make(dataset, runtime)
    first, second = (torch.cat([batch.indices for batch in loader.epoch(epoch)]) for epoch in (0, 1))
    assert len(first.unique()) == len(second.unique()) == 7 * 6
    assert not torch.equal(first, second)
    assert len(torch.cat([torch.cat([b.indices for b in loader.epoch(e)]) for e in range(5)]).unique()) == 45
