"""What may be removed or replaced in a folder of this program: what it wrote there itself, by the list that it keeps.

Every script asks here. A file that is not on the folder's list (`system.files`) is the user's, whatever its name;
nothing is removed through a link.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from system import files
from system.errors import UserError

APART = "move it away, or keep this run apart with a run_name of its own"


def require_own(folder: Path, names: Iterable[str], advice: str = APART) -> None:
    """Raise UserError when one of the names that are going to be written in a folder is there as the user's."""
    for name in names:
        path = folder / name
        if os.path.lexists(path) and not files.is_own(path):
            what = "is a link" if path.is_symlink() else "was not written by this program"
            raise UserError(f"{path} {what}, so it is neither removed nor replaced; {advice}")


def require_no_link(folder: Path, above: Path, advice: str) -> None:
    """Raise UserError when a folder is reached through a link on the way from the folder `above` it."""
    folder, above = folder.absolute(), above.absolute()
    for place in (folder, *folder.parents):
        if place == above:
            return
        if place.is_symlink():
            raise UserError(f"{place} is a link, and nothing is removed or replaced through one; {advice}")


def adopt(folder: Path, names: Iterable[str], again: bool = False) -> None:
    """List the files of a folder that an earlier version wrote without listing them; does it once.

    To be called where something shows that the folder is ours. A damaged list is made again with `again`; otherwise it
    raises UserError.
    """
    try:
        listed = files.names_of(folder)
    except UserError:
        if not again or (folder / files.MANIFEST).is_symlink():
            raise
        (folder / files.MANIFEST).unlink()
        listed = set()
    if files.MANIFEST not in listed:
        found = [name for name in names if (folder / name).is_file() and not (folder / name).is_symlink()]
        files.add_to_list(folder, [files.MANIFEST, *found])


def clear(folder: Path, first: Iterable[str] = ()) -> None:
    """Remove what this program wrote in a folder, and its list last; `first` names what goes before the rest.

    Nothing happens when the folder is a link or is not there.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    listed = files.names_of(folder)
    for name in dict.fromkeys([*(name for name in first if name in listed), *sorted(listed)]):
        if name != files.MANIFEST and files.is_own(folder / name):
            (folder / name).unlink()
    if listed:
        (folder / files.MANIFEST).unlink()


def remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing is left."""
    if not folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.rmdir()
