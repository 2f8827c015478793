"""Several processes as one: who am I, and the few collectives that the method needs.

Every function is the identity (or trivial) in one process, so that no caller asks how many there are. The one idea
behind training: each rank holds a slice of the global batch, outputs are gathered *with gradient*, and every rank
computes the loss of the whole batch. Losses therefore know nothing of ranks.
"""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from system.errors import UserError

T = TypeVar("T")

MEET_WITHIN = timedelta(minutes=5)  # ranks differ by the seconds of their imports
WAIT_WITHIN = timedelta(minutes=30)  # for a rank that decodes or writes while others wait

_control_group: Any = None


def start(device: torch.device, meet_within: timedelta = MEET_WITHIN) -> None:
    """Join the process group that torchrun describes in the environment; nothing to do without torchrun.

    Raises UserError when its launcher is gone, or when not all ranks come in time.
    """
    global _control_group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, size = _meet(meet_within)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAIT_WITHIN)
    # Decisions of the host (stop now? save now?) travel over gloo: they must not wait for the GPU's queue.
    _control_group = dist.new_group(backend="gloo") if backend == "nccl" else dist.group.WORLD


def _meet(within: timedelta) -> tuple[Any, int, int]:
    """Wait until all ranks are there; returns the store through which they found each other, rank and world size."""
    if _launcher_is_gone():
        raise UserError("torchrun, which started this rank, is gone; start all ranks again with torchrun")
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=within))
        here, all_here = f"here/{_attempt()}", f"all_here/{_attempt()}"
        num_here = store.add(here, 1)
        if num_here == size:
            store.set(all_here, "yes")
        end = time.monotonic() + within.total_seconds()
        while not store.check([all_here]):  # in short looks, so that a signal is answered
            if time.monotonic() > end:
                raise TimeoutError(f"{store.add(here, 0)} of {size} ranks have come")
            time.sleep(0.05)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the ranks did not meet in {within.total_seconds() / 60:g} minutes ({reason}); look at what the "
            "others say, and whether MASTER_ADDR and MASTER_PORT reach the first one, and start all again"
        ) from error
    store.set_timeout(WAIT_WITHIN)
    return store, rank, size


def _attempt() -> str:
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _launcher_is_gone() -> bool:
    """Whether nobody listens any more where torchrun does before it starts a rank."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except (OSError, KeyError, ValueError):
        return False
    return False


def stop() -> None:
    """Leave the process group; its connections close, so that ranks that still wait for this one fail at once."""
    global _control_group
    _control_group = None
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes on this machine that work together."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def num_cores() -> int:
    """Cores that this process may use: its share, where several work together on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_world_size())


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank has come here."""
    if world_size() > 1:
        dist.barrier(group=_control_group)


def slice_of(num: int) -> slice:
    """This rank's contiguous share of `num` items; shares differ by at most one and keep the order of the ranks."""
    share, rest = divmod(num, world_size())
    first = rank() * share + min(rank(), rest)
    return slice(first, first + share + (rank() < rest))


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; every rank gets the same answer."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_control_group)
    return bool(votes.item())


def from_main(value: Any) -> Any:
    """Rank 0's picklable value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control_group)
    return box[0]


def on_main(function: Callable[[], T]) -> T:
    """Call a function on rank 0 alone; every rank gets its picklable result, or raises its UserError."""
    result: Any = None
    error: UserError | None = None
    if is_main():
        try:
            result = function()
        except UserError as problem:
            error = problem
    result, error = from_main((result, error))
    if error:
        raise error
    return result


def gather_objects(value: Any) -> list[Any]:
    """Every rank's picklable value, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value, group=_control_group)
    return box


def gather_on_main(value: Any) -> list[Any]:
    """Every rank's picklable value on rank 0, in the order of the ranks; on other ranks nothing."""
    if world_size() == 1:
        return [value]
    box: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, box, dst=0, group=_control_group)
    return box or []


def is_first_to_say(text: str) -> bool:
    """Whether no other rank has said this: what ends all ranks is said once, what ends one of them is said too.

    Works before the ranks have joined and after one has gone; where the others cannot be asked, the answer is yes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _launcher_is_gone():
        return True
    key = f"said/{_attempt()}/{hashlib.sha256(text.encode()).hexdigest()}"
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(address, port, timeout=timedelta(seconds=5)).add(key, 1) == 1
    except (RuntimeError, KeyError, ValueError):
        return True


def lost_a_rank(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone, whose own error is the one that matters."""
    return world_size() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in _GONE)


_GONE = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Broken pipe")


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as every rank trains it on its slice: gradients are averaged over the ranks, and so stay equal."""
    if world_size() == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    # Two forwards before one backward: buffers must not be sent around in between.
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of a tensor over the ranks, differentiable: what every rank makes of the sum flows back to every rank."""
    return _SumOverRanks.apply(x) if world_size() > 1 else x


class _GatherSlices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        share = grad.shape[0] // world_size()
        first = rank() * share
        # DistributedDataParallel averages over ranks, yet each rank sends only its own slice of one global loss.
        return grad[first : first + share] * world_size()


def gather(x: Tensor) -> Tensor:
    """Concatenate equal slices `[b, ...]` of all ranks to the global batch `[b · ranks, ...]`, with gradient.

    Every rank must go on to compute the same loss of the result; its gradient, averaged over the ranks as
    DistributedDataParallel does, is then that of one process with the global batch.
    """
    return _GatherSlices.apply(x) if world_size() > 1 else x


def gather_rows(x: Tensor) -> Tensor:
    """Concatenate slices `[n_r, ...]` of any lengths, without gradient, in the order of the ranks.

    A rank without rows need not know the other dimensions.
    """
    if world_size() == 1:
        return x
    shapes: Sequence[tuple[int, ...]] = gather_objects(tuple(x.shape))
    lengths = [shape[0] for shape in shapes]
    padded = x.new_zeros(max(shapes))  # the longest; any other dimensions are those of all ranks that have rows
    if len(x):
        padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in lengths]
    # NCCL knows no tensors of the CPU.
    dist.all_gather(parts, padded, group=_control_group if x.device.type == "cpu" else None)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
