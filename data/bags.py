"""Bags of images of which only the number of classes is told: the one place that turns labels into counts."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from data.loaders import ViewLoader
from system.errors import ConfigError, UserError
from system.runtime import generator

MOST_SUBSETS = 20_000  # that are listed; among more, each bag draws its own


class Bags:
    """Draws bags: bag g holds 1 + g mod `most` classes, its images shared out evenly among them.

    Which classes is cycled: every subset of a size is used once, in random order, before one comes again. Raises
    UserError for images without labels, for fewer classes than `most`, a class without images, too few images, and
    ConfigError for bags that are too small for their classes.
    """

    def __init__(self, dataset: Any, bag_size: int, most: int, key: tuple[Any, ...]) -> None:
        name, targets = dataset.name, dataset.targets
        if not dataset.has_labels:
            raise UserError(f"{name} has no labels, of which UCC counts the classes of a bag; use a labeled data set")
        num_labels = dataset.num_classes or int(targets.max()) + 1
        self.members = [(targets == label).nonzero().flatten() for label in range(num_labels)]
        for label, members in enumerate(self.members):
            if not len(members):
                word = dataset.classes[label] if dataset.classes else label
                raise UserError(f"{name} has no image of the class {word}; leave the class out or add images")
        if bag_size < most:
            raise ConfigError(
                f"method_kwargs.bag_size is {bag_size}, but a bag of up to {most} classes holds at least {most} images"
            )
        if num_labels < most:
            raise UserError(f"{name} has {num_labels} classes, but bags hold up to {most}; lower method_kwargs.most")
        if len(targets) < bag_size:
            raise UserError(
                f"{name} has {len(targets)} images, fewer than a bag of {bag_size}; lower method_kwargs.bag_size"
            )
        self.bag_size, self.most, self.key = bag_size, most, key

    def draw(self, number: int, random: torch.Generator) -> Tensor:
        """The image numbers `[bag_size]` of a bag."""
        classes = self.classes(number)
        share, rest = divmod(self.bag_size, len(classes))
        parts = [self._images(label, share + (place < rest), random) for place, label in enumerate(classes)]
        return torch.cat(parts)

    def count(self, number: int) -> int:
        """How many classes a bag holds."""
        return 1 + number % self.most

    def classes(self, number: int) -> list[int]:
        """The classes of a bag."""
        size, place = self.count(number), number // self.most
        num_classes = len(self.members)
        num_subsets = math.comb(num_classes, size)
        if num_subsets > MOST_SUBSETS:
            return torch.randperm(num_classes, generator=generator(*self.key, "classes", number))[:size].tolist()
        again, place = divmod(place, num_subsets)
        order = torch.randperm(num_subsets, generator=generator(*self.key, "subsets", size, again))
        return list(next(itertools.islice(itertools.combinations(range(num_classes), size), int(order[place]), None)))

    def _images(self, label: int, num: int, random: torch.Generator) -> Tensor:
        """Different ones, as far as there are."""
        members = self.members[label]
        rounds = math.ceil(num / len(members))
        order = torch.cat([torch.randperm(len(members), generator=random) for _ in range(rounds)])
        return members[order[:num]]


class BagLoader(ViewLoader):
    """The batches of a `ViewLoader`, made of whole bags; an epoch has as many images as the data set.

    Raises ConfigError where the batch, or a rank's share of it, is not a whole number of bags of every count.
    """

    def __init__(self, bags: Bags, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bags = bags
        own = self._own.stop - self._own.start
        if self.batch_size % (bags.bag_size * bags.most) or own % bags.bag_size:
            raise ConfigError(
                f"batch_size is {self.batch_size}, but must be a multiple of {bags.bag_size * bags.most}, a bag of "
                f"{bags.bag_size} images for each count up to {bags.most}, and each rank's share one of whole bags"
            )
        self.num_bags = self.batch_size // bags.bag_size
        self.counts = torch.tensor([bags.count(number) - 1 for number in range(self.num_bags)])
        """What is to be told of the bags of a step, of all ranks: int64 `[num_bags]`, 0 for one class."""

    def order(self, epoch: int) -> Tensor:
        """The images of all bags of this epoch, a bag's in a row; the same on every rank."""
        bags = range(epoch * len(self) * self.num_bags, (epoch + 1) * len(self) * self.num_bags)
        return torch.cat([self.bags.draw(bag, generator(*self.key, "bag", bag)) for bag in bags])
