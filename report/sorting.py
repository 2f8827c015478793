"""Images sorted into folders, one a cluster or label, as copies or links."""

import itertools
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from system.atomic import TEMPORARY
from system.errors import UserError
from system.lock import locked_files
from system.owned import remove_if_empty
from system.text import shown

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished-predict"  # the list in a folder of sorted files, while they are being put there
_SORTED = re.compile(r"[^/]+/[^/]+")
_PARTIAL = re.compile(rf"\.\d+{re.escape(TEMPORARY)}")


def folder_names(labels: Sequence[str]) -> list[str]:
    """A folder's name for each label: what some system forbids becomes `_`, and names that then are equal differ."""
    names: list[str] = []
    for label in labels:
        plain = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]|^[.\s]|[.\s]$', "_", label)
        plain = plain.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
        names.append(_first_free(plain, "", {_folded(name) for name in names}))
    return names


def cluster_folders(num_clusters: int) -> list[str]:
    """A folder's name for each cluster: cluster-0, or cluster-00 where there are more than ten, and so on.

    The last is that of OTHER, which is -1.
    """
    digits = len(str(num_clusters - 1))
    return [*(f"cluster-{cluster:0{digits}}" for cluster in range(num_clusters)), "other"]


class Sorter:
    """Files sorted into folders, one a cluster or label, as copies or links; names that occur twice are numbered.

    Until all are there, a list in the folder names what was put there. The same `request` continues with an unfinished
    folder: the files get the same names, those that are whole stay, and what belongs nowhere now is removed.
    Raises UserError for a folder that holds anything else.
    """

    def __init__(
        self,
        folder: Path,
        place: Callable[[Path, Path], Any],
        groups: Sequence[str],
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.place, self.groups = folder, place, groups
        self.request = json.dumps({"place": place.__name__, **(request or {})}, sort_keys=True)
        self.earlier = self._read_list()
        self._list: IO[str] | None = None
        self._taken: dict[str, str] = {}

    def _read_list(self) -> set[str]:
        """What an unfinished call put here; raises UserError when the folder holds anything that is not on its list."""
        path = self.folder / UNFINISHED
        if not self.folder.exists():
            return set()
        advice = "give a new one, so that nothing in it is mixed up"
        if not self.folder.is_dir() or (not path.is_file() and any(self.folder.iterdir())) or path.is_symlink():
            raise UserError(f"{self.folder} is not an empty folder; {advice}")
        if not path.exists():
            return set()
        request, *names = path.read_text(encoding="utf-8", errors="surrogateescape").split("\0")[:-1] or [""]
        own = (_SORTED.fullmatch(name) and name.partition("/")[0] in self.groups for name in names)
        if request != self.request or not all(own):
            raise UserError(f"{self.folder} holds what another command has not finished sorting; {advice}")
        known = {UNFINISHED, *names, *(str(Path(name).parent) for name in names)}
        for found in sorted(self.folder.rglob("*")):
            name = found.relative_to(self.folder).as_posix()
            if (name not in known or (found.is_symlink() and "/" not in name)) and not _PARTIAL.fullmatch(name):
                raise UserError(f"{self.folder} holds {name}, which was not put there by this program; {advice}")
        return set(names)

    def _note(self, text: str) -> None:
        if self._list is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / UNFINISHED
            self._list = path.open("a", encoding="utf-8", errors="surrogateescape", newline="")
            locked_files.add(self._list)
            if fcntl is not None:
                try:
                    fcntl.flock(self._list, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise UserError(f"another process is sorting into {self.folder} now") from error
                except OSError:  # a file system without locks
                    pass
            if path.stat().st_size == 0:
                self._list.write(f"{self.request}\0")
            for partial in self.folder.glob(f".*{TEMPORARY}"):
                partial.unlink()
        self._list.write(text)
        self._list.flush()

    def write(self, paths: Sequence[str], clusters: Sequence[int]) -> None:
        """Copy or link the files of a block; raises UserError when that fails."""
        for path, cluster in zip(paths, clusters, strict=True):
            group = self.groups[cluster]
            try:
                name = self._free(f"{group}/", Path(path).name)
                self._note("" if name in self.earlier else f"{name}\0")
                (self.folder / group).mkdir(exist_ok=True)
                self._place(Path(path).resolve(), self.folder / name)
            except OSError as error:
                raise UserError(
                    f"cannot put {shown(path)} into {shown(self.folder / group)}: {error.strerror or error}; "
                    "give another folder"
                ) from error

    def _free(self, group: str, name: str) -> str:
        """A name that no file of this call has yet: this one, or the first that is numbered."""
        free = _first_free(group + Path(name).stem, Path(name).suffix, self._taken)
        self._taken[_folded(free)] = free
        return free

    def _place(self, source: Path, target: Path) -> None:
        """Put a file where it belongs: whole under its name, or not at all."""
        partial = self.folder / f".{os.getpid()}{TEMPORARY}"
        try:
            self.place(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def finish(self) -> None:
        """All are there: remove what an unfinished call put elsewhere, and the list."""
        for name in self.earlier:
            if not _is_one(self.folder, name, self._taken.get(_folded(name), "")):
                (self.folder / name).unlink(missing_ok=True)
                remove_if_empty((self.folder / name).parent)
        is_listed, listed = self._list is not None, self.folder / UNFINISHED
        if is_listed and fcntl is not None:  # before the lock is let go: another process may hold the file afterwards
            listed.unlink(missing_ok=True)
        self.close()
        if is_listed:  # Windows removes no open file
            listed.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder."""
        if self._list is not None:
            locked_files.discard(self._list)
            self._list.close()


def _folded(name: str) -> str:
    """What two names share that are one on some disks, which know neither case nor how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def _first_free(stem: str, suffix: str, taken: Collection[str]) -> str:
    """The name of a stem and a suffix, or the first that is numbered, which folded is none of those taken."""
    numbered = (f"{stem}-{number}{suffix}" for number in itertools.count(2))
    return next(name for name in itertools.chain([stem + suffix], numbered) if _folded(name) not in taken)


def _is_one(folder: Path, name: str, other: str) -> bool:
    """Whether two names of a folder, empty for none, are of one file, be it a link."""
    if name == other or not other:
        return name == other
    try:
        return os.path.samestat((folder / name).lstat(), (folder / other).lstat())
    except FileNotFoundError:
        return False


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its times."""
    shutil.copy2(source, target)


def link_file(source: Path, target: Path) -> None:
    """Make a symbolic link to a file."""
    target.symlink_to(source)
