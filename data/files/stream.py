"""Images too many for memory: decoded when asked for, in the caller's process (a DataLoader's worker)."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from data.dataset import LabeledImages
from data.files.decode import center_box, cut, frame_size, read_image
from data.files.formats import MAX_PIXELS, BadImageError
from data.files.listing import ImageFiles, leave_out
from data.files.reading import Reading
from data.files.workers import read_squares
from system.errors import UserError
from system.text import shown

CHECK_SIDE = 8  # JPEGs are checked at an eighth of their size: the whole file is read, few pixels are computed


class UnreadableImageError(UserError):
    """A bad image was asked for."""


class StreamDataset(LabeledImages):
    """Image files whose frame is the image with its short side scaled to that of `read`; `images` is None.

    With `on_bad_image` "skip" every file is decoded once now, and bad ones are left out; otherwise a bad one
    raises UserError when it is asked for.
    """

    images = None

    def __init__(self, files: ImageFiles, read: Reading, on_bad_image: str = "error") -> None:
        if on_bad_image == "skip":
            bad: dict[int, str] = {}
            for _, reasons in read_squares(files.full_paths(), CHECK_SIDE, read.values, desc="checking images"):
                bad |= reasons
            files = leave_out(files, bad, on_bad_image)
        super().__init__(files.name, files.targets, files.classes, files.paths, root=files.root)
        self.resize, self.values, self.resized_first = read.side, read.values, read.resized_first
        self._files = files
        self._fingerprint: str | None = None

    def decode(
        self, index: int, boxes: Callable[[int, int], Tensor | Sequence[Sequence[int]]], out_size: int
    ) -> Tensor:
        """Decode an image once and resize crops of it: uint8 [V, 3, out_size, out_size].

        `boxes(height, width)` gets the frame's size and returns int64 [V, 4]: top, left, height, width in
        the frame. Raises UserError when the file is bad.
        """
        image, frame = self._read(index)
        first = self.resized_first and frame[0] * frame[1] <= MAX_PIXELS
        image = _resized(image, frame) if first else image
        found = boxes(*frame)
        found = found.tolist() if isinstance(found, Tensor) else found
        return torch.from_numpy(cut(image, frame, found, out_size, within=first))

    def image(self, index: int) -> Tensor:
        """One whole frame: uint8 [3, H, W]."""
        image, (height, width) = self._read(index)
        if height * width > MAX_PIXELS:  # a line of pixels, stretched
            raise self._bad(index, BadImageError(f"{height}x{width} pixels after resizing"))
        pixels = torch.frombuffer(bytearray(_resized(image, (height, width)).tobytes()), dtype=torch.uint8)
        return pixels.view(height, width, 3).permute(2, 0, 1).contiguous()

    def load(self, indices: Tensor, device: torch.device | str) -> Tensor:
        """Center squares of the frames, for showing a few: uint8 [B, 3, resize, resize] on the device."""
        side = self.resize
        squares = [self.decode(i, lambda h, w: [center_box(h, w, side)], side) for i in indices.tolist()]
        return torch.cat(squares).to(device) if squares else torch.empty((0, 3, side, side), dtype=torch.uint8)

    def fingerprint(self) -> str:
        """SHA-256 over relative paths and file sizes, in order; computed once."""
        if self._fingerprint is None:
            self._fingerprint = self._files.fingerprint()
        return self._fingerprint

    def _path(self, index: int) -> str:
        return self._files.full_path(index)

    def _read(self, index: int) -> tuple[Image.Image, tuple[int, int]]:
        # Twice the side, as a JPEG's own shrinking is coarser than PIL's.
        short_side = None if self.resized_first else 2 * self.resize
        try:
            image, size = read_image(self._path(index), short_side, self.values)
        except BadImageError as error:
            raise self._bad(index, error) from error
        return image, frame_size(*size, self.resize)

    def _bad(self, index: int, error: BadImageError) -> UnreadableImageError:
        return UnreadableImageError(
            f"the image '{shown(self.paths[index])}' in {shown(self._files.root)} cannot be read: "
            f"{error}; repair or remove it, or leave bad ones out with "
            "on_bad_image: skip in train_db_kwargs (val_db_kwargs)"
        )


def _resized(image: Image.Image, frame: tuple[int, int]) -> Image.Image:
    height, width = frame
    return image.resize((width, height), Image.Resampling.BILINEAR)
