"""Rows that take long to compute, kept in parts as they come, so that an interrupted call goes on after them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from system import distributed
from system.bounded import map_array
from system.console import warn
from system.errors import UserError
from system.files import names_of, remove, verify_file, write_file

PART_BATCHES = 8  # batches of a part: a part is at most what an interruption costs


class Parts:
    """Files next to a .npy file that is being made, each some of its rows: `NAME.shareROW.partial`, by the first row.

    `made_from` names all that the rows depend on. Parts that were made from something else are made again, as are all
    where it is None.
    """

    def __init__(self, path: Path, made_from: str | None) -> None:
        self.path, self.made_from = path, made_from

    def _part(self, first: int) -> Path:
        return self.path.with_name(f"{self.path.name}.share{first}.partial")

    def stored(self, rows: slice) -> Iterator[Tensor]:
        """Yield the parts `[n, D]` that are there from the first of some rows on, without a gap."""
        first = rows.start
        while self.made_from is not None and first < rows.stop and self._part(first).exists():
            try:
                facts = verify_file(self._part(first)) or {}
                part = map_array(self._part(first))
            except UserError as error:
                warn(f"{error}; it is computed again")
                return
            if facts.get("made_from") != self.made_from or first + len(part) > rows.stop:
                return
            yield torch.from_numpy(np.array(part))
            first += len(part)

    def keep(self, batches: Iterable[Tensor], first: int) -> Iterator[Tensor]:
        """Write batches `[b, D]` in parts, of which the first begins at row `first`; yield each when it is written."""
        waiting: list[Tensor] = []
        for batch in batches:
            waiting.append(batch)
            if len(waiting) == PART_BATCHES:
                yield self._write(waiting, first)
                first += sum(map(len, waiting))
                waiting = []
        if waiting:
            yield self._write(waiting, first)

    def _write(self, batches: list[Tensor], first: int) -> Tensor:
        whole = torch.cat(batches)
        rows = whole.cpu().numpy()
        size = rows.nbytes + 128
        write_file(
            self._part(first),
            lambda file: np.save(file, rows, allow_pickle=False),
            num_bytes=size,
            made_from=self.made_from,
        )
        return whole

    def join(self, file: BinaryIO, num_rows: int) -> None:
        """Write all parts into one .npy file of so many rows."""
        first = 0
        while first < num_rows:
            part = map_array(self._part(first))
            if first == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, *part.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(part, dtype="<f4").data)
            first += len(part)

    def remove(self, rows: slice) -> None:
        """Remove the parts of this rank's rows, then, on rank 0, whatever is left of any."""
        for own in (True, False):
            for name in names_of(self.path.parent) if own or distributed.is_main() else ():
                found = re.fullmatch(rf"{re.escape(self.path.name)}\.share(\d+)\.partial", name)
                if found and (not own or rows.start <= int(found[1]) < rows.stop):
                    remove(self.path.with_name(name))
            distributed.barrier()
