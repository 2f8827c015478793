"""Fetch a published archive once, whatever number of processes ask for it, or say in a sentence why not."""

import contextlib
import shutil
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


def find(folder: Path, file: str) -> Path | None:
    """A file of a data set as it lies in a folder: as it is, or packed by gzip; None where it is missing."""
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def locate(name: str, root: Path, folder: str, files: list[str], url: str, md5: str | dict[str, str]) -> Path:
    """Find a published data set in `root/folder` (or in `root` itself), downloading it when it is missing.

    `url` is that of an archive, and `md5` its digest; or of the place where packed files lie, each of them with its
    digest: `{"x.gz": md5}`. Raises UserError when the data set is missing and cannot be downloaded, NotHereError where
    `no_downloads` forbids it.
    """
    root = Path(expand_path(root))
    packed = isinstance(md5, dict)

    def missing(place: Path) -> list[str]:
        return [file for file in files if not (find(place, file) if packed else (place / file).is_file())]

    for candidate in (root / folder, root):
        if not missing(candidate):
            return candidate
    first = f"{folder}/{missing(root / folder)[0]}"
    if _forbidden:
        raise NotHereError(f"{name} is not in {root} (no {first})")
    try:
        with locked(root / f".{folder.replace('/', '-')}.lock"):
            lacking = missing(root / folder)
            if isinstance(md5, dict):
                wanted = {f"{url}{key}": md5[key] for file in lacking if (key := f"{file}.gz") in md5}
                _download(name, root / folder, wanted)
            elif lacking:
                _download(name, root, {url: md5}, root / folder)
    except Exception as error:  # torchvision lets all through: no network, no room, no permission, a broken archive
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise UserError(
            f"{name} is not in {root} (no {first}) and cannot be downloaded from {url} "
            f"({reason}); put {folder} there yourself, or name the directory that holds it: "
            f"data_paths.{name}=DIR (or in env.yml)"
        ) from error
    lacking = missing(root / folder)
    if lacking:
        raise UserError(
            f"{name} was downloaded to {root}, but {folder}/{lacking[0]} was not in the archive; "
            "delete that folder to download it again"
        )
    return root / folder


def _download(name: str, root: Path, wanted: dict[str, str], unpacked: Path | None = None) -> None:
    """Fetch packed files, which stay as they are, or an archive to be `unpacked`: `{url: md5}`."""
    from torchvision.datasets.utils import download_url

    say(f"downloading {name} to {root}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        for url, md5 in wanted.items():
            came = root / url.rpartition("/")[2]
            try:
                download_url(url, str(root), md5=md5)
            except RuntimeError as error:
                if isinstance(error, RecursionError):  # too many redirections
                    raise
                raise UserError(
                    f"{came} was downloaded, but its checksum is not that of the published file: a proxy or a login "
                    "page may have answered, or the connection broke"
                ) from error
            if unpacked:
                _unpack(came, root, unpacked)
    finally:
        socket.setdefaulttimeout(before)


def _unpack(archive: Path, root: Path, folder: Path) -> None:
    """Unpack an archive of one `folder`, then move what is missing there into place; files that are there are kept."""
    from torchvision.datasets.utils import extract_archive

    made = folder / ".unpacking"  # under the lock: one that is there was left by a process that died
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
        extract_archive(str(archive), str(made))
        for path in sorted(made.rglob("*")):
            target = root / path.relative_to(made)
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        with contextlib.suppress(OSError):  # where nothing came of it
            folder.rmdir()
