"""Bags: how many classes each holds, which, and that ranks and resumed runs see the same."""

from itertools import combinations

import pytest
import torch

from data.augment import Evaluation
from data.bags import BagLoader, Bags
from data.dataset import ImageDataset
from system.errors import ConfigError, UserError
from system.runtime import Runtime, generator

CLASSES = [str(i) for i in range(6)]


def dataset(num=120, targets=None, classes=CLASSES):
    targets = torch.arange(num) % len(classes) if targets is None else targets
    return ImageDataset("toy", torch.zeros(len(targets), 3, 4, 4, dtype=torch.uint8), targets, classes,
                        [str(i) for i in range(len(targets))])  # fmt: skip


def bags(data, bag_size=10, most=4):
    return Bags(data, bag_size, most, (0, "ucc"))


def test_a_thousand_bags_hold_exactly_as_many_classes_as_is_told():
    data = dataset()
    made = bags(data)
    for number in range(1000):
        indices = made.draw(number, generator(0, number))
        labels = data.targets[indices].bincount()
        labels = labels[labels > 0]
        assert len(labels) == made.count(number) == 1 + number % 4
        assert int(labels.sum()) == 10 == len(set(indices.tolist()))
        assert int(labels.max() - labels.min()) <= 1, "shared out evenly"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_subset_comes_once_before_one_comes_again(count):
    made = bags(dataset())
    every = set(combinations(range(6), count))
    numbers = range(count - 1, 4 * 2 * len(every), 4)
    drawn = [tuple(made.classes(number)) for number in numbers]
    assert set(drawn[: len(every)]) == set(drawn[len(every) :]) == every


def test_images_without_a_label_are_in_no_bag():
    targets = torch.arange(120) % 6
    targets[::2] = -1
    targets[1::12] = torch.tensor([0, 2, 4] * 4)[:10]
    data = dataset(targets=targets)
    drawn = torch.cat([bags(data).draw(number, generator(number)) for number in range(50)])
    assert int(data.targets[drawn].min()) >= 0


def test_a_class_of_few_images_gives_them_again():
    data = dataset(12)
    assert len(bags(data).draw(0, generator(0))) == 10


BAD = {
    "no labels": (dataset(targets=torch.full((40,), -1)), 10, 4, "has no labels"),
    "a class without images": (dataset(targets=torch.arange(40) % 5), 10, 4, "no image of the class 5"),
    "fewer images than a bag": (dataset(12), 13, 4, "12 images, fewer than a bag of 13"),
    "fewer classes than counts": (dataset(60), 10, 7, "6 classes, but bags hold up to 7"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_bags_is_told(name):
    data, bag_size, most, words = BAD[name]
    with pytest.raises(UserError, match=words):
        bags(data, bag_size, most)


def loader(batch_size):
    data = dataset()
    view = Evaluation(4, {"mean": [0.5] * 3, "std": [0.5] * 3})
    return BagLoader(bags(data), data, [view], batch_size, Runtime.start("cpu", "fp32"), (0, "ucc"))


def test_batches_are_whole_bags_of_the_counts_that_are_told():
    made = loader(80)
    assert len(made) == 1
    assert made.counts.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    seen = []
    for epoch in range(3):
        (batch,) = made.epoch(epoch)
        for bag, count in zip(batch.indices.view(8, 10), made.counts, strict=True):
            assert len(made.dataset.targets[bag].unique()) == count + 1
        seen.append(batch.indices)
    assert not seen[0].equal(seen[1])
    assert loader(80).order(1).equal(made.order(1))


@pytest.mark.parametrize("batch_size", [20, 50, 90])
def test_a_batch_of_broken_bags_is_refused(batch_size):
    with pytest.raises(ConfigError, match="multiple of 40"):
        loader(batch_size)
