"""The images of a data set in memory, and what is known of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from system.transfer import send

UNLABELED = "unlabeled"
Whole = Literal["train+test"]
"""Of a data set with two splits: both, one after the other."""


class LabeledImages(Dataset[dict[str, Any]]):
    """What every data set has: items, targets (-1 where unknown), class names, a name for every image.

    `images` is uint8 [N, 3, H, W], or None where they are decoded when asked for; `targets` int64 [N];
    `paths` names each image (a file relative to `root`, or for example "digits/00012").
    """

    images: Tensor | None
    reading: Any = None
    """How files were read (`data.files.reading.Reading`), where the images came from files."""

    def __init__(
        self,
        name: str,
        targets: Tensor,
        classes: list[str],
        paths: list[str],
        *,
        root: Path | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if len(targets) != len(paths):
            raise ValueError(f"{len(targets)} targets for {len(paths)} images")
        self.name = name
        self.targets = targets.to(torch.int64)
        self.classes = classes
        self.paths = paths
        self.root = root
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`{'image', 'target', 'meta': {'index', 'class_name', 'im_size'}}`; size (H, W) before any transform."""
        index = range(len(self))[index]  # counts from the end, and raises IndexError, as a list does
        image = self.image(index)
        target = int(self.targets[index])
        class_name = self.classes[target] if target >= 0 else UNLABELED
        meta = {"index": index, "class_name": class_name, "im_size": (image.shape[1], image.shape[2])}
        return {"image": self.transform(image) if self.transform else image, "target": target, "meta": meta}

    def image(self, index: int) -> Tensor:
        """One image before any transform: uint8 [3, H, W]."""
        raise NotImplementedError

    def load(self, indices: Tensor, device: torch.device | str) -> Tensor:
        """Images of one shape: uint8 [B, 3, H, W] on the device."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hex digest that differs between data sets, and between orders of one."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes by name; 0 without labels."""
        return len(self.classes)

    @property
    def has_labels(self) -> bool:
        """Whether any image's class is known."""
        return bool((self.targets >= 0).any())


class ImageDataset(LabeledImages):
    """Images in memory, or in a memory-mapped file that looks like it; a GPU may `hold` a copy of them all.

    `fingerprint` may be given where reading every image for it would be a waste.
    """

    images: Tensor

    def __init__(
        self,
        name: str,
        images: Tensor,
        targets: Tensor,
        classes: list[str],
        paths: list[str],
        *,
        root: Path | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__(name, targets, classes, paths, root=root, transform=transform)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}")
        if len(images) != len(paths):
            raise ValueError(f"{len(images)} images for {len(paths)} paths")
        self.images = images
        self._held: Tensor | None = None
        self._fingerprint = fingerprint

    def image(self, index: int) -> Tensor:
        """One image before any transform: uint8 [3, H, W]."""
        return self.images[index]

    def load(self, indices: Tensor, device: torch.device | str) -> Tensor:
        """Gather images by index: uint8 [B, 3, H, W] on the device."""
        device = torch.device(device)
        if self._held is not None and self._held.device == device:
            return self._held.index_select(0, send(indices, device))
        return send(self.images[indices], device)

    def hold(self, device: torch.device) -> None:
        """Keep a copy of all images on a device, where `load` then gathers."""
        if self._held is None:
            self._held = self.images.to(device)

    def fingerprint(self) -> str:
        """SHA-256 over count, shape and image bytes, in order; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
            for part in self.images.split(4096):
                digest.update(part.contiguous().cpu().numpy())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint
