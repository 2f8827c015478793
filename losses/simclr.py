"""NT-Xent, the loss of SimCLR (https://arxiv.org/abs/2002.05709), with the first views as anchors."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional


class SimCLRLoss(nn.Module):
    """Pick out each image's second view among all other embeddings of the batch.

    loss = -mean_i log( exp(z_i·z_i'/t) / sum_{j != i} exp(z_i·z_j/t) ) over the B first views i; the sum runs
    over the 2B embeddings but the anchor itself. Identical features give log(2B - 1).

    Args:
        temperature: t, greater than 0.

    Shape:
        features: [B, 2, D], both views of every image of the global batch, L2-normalized by the model.
        loss: a scalar, float32 (float64 for float64 features); to be computed outside autocast.

    Raises:
        ValueError: features of another shape.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16))
        >>> embeddings = functional.normalize(model(torch.rand(2 * 4, 3, 8, 8)), dim=1)  # two views of 4 images
        >>> loss = SimCLRLoss(temperature=0.5)(embeddings.reshape(2, 4, 16).transpose(0, 1))
        >>> loss.backward()
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Return the loss of one batch."""
        if features.ndim != 3 or features.shape[1] != 2:
            raise ValueError(f"features must be [B, 2, D], not {list(features.shape)}")
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        anchors, positives = features.unbind(1)
        logits = anchors @ torch.cat([anchors, positives]).T / self.temperature
        itself = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        target = torch.arange(len(anchors), 2 * len(anchors), device=logits.device)
        return functional.cross_entropy(logits.masked_fill(itself, -torch.inf), target)
