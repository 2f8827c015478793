"""Fetch a published archive once, whatever number of processes ask for it, or say in a sentence why not."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from system.console import say
from system.errors import UserError
from system.lock import locked
from system.paths import expand_path

TIMEOUT = 20.0  # seconds without a byte
_forbidden = False


class NotHereError(UserError):
    """A data set is not on this machine, and nothing may be downloaded."""


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Have `locate` raise NotHereError where it would download."""
    global _forbidden
    before, _forbidden = _forbidden, True
    try:
        yield
    finally:
        _forbidden = before


def locate(name: str, root: Path, folder: str, files: list[str], url: str, md5: str) -> Path:
    """Find a published data set in `root/folder` (or in `root` itself), downloading it when it is missing.

    Raises UserError when it is missing and cannot be downloaded, NotHereError where `no_downloads` forbids it.
    """
    root = Path(expand_path(root))
    for candidate in (root / folder, root):
        if all((candidate / file).is_file() for file in files):
            return candidate
    if _forbidden:
        raise NotHereError(f"{name} is not in {root} (no {folder}/{files[0]})")
    try:
        with locked(root / f".{folder}.lock"):
            if not all((root / folder / file).is_file() for file in files):
                _download(name, root, url, md5)
    except Exception as error:  # torchvision lets all through: no network, no room, no permission, a broken archive
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise UserError(
            f"{name} is not in {root} (no {folder}/{files[0]}) and cannot be downloaded from {url} "
            f"({reason}); put {folder} there yourself, or name the directory that holds it: "
            f"data_paths.{name}=DIR (or in env.yml)"
        ) from error
    missing = [file for file in files if not (root / folder / file).is_file()]
    if missing:
        raise UserError(
            f"{name} was downloaded to {root}, but {folder}/{missing[0]} was not in the archive; "
            "delete that folder to download it again"
        )
    return root / folder


def _download(name: str, root: Path, url: str, md5: str) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    say(f"downloading {name} to {root}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        download_and_extract_archive(url, str(root), md5=md5)
    finally:
        socket.setdefaulttimeout(before)
