"""UCC's loss against loops, and its density layer against sums and histograms."""

import math

import numpy as np
import pytest
import torch

from losses import CRITERIA
from models import build_backbone
from models.ucc import NUM_BINS, Counter, UCCModel, density, standardize
from system.errors import ConfigError


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_loss_is_that_of_loops(share):
    random = np.random.default_rng(0)
    logits, images, decoded = (
        random.normal(size=(6, 4)),
        random.normal(size=(5, 3, 2, 2)),
        random.normal(size=(5, 3, 2, 2)),
    )
    counts = [0, 3, 1, 1, 2, 0]
    counting = sum(math.log(sum(math.exp(x) for x in row)) - row[c] for row, c in zip(logits, counts, strict=True)) / 6
    error = sum((a - b) ** 2 for a, b in zip(images.flat, decoded.flat, strict=True)) / images.size
    tensors = [torch.from_numpy(logits), torch.tensor(counts), torch.from_numpy(decoded), torch.from_numpy(images)]
    found = CRITERIA["ucc"](reconstruction=share)(*tensors)
    assert float(found) == pytest.approx((1 - share) * counting + share * error, abs=1e-12)


def test_the_density_is_that_of_loops():
    features = np.random.default_rng(1).random((2, 5, 3))
    expected = np.zeros((2, 3, NUM_BINS))
    for bag in range(2):
        for j in range(3):
            for b in range(NUM_BINS):
                expected[bag, j, b] = sum(math.exp(-((b / 10 - f) ** 2) / (2 * 0.1**2)) for f in features[bag, :, j])
    expected /= expected.sum(2, keepdims=True)
    np.testing.assert_allclose(density(torch.from_numpy(features)).numpy(), expected, atol=1e-14)


def test_the_density_of_a_small_sigma_is_a_histogram():
    """Features near bins: each counts for its nearest one alone."""
    random = np.random.default_rng(2)
    features = random.integers(0, 11, (3, 20, 4)) / 10 + random.choice([0, 1e-9], (3, 20, 4))
    found = density(torch.from_numpy(features), sigma=1e-3).numpy()
    for bag in range(3):
        for j in range(4):
            histogram = np.histogram(features[bag, :, j], bins=np.arange(12) / 10 - 0.05)[0] / 20
            np.testing.assert_allclose(found[bag, j], histogram, atol=1e-6)


def test_standardized_images_have_mean_0_and_deviation_1():
    images = 3 + 5 * torch.rand(4, 3, 6, 6)
    images[1] = 0.7
    found = standardize(images)
    assert found.mean((1, 2, 3)).abs().max() < 1e-3
    assert found[0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert found[1].abs().max() < 0.2
    torch.testing.assert_close(standardize(2 * images + 1)[[0, 2, 3]], found[[0, 2, 3]])


@pytest.mark.parametrize("side", [16, 28])
def test_the_networks_sizes_are_the_published_ones(side):
    backbone = build_backbone(f"ucc/{side}")
    encoder = backbone["backbone"]
    assert encoder.linear.weight.shape == (10, 128 * (side // 4) ** 2)  # 6,272 at 28
    assert encoder.linear.bias is None
    assert float(encoder.convolutions[1].conv1.bias[0].detach()) == pytest.approx(0.1)
    model = UCCModel(encoder, 4, 3)
    assert [layer.out_features for layer in model.counter.layers[::2]] == [384, 192, 3]
    logits, decoded = model(torch.rand(8, 3, side, side))
    assert logits.shape == (2, 3)
    assert decoded.shape == (8, 3, side, side)
    features = encoder(torch.rand(8, 3, side, side))
    assert bool(((features > 0) & (features < 1)).all())


def test_a_count_does_not_depend_on_the_order_of_a_bag():
    counter, features = Counter(4).double(), torch.rand(2, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(counter(features), counter(features[:, torch.randperm(9)]))


@pytest.mark.parametrize("side", ["30", "x", "0", "-4", "4096"])
def test_a_side_that_cannot_be_halved_twice_is_refused(side):
    with pytest.raises(ConfigError, match="multiple of 4"):
        build_backbone(f"ucc/{side}")
