"""Principal components of features, and linear layers on them turned back into layers on the features themselves."""

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_VARIANCE = 1e-6  # of the largest: directions below it are rounding, and whitening would blow them up


class PCA(NamedTuple):
    """The mean [D], and by falling variance the directions [d, D] of unit length with their variances [d]."""

    mean: Tensor
    directions: Tensor
    variances: Tensor

    def apply(self, features: Tensor, whiten: bool = False) -> Tensor:
        """Return coordinates [N, d] of features [N, D], each of variance 1 if whitened."""
        scale = self.variances.rsqrt() if whiten else torch.ones_like(self.variances)
        return (features - self.mean) @ (self.directions * scale.unsqueeze(1)).T

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight [K, D] and bias [K] on features that equal weight [K, d] and bias [K] on coordinates."""
        folded = weight.double() @ self.directions.double()
        return folded.float(), (bias.double() - folded @ self.mean.double()).float()


def fit_pca(features: Tensor, num_dims: int) -> PCA:
    """Return the first components of features [N, D]: at most num_dims, and no more than there are in the data.

    The sign of a direction is such that its largest entry is positive. From the covariance, or for N < D from the inner
    products of the images, so that time grows with the smaller of the two. Eigenvectors are found on the processor,
    as not every device can.
    """
    mean = features.mean(0)
    centered = (features - mean).float()
    num_images, length = centered.shape
    if num_images < length:
        values, vectors = _eigh(centered @ centered.T / num_images)
        vectors = centered.T @ vectors
    else:
        values, vectors = _eigh(centered.T @ centered / num_images)
    values, vectors = values.flip(0)[:num_dims].clamp(min=0), vectors.flip(1)[:, :num_dims]
    real = values > values[0] * SMALLEST_VARIANCE
    real[0] = True  # images that are all alike still have one coordinate, always 0
    directions = torch.nn.functional.normalize(vectors[:, real].T, dim=1)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return PCA(mean, directions * torch.where(largest < 0, -1.0, 1.0), values[real].clamp(min=1e-30))


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    symmetric = matrix.cpu()
    try:
        values, vectors = torch.linalg.eigh(symmetric)
    except torch.linalg.LinAlgError:  # with many equal values, as of features that hardly differ
        values, vectors = torch.linalg.eigh(symmetric.double())
    return values.to(matrix), vectors.to(matrix)


class EvenPCA(NamedTuple):
    """Components by one scale for all, with which their variance is 1 on average: what heads are trained on."""

    pca: PCA
    scale: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """Return coordinates [N, d] of features [N, D]."""
        return self.pca.apply(features) * self.scale

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight [K, D] and bias [K] on features that equal weight [K, d] and bias [K] on coordinates."""
        return self.pca.fold(weight * self.scale, bias)


def fit_even_pca(features: Tensor, num_dims: int) -> EvenPCA:
    """Return the first components of features [N, D], as `fit_pca` finds them."""
    pca = fit_pca(features, num_dims)
    return EvenPCA(pca, (len(pca.variances) / pca.variances.sum()).sqrt())
