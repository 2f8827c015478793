"""Features and cluster probabilities of a whole data set, whatever the number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clustering.parts import Parts
from data.augment import Strategy
from data.features import FeatureSet
from data.loaders import InferenceLoader
from system import distributed
from system.bounded import map_array
from system.console import progress, say
from system.files import may_write, write_file
from system.runtime import Runtime


@dataclass(frozen=True)
class Embedder:
    """What a module makes of every image of a data set, in eval mode and in data set order.

    `strategy` is what images look like, usually the evaluation transform; `num_workers` processes decode those that
    are streamed. Every rank goes through its own rows, unless each has a data set of its own (`alone`).
    """

    strategy: Strategy
    runtime: Runtime
    batch_size: int = 256
    num_workers: int = 0
    alone: bool = False

    def under(self, strategy: Strategy) -> "Embedder":
        """The same under another strategy."""
        return replace(self, strategy=strategy)

    def _rows(self, dataset: Any) -> slice:
        return slice(0, len(dataset)) if self.alone else distributed.slice_of(len(dataset))

    @torch.no_grad()
    def _own_outputs(
        self, module: nn.Module, dataset: Any, dtype: torch.dtype | None, desc: str, parts: Parts | None = None
    ) -> Iterator[Tensor]:
        """This rank's share of the outputs, float32 `[b, D]` a batch, or a part, in order."""
        was_training = module.training
        module.eval()
        rows = self._rows(dataset)
        if parts is not None:
            for part in parts.stored(rows):
                yield part.to(self.runtime.device)
                rows = slice(rows.start + len(part), rows.stop)
            num_left = sum(distributed.gather_objects(rows.stop - rows.start))
            if num_left < len(dataset):
                say(f"{desc} of {len(dataset) - num_left:,} images were computed before, {num_left:,} are left")
        loader = InferenceLoader(dataset, self.strategy, self.batch_size, self.runtime, self.num_workers, rows)
        batches = (
            self.runtime.forward(module, images, dtype or self.runtime.inference)
            for images in progress(loader, len(loader), desc)
        )
        yield from batches if parts is None else parts.keep(batches, rows.start)
        module.train(was_training)

    def embed(
        self,
        module: nn.Module,
        dataset: Any,
        *,
        dtype: torch.dtype | None = None,
        desc: str = "features",
        parts: Parts | None = None,
    ) -> Tensor:
        """The module's outputs float32 `[N, D]`; `dtype` is the runtime's inference precision unless given.

        Where `parts` are kept, an interrupted call goes on after them.
        """
        share = self._rows(dataset)
        rows, first = torch.empty(0, device=self.runtime.device), 0
        for outputs in self._own_outputs(module, dataset, dtype, desc, parts):
            if first == 0:  # filled batch by batch: a list put together at the end would need twice the memory
                rows = outputs.new_empty(share.stop - share.start, *outputs.shape[1:])
            rows[first : first + len(outputs)] = outputs
            first += len(outputs)
        return rows if self.alone else distributed.gather_rows(rows)

    def embed_to_file(
        self, path: Path, module: nn.Module, dataset: Any, *, desc: str = "features", made_from: str | None = None
    ) -> np.memmap:
        """What `embed` returns, written to a .npy file as it is computed, and memory-mapped: for small memories.

        Every rank writes parts next to the file, and rank 0 joins them. They stay, for `Parts.remove`, where
        `made_from` says what they are of.
        """
        parts = Parts(path, made_from)
        for _ in self._own_outputs(module, dataset, None, desc, parts):
            pass  # it is on the disk
        distributed.barrier()
        if distributed.is_main():
            write_file(path, lambda file: parts.join(file, len(dataset)))
        distributed.barrier()
        if made_from is None:
            parts.remove(self._rows(dataset))
        return map_array(path)

    def hold(
        self, module: nn.Module, num_dims: int, dataset: Any, path: Path, made_from: str | None = None
    ) -> Tensor | np.ndarray:
        """Outputs `[N, num_dims]`: on the device, or where that is too small, mapped from `path`.

        With `made_from` (see `Parts`) a call that is interrupted leaves what it has for the next.
        In a dry run, which computes a few steps and writes nothing, zeros stand for them.
        """
        if not may_write():
            return np.broadcast_to(np.float32(0), (len(dataset), num_dims))
        if distributed.from_main(self.runtime.holds(4 * len(dataset) * num_dims)):
            parts = Parts(path, made_from) if made_from is not None else None
            return self.embed(module, dataset, desc=path.stem, parts=parts)
        say(f"the features of {len(dataset)} images are kept in {path}, as memory is too small for them")
        return self.embed_to_file(path, module, dataset, desc=path.stem, made_from=made_from)

    def freeze(self, model: Any, dataset: Any, path: Path) -> FeatureSet:
        """What a frozen backbone makes of a split whose views are the same every epoch, computed once."""
        return FeatureSet(dataset.name, self.hold(model.backbone, model.backbone_dim, dataset, path))


@torch.no_grad()
def head_probabilities(model: Any, features: Tensor) -> Iterator[Tensor]:
    """For each cluster head in turn the probabilities `[N, C]` of features `[N, D]`; one head is held at a time."""
    for head in model.cluster_head:
        yield torch.softmax(head(features), dim=1)
