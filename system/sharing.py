"""Work that rank 0 deals out to all ranks, item by item, and whose results only rank 0 needs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from system import distributed
from system.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Whole = TypeVar("Whole")


def lead(
    body: Callable[[Callable[[Iterable[Item]], Iterator[Result]]], Whole], work: Callable[[Item], Result]
) -> Whole:
    """Run `body(share)` on rank 0, where `share(items)` yields `work(item)` of every item in order.

    Every rank works on one item at a time, so that as many items and results are held as there are ranks; both, and
    what `body` returns, are picklable. Every rank returns what `body` does, or raises the UserError that ended it, on
    whichever rank it came up. One process does everything itself.
    """
    if distributed.is_main():
        result, error = None, None
        try:
            result = body(partial(_share, work))
        except UserError as problem:
            error = problem
        _, result, error = distributed.from_main((None, result, error))
    else:
        items, result, error = distributed.from_main(None)
        while items is not None:
            distributed.gather_on_main(_work_on(work, items))
            items, result, error = distributed.from_main(None)
    if error is not None:
        raise error
    return result


def _share(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    remaining = iter(items)
    while dealt := list(islice(remaining, distributed.world_size())):
        distributed.from_main((dealt, None, None))
        for result, error in distributed.gather_on_main(_work_on(work, dealt))[: len(dealt)]:
            if error is not None:
                raise error
            yield result


def _work_on(work: Callable[[Item], Result], items: Sequence[Item]) -> tuple[Result | None, UserError | None]:
    """The result of this rank's item, if it has one, or the error in its place."""
    try:
        own = distributed.rank()
        return work(items[own]) if own < len(items) else None, None
    except UserError as error:
        return None, error
