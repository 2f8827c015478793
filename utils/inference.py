"""Features and cluster probabilities of a whole data set, the same for any number of ranks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from data.augment import Strategy
from data.loaders import InferenceLoader
from utils import distributed
from utils.console import progress
from utils.runtime import Runtime


@torch.no_grad()
def embed(
    module: nn.Module,
    dataset: Any,
    strategy: Strategy,
    runtime: Runtime,
    *,
    batch_size: int = 512,
    num_workers: int = 0,
    dtype: torch.dtype | None = None,
    desc: str = "features",
) -> Tensor:
    """The module's outputs float32 `[N, D]` in eval mode under the evaluation transform, in data set order.

    `dtype` is the runtime's inference precision unless given.
    """
    was_training = module.training
    module.eval()
    loader = InferenceLoader(dataset, strategy, batch_size, runtime, num_workers)
    precision = dtype or runtime.inference
    outputs = [runtime.forward(module, images, precision) for images in progress(loader, len(loader), desc)]
    module.train(was_training)
    return distributed.gather_rows(torch.cat(outputs))


@torch.no_grad()
def head_probabilities(model: Any, features: Tensor) -> Iterator[Tensor]:
    """For each cluster head in turn the probabilities `[N, C]` of features `[N, D]`; one head is held at a time."""
    for head in model.cluster_head:
        yield torch.softmax(head(features), dim=1)
