"""Weights from files: every published form is read.

The forms: a bare state_dict (pretext, self-label); `{'model', 'head'}` (scan); resumable `{'optimizer',
'model', 'epoch', …}` with numpy scalars and keys that begin with `module.`; MoCo v2's release, whose query
encoder is under `state_dict`; the state_dict of a plain backbone, such as torchvision's.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system import distributed, files
from system.console import say
from system.errors import UserError
from system.pickles import load_untrusted, on_cpu, write_torch
from system.text import shown

PREFIXES = ("backbone.", "contrastive_head.", "classifier.", "cluster_head.", "leave_out.")
DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)
MAX_TENSORS = 20_000
SHARED = 4  # times as large as their file may tensors be: some share their numbers


@dataclass(frozen=True)
class Weights:
    """What a file holds: `state` with keys `backbone.*`, `contrastive_head.*`, `cluster_head.{i}.*`.

    `head` is the best cluster head where the file says so; `facts` is what this project recorded about the
    file, None for a file that has no record.
    """

    path: Path
    state: dict[str, Tensor]
    head: int | None
    facts: dict[str, Any] | None

    @cached_property
    def num_heads(self) -> int:
        """Number of cluster heads."""
        return len({key.split(".")[1] for key in self.state if key.startswith("cluster_head.")})


def _checked(path: Path, state: dict[Any, Any]) -> dict[str, Tensor]:
    if len(state) > MAX_TENSORS:
        raise UserError(
            f"{path} is refused: it has {len(state):,} entries; a model has at most {MAX_TENSORS:,} tensors"
        )
    num_bytes, limit = 0, SHARED * path.stat().st_size
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            what = (
                f"is of type {type(value).__name__}, not a tensor"
                if isinstance(key, str)
                else "has no text as its name"
            )
            raise UserError(
                f"{path} is not a model's weights: its entry '{shown(key, 80)}' {what}; give a file such as "
                "model.pth.tar"
            )
        dense = value.layout is torch.strided and not (value.is_nested or value.is_quantized)
        if not dense or value.device.type != "cpu" or value.dtype not in DTYPES:
            raise UserError(
                f"{path} is not usable: '{shown(key, 80)}' is {value.dtype}, {value.layout}, on {value.device}; "
                "weights are dense tensors of plain numbers"
            )
        num_bytes += value.numel() * value.element_size()
        if num_bytes > limit:  # views of the same few numbers, which a file can hold any amount of
            raise UserError(f"{path} is not usable: up to '{shown(key, 80)}' its tensors are far larger than the file")
    if not state:
        raise UserError(f"{path} holds no weights; give a file such as model.pth.tar")
    return {key: value.detach() for key, value in state.items()}


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in ("module.", "_orig_mod.", "module."):  # of DataParallel and torch.compile, one in the other
        if state and all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    query = {key.removeprefix("encoder_q."): v for key, v in state.items() if key.startswith("encoder_q.")}
    if query:  # MoCo: its momentum encoder and queue are of no use here
        return {
            f"contrastive_head.{key[3:]}" if key.startswith("fc.") else f"backbone.{key}": value
            for key, value in query.items()
        }
    if not any(key.startswith(PREFIXES) for key in state):
        # a plain backbone; its classifier, if any, knows other classes
        return {f"backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    return state


def _head(path: Path, content: dict[Any, Any]) -> int | None:
    values = content.get("values")  # where our own resumable checkpoints remember it
    known = {**values, **content} if isinstance(values, dict) else content
    head = known.get("head", known.get("best_loss_head"))
    if isinstance(head, Tensor) and head.numel() == 1:
        head = head.item()
    if head is not None and type(head) is not int:
        raise UserError(
            f"{path} is not usable: its 'head' is of type {type(head).__name__}, not a number; give another file"
        )
    return head


def read_weights(path: Path | str, advice: str = "give the path of a model file") -> Weights:
    """Read the weights from a model file or checkpoint of any published form, or of this project.

    Raises UserError when the file is missing (`advice` then says what to do), truncated, damaged, or not a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a model file in it, such as {path / 'model.pth.tar'}")
    if not path.exists():
        raise UserError(f"the model {path} does not exist; {advice}")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file; {advice}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; copy or download it again")
    facts = files.verify_file(path, replaceable=True)
    content = load_untrusted(path, verified=facts is not None)
    if facts is None:
        say(f"{path} has no recorded checksum (a published file, or one that replaced ours?); it is used as it is")
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}, not the weights of a model; give a file such as model.pth.tar"
        )
    # A checkpoint whose model follows the network that is trained holds it as the average, or a method's target.
    forms = ("average", "target", "model", "state_dict")
    wrapping = next((key for key in forms if isinstance(content.get(key), dict)), None)
    if wrapping is None:
        return Weights(path, _renamed(_checked(path, content)), None, facts)
    weights = Weights(path, _renamed(_checked(path, content[wrapping])), _head(path, content), facts)
    if weights.head is not None and not 0 <= weights.head < weights.num_heads:
        raise UserError(
            f"{path} is not usable: its best head is {weights.head} of {weights.num_heads} cluster heads; "
            "give another file"
        )
    return weights


def read_state(path: Path) -> dict[str, Tensor]:
    """The backbone's tensors of a .safetensors file or of any PyTorch file that `read_weights` knows.

    Raises UserError when the file is missing, damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = read_weights(path).state
    return {key.removeprefix("backbone."): value for key, value in state.items() if not _is_head(key)}


def _is_head(key: str) -> bool:
    return key.startswith(("contrastive_head.", "cluster_head."))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    import safetensors
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"weights {path} does not exist; give another path")
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy or download it again") from error


def save_weights(path: Path | str, state: Any, **facts: Any) -> None:
    """Save a model file for other stages and for plain `torch.load` on any machine, with its checksum recorded.

    Rank 0 writes it; to be called by all, none of which goes on before the file is there.
    """
    if distributed.is_main():
        write_torch(path, on_cpu(state), **facts)
    distributed.barrier()


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of weights."""
    found = hashlib.sha256()
    for name, value in state.items():
        found.update(name.encode() + b"\0")
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
