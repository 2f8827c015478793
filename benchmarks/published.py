"""The published way of doing things, rewritten to measure against: PIL image by image, fp32, a pass per pair.

Nothing of the project computes this way. Its views and steps are the same.
"""

import random
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from losses import CRITERIA
from models import build_backbone
from models.models import ClusteringModel, ContrastiveModel
from system.distributed import num_cores

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SIZE, CUTOUT, NUM_STRONG = 32, 16, 4
NUM_NEIGHBORS = 20
THRESHOLD = 0.1  # of self-labeling: an untrained network's views count too
Loss = Callable[[Any, list[Tensor]], Tensor]


def _finish() -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


def evaluation() -> Callable[[Image.Image], Tensor]:
    """Center crop, normalize."""
    return transforms.Compose([transforms.CenterCrop(SIZE), *_finish()])


def simclr() -> Callable[[Image.Image], Tensor]:
    """SimCLR's view of a PIL image."""
    jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    crop = transforms.RandomResizedCrop(SIZE, scale=(0.2, 1.0))
    return transforms.Compose(
        [crop, transforms.RandomHorizontalFlip(), jitter, transforms.RandomGrayscale(0.2), *_finish()]
    )


def _either_sign(high: float) -> float:
    return random.uniform(0, high) * random.choice((-1, 1))


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


OPERATIONS: list[Callable[[Image.Image], Image.Image]] = [
    lambda image: image,
    ImageOps.autocontrast,
    ImageOps.equalize,
    lambda image: image.rotate(_either_sign(30)),
    lambda image: ImageOps.solarize(image, int(random.uniform(0, 256))),
    lambda image: ImageEnhance.Color(image).enhance(random.uniform(0.05, 0.95)),
    lambda image: ImageEnhance.Contrast(image).enhance(random.uniform(0.05, 0.95)),
    lambda image: ImageEnhance.Brightness(image).enhance(random.uniform(0.05, 0.95)),
    lambda image: ImageEnhance.Sharpness(image).enhance(random.uniform(0.05, 0.95)),
    lambda image: _affine(image, 1, _either_sign(0.1), 0, 0, 1, 0),
    lambda image: _affine(image, 1, 0, 0, _either_sign(0.1), 1, 0),
    lambda image: _affine(image, 1, 0, _either_sign(0.1) * image.width, 0, 1, 0),
    lambda image: _affine(image, 1, 0, 0, 0, 1, _either_sign(0.1) * image.height),
    lambda image: ImageOps.posterize(image, random.randint(4, 7)),
]


def _operate(image: Image.Image) -> Image.Image:
    for operation in random.choices(OPERATIONS, k=NUM_STRONG):
        image = operation(image)
    return image


def _cut_out(view: Tensor) -> Tensor:
    half = random.randint(1, CUTOUT) // 2
    y, x = random.randrange(SIZE), random.randrange(SIZE)
    view[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return view


def strong() -> Callable[[Image.Image], Tensor]:
    """SCAN's strong view of a PIL image."""
    return transforms.Compose(
        [transforms.RandomHorizontalFlip(), transforms.RandomCrop(SIZE), _operate, *_finish(), _cut_out]
    )


class Views(Dataset):
    """Views of images uint8 [N, 3, H, W], made one by one; of itself, and where there are neighbors of one of them."""

    def __init__(self, images: Tensor, make: list[Callable[[Image.Image], Tensor]], neighbors: Tensor | None) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.make, self.neighbors = make, neighbors

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        partner = index if self.neighbors is None else random.choice(self.neighbors[index].tolist())
        shown = [index, partner]
        return [make(Image.fromarray(self.images[i])) for make, i in zip(self.make, shown, strict=True)]


def batches(
    images: Tensor, make: list[Callable], batch_size: int, num_workers: int, neighbors: Tensor | None = None
) -> Iterator[list[Tensor]]:
    """Shuffled batches of views from worker processes, epoch after epoch."""
    data = Views(images, make, neighbors)
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, num_workers=num_workers)
    while True:
        yield from loader


def match_passes(predictions: Tensor, targets: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Agreement of clusters with classes, a pass over all samples for every pair."""
    return torch.stack([((predictions == cluster) & (targets == label)).sum() for cluster, label in pairs])


def validation_loss(probabilities: Tensor, neighbors: Tensor) -> Tensor:
    """The label-free score by way of an N x N matrix of similarities."""
    similarity = probabilities @ probabilities.T
    consistency = -similarity.gather(1, neighbors).clamp(max=1).log().clamp(min=-100).mean()
    mean = probabilities.mean(0).clamp(min=1e-8)
    return consistency + (mean * mean.log()).sum()


def _model(stage: str, width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", "cifar", width)
    return ContrastiveModel(backbone) if stage == "simclr" else ClusteringModel(backbone, 10)


def simclr_loss(model: Any, views: list[Tensor]) -> Tensor:
    return CRITERIA["simclr"](temperature=0.1)(model(torch.cat(views)).unflatten(0, (2, -1)).transpose(0, 1))


def scan_loss(model: Any, views: list[Tensor]) -> Tensor:
    return CRITERIA["scan"](entropy_weight=5.0)(model(views[0])[0], model(views[1])[0]).total


def selflabel_loss(model: Any, views: list[Tensor]) -> Tensor:
    with torch.no_grad():
        plain = model(views[0])[0]
    return CRITERIA["confidence-cross-entropy"](THRESHOLD, apply_class_balancing=True)(plain, model(views[1])[0])


LOSSES: dict[str, Loss] = {"simclr": simclr_loss, "scan": scan_loss, "selflabel": selflabel_loss}


def steps(
    stage: str, images: Tensor, width: int, batch_size: int, device: torch.device
) -> Generator[Tensor, None, None]:
    """Train forever in the published way, in fp32 and contiguous tensors; yields the loss of every step."""
    model = _model(stage, width).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, weight_decay=1e-4, foreach=False)
    if stage != "simclr":
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, weight_decay=1e-4, foreach=False)  # type: ignore[assignment]
    make = {
        "simclr": [simclr(), simclr()],
        "scan": [strong(), strong()],
        "selflabel": [evaluation(), strong()],
    }[stage]
    neighbors = torch.randint(len(images), (len(images), NUM_NEIGHBORS + 1)) if stage == "scan" else None
    loss_of = LOSSES[stage]
    for views in batches(images, make, batch_size, num_cores(), neighbors):
        loss = loss_of(model, [view.to(device, non_blocking=True) for view in views])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # published loops read the loss of every step
        yield loss
