"""Features at speed: a backbone prepared for inference, images in, float32 features out.

What makes it fast on a CPU (figures: benchmarks/features.py):

- Images go through the network in small passes, each by one thread from the first layer to the last. What a thread
  works on stays in its cache, and threads never wait for one another inside a layer, which on a busy machine takes
  longer than the layer.
- The network computes in bfloat16 where the CPU multiplies it and the features stay what they are: those of vision
  transformers and ResNets do, those of EfficientNet-Lite do not.
- Otherwise, and where convolutions are depthwise, onnxruntime computes, where it is installed; else PyTorch, with
  BatchNorm folded into the convolutions.
"""

import copy
import importlib.util
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.export import start_session, to_onnx
from models.fold import fold_batchnorm
from system.errors import UserError
from system.runtime import DTYPES, full_precision, generator, has_fast_bf16

# Images in a pass at a side of 128: the fastest of 1, 2, 3, 4, 6, 8, 16 and of 4, 8, 16, 32, 64 on two cores.
PASS_IMAGES = {"onnxruntime": 6, "torch": 16}
PASS_SIDE = 128
GPU_IMAGES = 256
# The least cosine between features as they are and as the engine computes them: 0.999 on images, which bf16 turns up to
# four times as far as those made up here.
SIMILAR = 0.99975

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Choice:
    """How features are computed: by `torch` or `onnxruntime`, in `fp32` or `bf16`, by how many threads, how many
    images are in a pass through the network, and the kind of device that this is for.

    It follows from machine and network, never from how busy the machine is. Stored with a run (`asdict`), it is kept
    when the run goes on.
    """

    library: Literal["torch", "onnxruntime"]
    precision: Literal["fp32", "bf16"]
    threads: Annotated[int, Field(ge=1)]
    pass_images: Annotated[int, Field(ge=1)]
    device: str = "cpu"


class Engine(nn.Module):
    """A backbone for inference, float images `[B, 3, side, side]` to float32 features `[B, D]`, without gradients.

    The backbone given is not changed. Of `choices`, fastest first (default: `candidates`), the first is taken whose
    features keep a cosine of 0.999 to the backbone's, tried on made-up images, and the last one as it is; `choice` says
    which it was. On a CPU the features of a batch are the same bits with any number of threads; in another place of a
    batch, an image's may differ in the last ones.

    Raises UserError when the last choice needs onnxruntime and it is not installed, or the network does not run so.
    """

    def __init__(
        self,
        backbone: nn.Module,
        side: int,
        device: torch.device | str = "cpu",
        choices: Sequence[Choice] = (),
    ) -> None:
        super().__init__()
        self.device = torch.device(device)
        plain = copy.deepcopy(backbone).eval().float().requires_grad_(False)
        self.plain = plain.to(self.device)
        self.plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stub
        self._pool: ThreadPoolExecutor | None = None
        self._network, self.choice = self._find(side, choices or candidates(self.device, side, has_depthwise(plain)))
        del self.plain

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features of a batch of any size, on the images' device."""
        if self.device.type != "cpu":
            with full_precision(self.device):
                return torch.cat([self._network(part) for part in images.split(self.choice.pass_images)])
        if self._pool is None:
            self._pool = _start_pool(self.choice.threads)
        return torch.cat(list(self._pool.map(self._one_pass, images.split(self.choice.pass_images))))

    @torch.no_grad()  # holds for one thread; a tensor of inference_mode could not be trained on
    def _one_pass(self, images: Tensor) -> Tensor:
        return self._network(images)

    @torch.no_grad()
    def _find(self, side: int, choices: Sequence[Choice]) -> tuple[Network, Choice]:
        """The first choice that runs and keeps the features; the last one is taken as it is."""
        probes = _make_probes(side).to(self.device)
        with full_precision(self.device):
            expected = self.plain(probes)
            for choice in choices[:-1]:
                try:
                    network = self._build(choice, probes, expected)
                    if _are_similar(network(probes), expected):
                        return network, choice
                except (UserError, RuntimeError):  # no word of ONNX for it, or float32 tensors of its own amid bf16
                    continue
            return self._build(choices[-1], probes, expected), choices[-1]

    def _build(self, choice: Choice, probes: Tensor, expected: Tensor) -> Network:
        if choice.library == "onnxruntime":
            return _onnx_network(self.plain, probes.shape[-1])
        folded = fold_batchnorm(self.plain, probes)
        network = folded if _are_similar(folded(probes), expected) else self.plain
        dtype = DTYPES[choice.precision]
        network = copy.deepcopy(network).to(dtype)
        return lambda images: network(images.to(dtype, memory_format=torch.channels_last)).float()


def has_depthwise(network: nn.Module) -> bool:
    """Whether a network convolves its channels one by one, which bfloat16 makes no faster."""
    return any(
        isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels for module in network.modules()
    )


def candidates(device: torch.device, side: int, depthwise: bool = False) -> list[Choice]:
    """The choices for a device and a network with or without depthwise convolutions, fastest first; the last works."""
    if device.type != "cpu":
        choice = Choice("torch", "fp32", 1, GPU_IMAGES, device.type)
        return [replace(choice, precision="bf16"), choice] if has_fast_bf16(device) else [choice]
    threads = torch.get_num_threads()
    pixels = (PASS_SIDE / side) ** 2
    passes = {library: max(1, round(images * pixels)) for library, images in PASS_IMAGES.items()}
    choice = Choice("torch", "fp32", threads, passes["torch"])
    found = [choice]
    if importlib.util.find_spec("onnxruntime"):
        found = [replace(choice, library="onnxruntime", pass_images=passes["onnxruntime"]), *found]
    if has_fast_bf16(device):
        found.insert(len(found) - 1 if depthwise else 0, replace(choice, precision="bf16"))
    return found


def _onnx_network(network: nn.Module, side: int) -> Network:
    try:
        session = start_session(to_onnx(network, side))
    except ImportError as error:
        raise UserError(
            "onnxruntime is not installed, and the features of this run were computed with it; "
            "run pip install onnxruntime"
        ) from error
    (images,), (features,) = session.get_inputs(), session.get_outputs()
    return lambda batch: torch.from_numpy(
        session.run([features.name], {images.name: batch.contiguous().numpy()})[0]  # contiguous: NCHW, as ONNX has it
    )


def _start_pool(num_threads: int) -> ThreadPoolExecutor:
    """Threads that run all that is inside an operator themselves."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, "features", initializer=_work_alone)
    together = threading.Barrier(num_threads)
    for started in [pool.submit(together.wait) for _ in range(num_threads)]:
        started.result()
    torch.set_num_threads(before)  # what the next new thread begins with is the last number set, whoever set it
    return pool


def _work_alone() -> None:
    torch.get_num_threads()  # a thread's first question sets its number to the process's, over what was set before
    torch.set_num_threads(1)


def _make_probes(side: int) -> Tensor:
    """Made-up images [4, 3, side, side], the same everywhere: coarse and fine ones, of high and low contrast."""
    draws = generator("probes")
    coarse, fine = (torch.randn(2, 3, size, size, generator=draws) for size in (max(2, side // 16), max(4, side // 4)))
    images = torch.cat([functional.interpolate(part, (side, side), mode="bilinear") for part in (coarse, fine)])
    return images * torch.tensor([1.0, 0.3, 1.0, 0.3])[:, None, None, None]


def _are_similar(features: Tensor, expected: Tensor) -> bool:
    return bool((functional.cosine_similarity(features.float(), expected) >= SIMILAR).all())
