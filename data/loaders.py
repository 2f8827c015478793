"""From a data set to what one step sees: a view of every image for every strategy, on the device.

A data set in memory is one gather and one batched augmentation, with no worker process. A streamed one is decoded and
cropped by workers. Every random choice is keyed by (epoch, step) and drawn for the global batch, of which each rank
takes its slice: more workers, more ranks or a resumed run see the same pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.augment import Strategy
from utils import distributed
from utils.errors import ConfigError, UserError
from utils.runtime import Runtime, generator

Params = dict[str, Tensor]


@dataclass(frozen=True)
class NeighborPartner:
    """Draws for each anchor one of the first `num_neighbors + 1` columns, itself included, of `[N, ≥ K+1]`."""

    neighbors: Tensor
    num_neighbors: int

    def __call__(self, indices: Tensor, random: torch.Generator) -> Tensor:
        """Image numbers `[B]` of the partners of `indices [B]`."""
        columns = torch.randint(self.num_neighbors + 1, indices.shape, generator=random)
        return self.neighbors[indices, columns]


def _finish(strategy: Strategy, crops: Tensor, params: Params, device: torch.device) -> Tensor:
    """What remains to be done on the device to crops uint8 `[b, 3, S, S]` that a worker decoded."""
    moved = {
        name: value if name in strategy.host_params else value.to(device, non_blocking=True)
        for name, value in params.items()
    }
    return strategy.finish(crops.to(device, non_blocking=True).float(), moved)


class ViewLoader:
    """The training batches of an epoch: for every strategy a tensor of views float32 `[b, 3, S, S]` on the device.

    With `partners[v]` the v-th view is not of the batch's own images but of those the partner draws for them.
    Batches are shuffled, the last partial one is dropped. `batch_size` is global; each rank gets its share.
    Raises UserError when the batch is larger than the data set, ConfigError when ranks do not divide it.
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
    ) -> None:
        if batch_size > len(dataset):
            raise UserError(
                f"batch_size is {batch_size}, but {dataset.name} has {len(dataset)} training images; use a smaller one"
            )
        if batch_size % distributed.world_size():
            raise ConfigError(
                f"batch_size is {batch_size}, which {distributed.world_size()} ranks cannot share equally; change it"
            )
        self.dataset, self.strategies, self.batch_size = dataset, list(strategies), batch_size
        self.runtime, self.key, self.num_workers = runtime, key, num_workers
        self.partners = list(partners or [None] * len(self.strategies))
        for strategy in self.strategies if runtime.compile else ():
            strategy.compile()

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The permutation of the data set that this epoch goes through, the same on every rank."""
        return torch.randperm(len(self.dataset), generator=generator(*self.key, "order", epoch))

    def plan(self, order: Tensor, epoch: int, step: int) -> list[tuple[Tensor, Params]]:
        """What this rank shows at a step: for every view its image numbers `[b]` and its draws `[b, …]`."""
        batch = order[step * self.batch_size : (step + 1) * self.batch_size]
        own = distributed.slice_of(self.batch_size)
        views = []
        for number, (strategy, partner) in enumerate(zip(self.strategies, self.partners, strict=True)):
            random = generator(*self.key, "view", epoch, step, number)
            indices = partner(batch, random) if partner else batch
            params = strategy.draw(self.batch_size, random)
            views.append((indices[own], {name: value[own] for name, value in params.items()}))
        return views

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield the views of every step from `first_step` on."""
        order = self.order(epoch)
        if self.dataset.images is None:
            yield from self._stream(order, epoch, first_step)
            return
        for step in range(first_step, len(self)):
            yield tuple(
                strategy.run(self.dataset.load(indices, self.runtime.device), params)
                for strategy, (indices, params) in zip(self.strategies, self.plan(order, epoch, step), strict=True)
            )

    def _stream(self, order: Tensor, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        device = self.runtime.device
        steps = DataLoader(
            _Steps(self, order, epoch),
            batch_size=None,
            sampler=range(first_step, len(self)),
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )
        for views in steps:
            yield tuple(
                _finish(strategy, crops, params, device)
                for strategy, (crops, params) in zip(self.strategies, views, strict=True)
            )


class _Steps(Dataset):
    """A step's crops, decoded in a worker: for every view uint8 `[b, 3, S, S]` and the draws that remain to apply."""

    def __init__(self, loader: ViewLoader, order: Tensor, epoch: int) -> None:
        self.dataset, self.strategies = loader.dataset, loader.strategies
        self._loader, self._order, self._epoch = loader, order, epoch

    def __getitem__(self, step: int) -> list[tuple[Tensor, Params]]:
        views = self._loader.plan(self._order, self._epoch, step)
        crops = [
            torch.empty(len(indices), 3, s.size, s.size, dtype=torch.uint8) for s, (indices, _) in self._zip(views)
        ]
        jobs: dict[int, list[tuple[int, int]]] = {}
        for number, (indices, _) in enumerate(views):
            for row, index in enumerate(indices.tolist()):
                jobs.setdefault(index, []).append((number, row))
        for index, wanted in jobs.items():  # an image that several views show is decoded once
            boxes = self._boxes(views, wanted)
            for (number, row), crop in zip(
                wanted, self.dataset.decode(index, boxes, self.strategies[0].size), strict=True
            ):
                crops[number][row] = crop
        return [(crop, params) for crop, (_, params) in zip(crops, views, strict=True)]

    def _zip(self, views: list[tuple[Tensor, Params]]) -> Any:
        return zip(self.strategies, views, strict=True)

    def _boxes(self, views: list[tuple[Tensor, Params]], wanted: list[tuple[int, int]]) -> Callable[[int, int], Tensor]:
        def boxes(height: int, width: int) -> Tensor:
            return torch.cat(
                [
                    self.strategies[number].box(
                        {name: value[row : row + 1] for name, value in views[number][1].items()},
                        height,
                        width,
                    )
                    for number, row in wanted
                ]
            )

        return boxes


class InferenceLoader:
    """All images of a data set in order, under the evaluation transform; each rank goes through its own rows."""

    def __init__(
        self, dataset: Any, strategy: Strategy, batch_size: int, runtime: Runtime, num_workers: int = 0
    ) -> None:
        self.dataset, self.strategy, self.batch_size = dataset, strategy, batch_size
        self.runtime, self.num_workers = runtime, num_workers
        self.rows = distributed.slice_of(len(dataset))

    def __len__(self) -> int:
        return -(-(self.rows.stop - self.rows.start) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        device = self.runtime.device
        batches = torch.arange(self.rows.start, self.rows.stop).split(self.batch_size)
        if self.dataset.images is not None:
            for indices in batches:
                images = self.dataset.load(indices, device)
                yield self.strategy.run(images, self.strategy.draw(len(indices)))
            return
        crops = DataLoader(
            _Crops(self.dataset, self.strategy, batches),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )
        for images in crops:
            yield _finish(self.strategy, images, self.strategy.draw(len(images)), device)


class _Crops(Dataset):
    def __init__(self, dataset: Any, strategy: Strategy, batches: Sequence[Tensor]) -> None:
        self.dataset, self.strategy, self.batches = dataset, strategy, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor:
        draws = self.strategy.draw(1)
        return torch.cat(
            [
                self.dataset.decode(int(i), lambda h, w: self.strategy.box(draws, h, w), self.strategy.size)
                for i in self.batches[number]
            ]
        )
