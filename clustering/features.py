"""Features and cluster probabilities of a whole data set, whatever the number of ranks."""

import glob
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

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
    def _own_outputs(self, module: nn.Module, dataset: Any, dtype: torch.dtype | None, desc: str) -> Iterator[Tensor]:
        """This rank's share of the outputs, float32 `[b, D]` a batch, in order."""
        was_training = module.training
        module.eval()
        rows = self._rows(dataset)
        loader = InferenceLoader(dataset, self.strategy, self.batch_size, self.runtime, self.num_workers, rows)
        for images in progress(loader, len(loader), desc):
            yield self.runtime.forward(module, images, dtype or self.runtime.inference)
        module.train(was_training)

    def embed(
        self, module: nn.Module, dataset: Any, *, dtype: torch.dtype | None = None, desc: str = "features"
    ) -> Tensor:
        """The module's outputs float32 `[N, D]`; `dtype` is the runtime's inference precision unless given."""
        share = self._rows(dataset)
        rows, first = torch.empty(0), 0
        for outputs in self._own_outputs(module, dataset, dtype, desc):
            if first == 0:  # filled batch by batch: a list put together at the end would need twice the memory
                rows = outputs.new_empty(share.stop - share.start, *outputs.shape[1:])
            rows[first : first + len(outputs)] = outputs
            first += len(outputs)
        return rows if self.alone else distributed.gather_rows(rows)

    def embed_to_file(self, path: Path, module: nn.Module, dataset: Any, *, desc: str = "features") -> np.memmap:
        """What `embed` returns, written to a .npy file as it is computed, and memory-mapped: for small memories.

        Every rank writes its share next to the file, and rank 0 puts the shares together.
        """

        def write(file: BinaryIO) -> None:
            for outputs in self._own_outputs(module, dataset, None, desc):
                if distributed.is_main() and file.tell() == 0:
                    shape = (len(dataset), *outputs.shape[1:])
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(outputs.cpu().numpy().data)

        def write_whole(file: BinaryIO) -> None:
            write(file)
            distributed.barrier()
            for share in shares[1:]:
                with share.open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 24)
                share.unlink()

        shares = [path.with_name(f"{path.name}.share{rank}.partial") for rank in range(distributed.world_size())]
        if distributed.is_main():
            _remove_shares(path, distributed.world_size())
            write_file(path, write_whole)
        else:
            write_file(shares[distributed.rank()], write, record=False)
            distributed.barrier()
        distributed.barrier()
        return map_array(path)

    def hold(self, module: nn.Module, num_dims: int, dataset: Any, path: Path) -> Tensor | np.ndarray:
        """Outputs `[N, num_dims]`: on the device, or where that is too small, mapped from `path`.

        In a dry run, which computes a few steps and writes nothing, zeros stand for them.
        """
        if not may_write():
            return np.broadcast_to(np.float32(0), (len(dataset), num_dims))
        if distributed.from_main(self.runtime.holds(4 * len(dataset) * num_dims)):
            return self.embed(module, dataset, desc=path.stem)
        say(f"the features of {len(dataset)} images are kept in {path}, as memory is too small for them")
        return self.embed_to_file(path, module, dataset, desc=path.stem)

    def freeze(self, model: Any, dataset: Any, path: Path) -> FeatureSet:
        """What a frozen backbone makes of a split whose views are the same every epoch, computed once."""
        return FeatureSet(dataset.name, self.hold(model.backbone, model.backbone_dim, dataset, path))


def _remove_shares(path: Path, first: int) -> None:
    """Remove what ranks from `first` on left of a run that was killed; nobody writes it in this one."""
    for share in path.parent.glob(f"{glob.escape(path.name)}.share*.partial"):
        rank = re.fullmatch(r"(\d+)\.partial(\.\d+\.partial)?", share.name.removeprefix(f"{path.name}.share"))
        if rank and int(rank[1]) >= first:
            share.unlink(missing_ok=True)


@torch.no_grad()
def head_probabilities(model: Any, features: Tensor) -> Iterator[Tensor]:
    """For each cluster head in turn the probabilities `[N, C]` of features `[N, D]`; one head is held at a time."""
    for head in model.cluster_head:
        yield torch.softmax(head(features), dim=1)
