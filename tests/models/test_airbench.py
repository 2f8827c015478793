import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.nn import functional as F

from models import build_backbone
from models.airbench import patch_basis


def test_basis_is_orthonormal_and_comes_with_its_negatives():
    basis = patch_basis().double().reshape(24, 12)
    torch.testing.assert_close(basis[:12] @ basis[:12].T, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(basis[12:], -basis[:12])


def test_basis_separates_luminance_from_color_and_means_from_edges():
    gray = torch.tensor([[0.1, 0.5], [0.7, 0.2]]).expand(3, 2, 2)
    answers = (patch_basis()[:12] * gray).sum(dim=(1, 2, 3))
    # Haar's four sums of the patch over 2, times √3 for three equal colors; nothing for opponent colors.
    sums = np.array([0.1 + 0.5 + 0.7 + 0.2, 0.1 - 0.5 + 0.7 - 0.2, 0.1 + 0.5 - 0.7 - 0.2, 0.1 - 0.5 - 0.7 + 0.2]) / 2
    np.testing.assert_allclose(answers[:4].numpy(), 3**0.5 * sums, atol=1e-6)
    np.testing.assert_allclose(answers[4:].numpy(), 0, atol=1e-6)


def gelu(x):
    return x * (1 + torch.from_numpy(erf(x.numpy() / 2**0.5))) / 2


def naive_forward(state, images):
    """In eval mode, step by step from the state_dict; pools and the zeros at the border by indexing."""

    def normalize(x, key):
        mean, var, weight, bias = (
            state[f"{key}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5) ** 0.5 * weight + bias

    def pool(x):
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        return torch.stack([x[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)

    padded = torch.zeros(*images.shape[:2], images.shape[2] + 1, images.shape[3] + 1, dtype=images.dtype)
    padded[:, :, :-1, :-1] = images
    x = gelu(normalize(F.conv2d(padded, state["basis"]), "bn"))
    for layer in ("layer1", "layer2", "layer3"):
        x = gelu(normalize(pool(F.conv2d(x, state[f"{layer}.conv1.weight"], padding=1)), f"{layer}.bn1"))
        x = gelu(normalize(F.conv2d(x, state[f"{layer}.conv2.weight"], padding=1), f"{layer}.bn2"))
    return x.mean(dim=(2, 3))


@pytest.mark.parametrize("side", [8, 24, 27, 32])
def test_features_are_those_of_a_naive_pass(side):
    torch.manual_seed(0)
    described = build_backbone("airbench", width=4)
    backbone = described["backbone"].double().eval()
    assert described["dim"] == 16
    for buffer in (b for name, b in backbone.named_buffers() if "running" in name):
        buffer.uniform_(0.5, 1.5)
    images = torch.randn(3, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(images), naive_forward(backbone.state_dict(), images), rtol=1e-12, atol=1e-12
        )


def test_the_basis_is_saved_but_not_trained():
    backbone = build_backbone("airbench")["backbone"]
    assert "basis" in backbone.state_dict()
    assert "basis" not in dict(backbone.named_parameters())
    shapes = [tuple(parameter.shape) for parameter in backbone.parameters() if parameter.ndim > 1]
    assert shapes == [(64, 24, 3, 3), (64, 64, 3, 3), (256, 64, 3, 3), *[(256, 256, 3, 3)] * 3]
