"""Other pretext tasks over several processes: gradients, bank and target are those of one."""

import copy

import pytest
import torch

import selflabel
from losses import CRITERIA
from methods import byol, instdisc, rotnet, supervised
from models import build_backbone
from models.byol import OnlineNetwork
from models.models import ClassifierModel, ClusteringModel, ContrastiveModel
from system import distributed
from tests.distributed.steps import DOUBLE, assert_same_on_all, gradients, own, prepare
from tests.distributed.test_distributed import BATCH, images
from training.batchnorm import synchronize_batchnorm
from training.ema import follow
from training.memory_bank import MemoryBank

pytestmark = pytest.mark.slow


def generator(seed):
    return torch.Generator().manual_seed(seed)


def classifier(num_outputs):
    torch.manual_seed(3)
    return ClassifierModel(build_backbone("resnet8", "cifar", width=4), num_outputs).to(DOUBLE)


def contrastive(head):
    torch.manual_seed(3)
    return ContrastiveModel(build_backbone("resnet8", "cifar", width=4), head, 6).to(DOUBLE)


def turned():
    model = classifier(4)
    forward = prepare(model)  # held until the gradients are there
    loss, right = rotnet.step(forward, CRITERIA["cross-entropy"](), own(images(0, DOUBLE)))
    loss.backward()
    return gradients(model) | {"loss": loss.detach(), "right": right.double()}


def labeled():
    model = classifier(5)
    targets = torch.arange(BATCH) % 5
    forward = prepare(model)
    loss, right = supervised.step(forward, CRITERIA["cross-entropy"](), own(images(0, DOUBLE)), own(targets))
    loss.backward()
    return gradients(model) | {"loss": loss.detach(), "right": right.double()}


def banked(criterion):
    """Gradients of a step, and the bank after it."""
    model = contrastive("linear")
    bank = MemoryBank(20, 6, 0.5, generator(1))
    bank.vectors = bank.vectors.to(DOUBLE)
    indices = own(torch.randperm(20, generator=generator(2))[:BATCH])
    noise = instdisc.draw_noise(20, BATCH, criterion.num_noise, "place")
    forward = prepare(model)
    loss, features = instdisc.step(forward, criterion, bank, own(images(0, DOUBLE)), indices, noise)
    loss.backward()
    bank.update(distributed.gather(indices), features)
    return gradients(model) | {"loss": loss.detach()} | {f"bank {key}": v for key, v in bank.state_dict().items()}


def followed():
    """Gradients of a step, and the target after it."""
    target = contrastive("mlp-batchnorm").requires_grad_(False)
    torch.manual_seed(4)
    online = OnlineNetwork(target, 6).to(DOUBLE).requires_grad_(True)
    forward = prepare(online)
    target = synchronize_batchnorm(target) if distributed.world_size() > 1 else target
    views = [own(images(seed, DOUBLE)) for seed in (0, 1)]
    loss = byol.step(forward, target, CRITERIA["byol"](), *views)
    loss.backward()
    found = gradients(online) | {"loss": loss.detach()}
    with torch.no_grad():
        for parameter in online.parameters():
            parameter -= 0.1 * parameter.grad
    follow(target, online, 0.9)
    return found | {f"target {name}": value.double() for name, value in copy.deepcopy(target.state_dict()).items()}


def reliable():
    """Gradients of self-labeling with labels for some images."""
    torch.manual_seed(3)
    model = ClusteringModel(build_backbone("resnet8", "cifar", width=4), 5).to(DOUBLE)
    views = [own(images(seed, DOUBLE)) for seed in range(3)]
    criterion = CRITERIA["fixmatch"](threshold=0.25)
    forward = prepare(model)
    loss, labels = selflabel.step_with_labels(forward, criterion, *views, own(torch.arange(BATCH) % 5))
    loss.backward()
    assert 0 < labels.confident.sum() < BATCH
    return gradients(model) | {"loss": loss.detach(), "counts": labels.counts.double()}


CASES = {
    "fixmatch": reliable,
    "rotnet": turned,
    "supervised": labeled,
    "instdisc": lambda: banked(CRITERIA["instdisc"](temperature=0.5)),
    "instdisc-nce": lambda: banked(CRITERIA["instdisc-nce"](temperature=0.5, num_noise=7)),
    "byol": followed,
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_that_of_one_process(ranks, name):
    expected = CASES[name]()
    assert len(expected) > 10
    assert_same_on_all(ranks, name, expected)
