"""Instance discrimination against a memory bank (https://arxiv.org/abs/1805.01978): full softmax, and its estimate."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

Temperature = Annotated[float, Field(gt=0)]


class InstanceDiscrimination(nn.Module):
    """Tell every image apart from all others of the data set, each a class of its own.

    loss_i = -log( exp(v_i·f_i/t) / sum_j exp(v_j·f_i/t) ), the sum over all N vectors of the bank. Equal vectors give
    log N. No gradient flows into the bank.

    Args:
        temperature: t, greater than 0.

    Shape:
        features: [B, D], L2-normalized.
        bank: [N, D]; indices: int64 [B], which of its vectors are the images' own.
        losses: [B], float32 (float64 for float64 features).

    Example:
        >>> features = functional.normalize(torch.randn(8, 16), dim=1).requires_grad_()
        >>> bank, indices = functional.normalize(torch.randn(50, 16), dim=1), torch.arange(8)
        >>> loss = InstanceDiscrimination()(features, bank, indices)
        >>> loss.mean().backward()
    """

    num_noise = 0

    def __init__(self, temperature: Temperature = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor, bank: Tensor, indices: Tensor) -> Tensor:
        """Return the loss of every image."""
        logits = features @ bank.detach().T / self.temperature
        return functional.cross_entropy(logits, indices, reduction="none")


class InstanceNCE(nn.Module):
    """Noise-contrastive estimate of `InstanceDiscrimination`: tell every image's vector from m drawn ones.

    With P(j) = exp(v_j·f_i/t) / Z and noise of probability 1/N a vector,
    loss_i = -log( P(i) / (P(i) + m/N) ) - sum_noise log( (m/N) / (P(j) + m/N) ).

    Args:
        temperature: t, at least 0.012.
        num_noise: m, vectors of the bank drawn for each image, uniformly, with replacement; at most N.

    Shape:
        features: [B, D], L2-normalized.
        chosen: int64 [B, 1 + m], the images' own vectors of the bank [N, D], and the noise.
        scale: Z, a scalar tensor.
        losses: [B], float32 (float64 for float64 features).

    Example:
        >>> scores = torch.randn(8, 17, requires_grad=True)
        >>> criterion = InstanceNCE(num_noise=16)
        >>> loss = criterion(scores, 50, torch.tensor(50.0))
        >>> loss.mean().backward()
    """

    def __init__(
        self,
        temperature: Annotated[float, Field(ge=0.012)] = 0.07,  # exp(1 / t) is to be a number of float32
        num_noise: Annotated[int, Field(ge=1, le=2**20)] = 4096,
    ) -> None:
        super().__init__()
        self.temperature, self.num_noise = temperature, num_noise

    def scores(self, features: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
        """exp(v·f/t) of the chosen vectors, `[B, 1 + m]`."""
        return (torch.einsum("bkd,bd->bk", bank.detach()[chosen], features) / self.temperature).exp()

    def forward(self, scores: Tensor, num_images: int, scale: Tensor) -> Tensor:
        """Return the loss of every image from its `scores`, for a bank of N = `num_images` vectors."""
        probabilities, noise = scores / scale, self.num_noise / num_images
        own, others = probabilities[:, 0], probabilities[:, 1:]
        return (1 + noise / own).log() + torch.log1p(others / noise).sum(1)
