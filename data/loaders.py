"""From a data set to what one step sees: a view of every image for every strategy, on the device.

A data set in memory is one gather and one batched augmentation, with no worker process. A streamed one is decoded and
cropped by workers. Every random choice is keyed by (epoch, step) and drawn for the global batch, of which each rank
takes its slice: more workers, more ranks or a resumed run see the same pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.augment import Strategy
from data.augment.strategy import Params
from data.dataset import ImageDataset
from data.files.workers import decode_ahead
from system import distributed
from system.errors import ConfigError, UserError
from system.runtime import Runtime, generator
from system.transfer import send

PIXELS_AT_ONCE, MOST_STEPS_AT_ONCE = 2**23, 32  # of views made together on a GPU: 8,192 images of 32 x 32


@dataclass(frozen=True)
class NeighborPartner:
    """Draws for each anchor one of the first `num_neighbors + 1` columns, itself included, of `[N, ≥ K+1]`."""

    neighbors: Tensor
    num_neighbors: int

    def __call__(self, indices: Tensor, random: torch.Generator) -> Tensor:
        """Image numbers `[B]` of the partners of `indices [B]`."""
        columns = torch.randint(self.num_neighbors + 1, indices.shape, generator=random)
        return self.neighbors[indices, columns]


class Batch(NamedTuple):
    """What a step sees: for every strategy views float32 `[b, 3, S, S]`, and which images they are, int64 `[b]`.

    All are on the device; `b` is this rank's share of the global batch. `WithLabeled` adds views of other images
    float32 `[l, 3, S, S]`, and their targets int64 `[l]`.
    """

    views: tuple[Tensor, ...]
    indices: Tensor
    labeled: tuple[Tensor, ...] = ()


def count_steps_at_once(device: torch.device, num_pixels: int) -> int:
    """How many steps' views, of `num_pixels` a step, are made together.

    A GPU waits for the launches of work on a few hundred images; a processor's cache is small.
    """
    return 1 if device.type == "cpu" else min(MOST_STEPS_AT_ONCE, max(1, PIXELS_AT_ONCE // num_pixels))


class ViewLoader:
    """The training batches of an epoch: every strategy's view of every image.

    With `partners[v]` the v-th view is not of the batch's own images but of those the partner draws for them.
    With `rows` only those images are gone through. Batches are shuffled, the last partial one is dropped. `batch_size`
    is global; each rank gets its share; `size_key` is what a config calls it.
    Raises UserError when the batch is larger than what is gone through, ConfigError when ranks do not divide it.
    """

    def __init__(
        self,
        dataset: Any,
        strategies: Sequence[Strategy],
        batch_size: int,
        runtime: Runtime,
        key: tuple[Any, ...],
        partners: Sequence[NeighborPartner | None] | None = None,
        num_workers: int = 0,
        rows: Tensor | None = None,
        size_key: str = "batch_size",
    ) -> None:
        self.num_images = len(dataset) if rows is None else len(rows)
        if batch_size > self.num_images:
            raise UserError(
                f"{size_key} is {batch_size}, but {dataset.name} has {self.num_images} training images; "
                f"use a smaller {size_key}"
            )
        if batch_size % distributed.world_size():
            raise ConfigError(
                f"{size_key} is {batch_size}, which {distributed.world_size()} ranks cannot share equally; "
                f"use a multiple of {distributed.world_size()}"
            )
        self.dataset, self.strategies, self.batch_size = dataset, list(strategies), batch_size
        self.runtime, self.key, self.num_workers, self.rows = runtime, key, num_workers, rows
        self.partners = list(partners or [None] * len(self.strategies))
        self._own = distributed.slice_of(batch_size)  # found here: a spawned worker knows of no ranks
        num_pixels = (self._own.stop - self._own.start) * sum(strategy.size**2 for strategy in self.strategies)
        self.steps_at_once = count_steps_at_once(runtime.device, num_pixels)
        _hold(dataset, runtime)

    def __len__(self) -> int:
        return self.num_images // self.batch_size

    @property
    def num_pixels(self) -> int:
        """Pixels of all views of an epoch, by which one decides whether compiling pays."""
        return len(self) * self.batch_size * sum(strategy.size**2 for strategy in self.strategies)

    def compile(self) -> None:
        """Have the strategies compiled, where the runtime compiles and views are made here, not in workers."""
        if self.runtime.compiles and self.dataset.images is not None:
            num_images = (self._own.stop - self._own.start) * min(self.steps_at_once, len(self))
            for strategy in set(self.strategies):
                strategy.compile(num_images * self.strategies.count(strategy), self.runtime.guarded_compile)

    def order(self, epoch: int) -> Tensor:
        """The permutation of the images that this epoch goes through, the same on every rank."""
        order = torch.randperm(self.num_images, generator=generator(*self.key, "order", epoch))
        return order if self.rows is None else self.rows[order]

    def plan(self, order: Tensor, epoch: int, step: int) -> list[tuple[Tensor, Params]]:
        """What this rank shows at a step: for every view its image numbers `[b]` and its draws `[b, …]`."""
        batch = order[step * self.batch_size : (step + 1) * self.batch_size]
        views = []
        for number, (strategy, partner) in enumerate(zip(self.strategies, self.partners, strict=True)):
            random = generator(*self.key, "view", epoch, step, number)
            indices = partner(batch, random) if partner else batch
            params = strategy.draw(self.batch_size, random)
            views.append((indices[self._own], {name: value[self._own] for name, value in params.items()}))
        return views

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of every step from `first_step` on."""
        order = self.order(epoch)
        if self.dataset.images is None:
            for step, crops in enumerate(self.crops(epoch, first_step), first_step):
                yield Batch(self.finish(crops), self._indices(order, range(step, step + 1))[0])
            return
        num = self.steps_at_once
        for first in range(first_step - first_step % num, len(self), num):  # the same groups after a resume
            steps = range(first, min(first + num, len(self)))
            made = zip(self._make(order, epoch, steps), self._indices(order, steps), strict=True)
            yield from [Batch(views, indices) for views, indices in made][max(0, first_step - first) :]

    def _indices(self, order: Tensor, steps: range) -> Tensor:
        """Which images this rank sees at some steps, int64 `[steps, b]`."""
        batches = order[steps.start * self.batch_size : steps.stop * self.batch_size].view(len(steps), -1)
        return send(batches[:, self._own].contiguous(), self.runtime.device)

    def _make(self, order: Tensor, epoch: int, steps: range) -> list[tuple[Tensor, ...]]:
        """The views of some steps; all that one strategy makes are one gather and one batch to it."""
        plans = [self.plan(order, epoch, step) for step in steps]
        made: list[list[Tensor]] = [[] for _ in self.strategies]
        for strategy in dict.fromkeys(self.strategies):
            numbers = [number for number, own in enumerate(self.strategies) if own is strategy]
            parts = [plan[number] for number in numbers for plan in plans]
            indices = torch.cat([indices for indices, _ in parts])
            params = {name: torch.cat([own[name] for _, own in parts]) for name in parts[0][1]}
            views = strategy.run(self.dataset.load(indices, self.runtime.device), params)
            for number, own in zip(numbers, views.chunk(len(numbers)), strict=True):
                made[number] = list(own.chunk(len(plans)))
        return list(zip(*made, strict=True))

    def crops(self, epoch: int, first_step: int = 0) -> Iterator[list[tuple[Tensor, Params]]]:
        """Yield what the workers decode of streamed images: for every view its crops and the draws left to apply."""
        num_bytes = 3 * (self._own.stop - self._own.start) * sum(strategy.size**2 for strategy in self.strategies)
        steps = _Steps(self, self.order(epoch), epoch)
        return decode_ahead(steps, range(first_step, len(self)), self.num_workers, self.runtime, num_bytes)

    def finish(self, crops: Sequence[tuple[Tensor, Params]]) -> tuple[Tensor, ...]:
        """The views of a step from its crops, on the device."""
        return tuple(
            strategy.run_finish(send(images, self.runtime.device), params)
            for strategy, (images, params) in zip(self.strategies, crops, strict=True)
        )


@dataclass(frozen=True)
class WithLabeled:
    """The batches of a loader, each with one of another loader of at least as many steps, whose images have targets."""

    loader: ViewLoader
    labeled: ViewLoader
    targets: Tensor

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def num_pixels(self) -> int:
        """Pixels of all views of an epoch."""
        return self.loader.num_pixels + self.labeled.num_pixels * len(self.loader) // len(self.labeled)

    def compile(self) -> None:
        """Have the strategies compiled, as the loaders do."""
        self.loader.compile()
        self.labeled.compile()

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of every step from `first_step` on."""
        both = zip(self.loader.epoch(epoch, first_step), self.labeled.epoch(epoch, first_step), strict=False)
        for batch, labeled in both:
            yield batch._replace(labeled=(*labeled.views, self.targets[labeled.indices]))


def _hold(dataset: Any, runtime: Runtime) -> None:
    """Have a GPU keep the images of a data set in memory, where they fit."""
    if isinstance(dataset, ImageDataset) and runtime.device.type == "cuda" and runtime.holds(dataset.images.nbytes):
        dataset.hold(runtime.device)


class _Steps(Dataset):
    """A step's crops, decoded in a worker: for every view uint8 `[b, 3, S, S]` and the draws that remain to apply."""

    def __init__(self, loader: ViewLoader, order: Tensor, epoch: int) -> None:
        self._loader, self._order, self._epoch = loader, order, epoch

    def __getitem__(self, step: int) -> list[tuple[Tensor, Params]]:
        dataset, strategies = self._loader.dataset, self._loader.strategies
        views = self._loader.plan(self._order, self._epoch, step)
        crops = [
            torch.empty(len(indices), 3, strategy.size, strategy.size, dtype=torch.uint8)
            for strategy, (indices, _) in zip(strategies, views, strict=True)
        ]
        jobs: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, (indices, _) in enumerate(views):
            for row, index in enumerate(indices.tolist()):
                jobs.setdefault((index, strategies[number].size), []).append((number, row))
        for (index, size), wanted in jobs.items():  # an image that several views show is decoded once
            cut = dataset.decode(index, _Boxes(strategies, views, wanted), size)
            for (number, row), crop in zip(wanted, cut, strict=True):
                crops[number][row] = crop
        return [(crop, params) for crop, (_, params) in zip(crops, views, strict=True)]


@dataclass(frozen=True)
class _Boxes:
    """The crops of one image that several views want, as (view, row) pairs."""

    strategies: Sequence[Strategy]
    views: Sequence[tuple[Tensor, Params]]
    wanted: Sequence[tuple[int, int]]

    def __call__(self, height: int, width: int) -> Tensor:
        return torch.cat([self._box(number, row, height, width) for number, row in self.wanted])

    def _box(self, number: int, row: int, height: int, width: int) -> Tensor:
        own = {name: value[row : row + 1] for name, value in self.views[number][1].items()}
        return self.strategies[number].box(own, height, width)


class InferenceLoader:
    """Some rows of a data set in order, under the evaluation transform; by default each rank's own ones of all."""

    def __init__(
        self,
        dataset: Any,
        strategy: Strategy,
        batch_size: int,
        runtime: Runtime,
        num_workers: int = 0,
        rows: slice | None = None,
    ) -> None:
        self.dataset, self.strategy, self.batch_size = dataset, strategy, batch_size
        self.runtime, self.num_workers = runtime, num_workers
        self.rows = rows or distributed.slice_of(len(dataset))
        _hold(dataset, runtime)

    def __len__(self) -> int:
        return -(-(self.rows.stop - self.rows.start) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        device = self.runtime.device
        batches = torch.arange(self.rows.start, self.rows.stop).split(self.batch_size)[: len(self)]  # of none, one
        if self.dataset.images is not None:
            for indices in batches:
                images = self.dataset.load(indices, device)
                yield self.strategy.run(images, self.strategy.draw(len(indices)))
            return
        crops = _Crops(self.dataset, self.strategy, batches)
        num_bytes = 3 * self.batch_size * self.strategy.size**2
        for images in decode_ahead(crops, range(len(batches)), self.num_workers, self.runtime, num_bytes):
            yield self.strategy.run_finish(send(images, device), self.strategy.draw(len(images)))


class _Crops(Dataset):
    """A batch of the evaluation transform's crops, decoded in a worker: uint8 `[b, 3, S, S]`."""

    def __init__(self, dataset: Any, strategy: Strategy, batches: Sequence[Tensor]) -> None:
        self.dataset, self.strategy, self.batches = dataset, strategy, batches

    def __getitem__(self, number: int) -> Tensor:
        boxes = partial(self.strategy.box, self.strategy.draw(1))
        size = self.strategy.size
        return torch.cat([self.dataset.decode(index, boxes, size) for index in self.batches[number].tolist()])
