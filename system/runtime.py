"""Where and how tensors are computed: device, precision, memory format, keyed randomness, compilation.

Stage scripts, losses and models never name a device, a rank or a precision; they go through this module and
`system.distributed`, so that one process, the CPU, CUDA, MPS and torchrun run the same lines.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from system import distributed
from system.console import warn
from system.errors import ConfigError, UserError

# Two million views of 32x32: compiled, a core makes 45,000 of them a second, otherwise 12,500, which saves two minutes.
WORTH_COMPILING = 2_000_000 * 32 * 32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def generator(*key: Any) -> torch.Generator:
    """A CPU generator seeded by a key such as (seed, stage, epoch, step): draws depend on place, not on history."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def seed_everything(*key: Any) -> None:
    """Seed the global generator, which only the initialization of weights draws from."""
    torch.manual_seed(generator(*key).initial_seed())


def find_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises UserError when it is not there, ConfigError when there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name} is not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and device.index is not None and distributed.local_world_size() > 1:
        raise ConfigError(f"device={name} is one GPU, and each process here needs its own; use device=auto or cuda")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", distributed.local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={device} is not there: this machine shows {torch.cuda.device_count()} CUDA devices to PyTorch; "
            "use device=auto or device=cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps is not there: this machine has no Apple GPU; use device=auto or device=cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={name} is not supported; use auto, cpu, cuda, cuda:N or mps")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices faster than fp32 ones.

    CUDA does from Ampere on, and CPUs that have instructions for it: AMX, AVX512-BF16, or BF16 of ARM.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # on x86 it is true of CPUs that only emulate it
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a training step's convolutions; `auto` is bf16 where it is fast, else fp32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"precision=bf16 is not available on {torch.cuda.get_device_name(device)}; use fp16 or fp32")
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"precision=fp16 needs a GPU of NVIDIA or AMD; use precision=bf16 or fp32 on {device.type}")
    return DTYPES[name]


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: Triton and a C compiler for its launchers on CUDA, C++ on the CPU."""
    if device.type == "cuda":
        has_triton = importlib.util.find_spec("triton") is not None
        return has_triton and any(shutil.which(name) for name in (os.environ.get("CC") or "gcc", "clang", "cc"))
    compiler = os.environ.get("CXX") or "g++"
    return device.type == "cpu" and any(shutil.which(name) for name in (compiler, "clang++"))


def free_bytes(device: torch.device) -> int:
    """A device's free memory; of the host's, this process's share among those that work together here."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // distributed.local_world_size()
    return 12 << 30  # a guess where the system does not say


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products as precise as their factors: no TF32 for float32, no sums in bfloat16."""
    precision = torch.get_float32_matmul_precision()
    cuda = torch.backends.cuda.matmul
    reduced = cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cuda.allow_bf16_reduced_precision_reduction = reduced


def full_precision(device: torch.device) -> Any:
    """A context without autocast, for what chooses its precision itself."""
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: for many small products, where threads wait for one another longer than they work.

    On a busy machine two threads were seen to take ten times as long as one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Runtime:
    """Device and precision of a process: `training` for steps and monitoring, `inference` for what is kept.

    `compile` is the config's word; `compiles` is what it comes to, once `expect` knows how much there is to do.
    """

    device: torch.device
    training: torch.dtype
    inference: torch.dtype
    compile: str | bool = False
    compiles: bool = False

    @classmethod
    def start(
        cls,
        device: str = "auto",
        precision: str = "auto",
        compile: str | bool = "auto",
        deterministic: bool = False,
        threads: int | None = None,
    ) -> "Runtime":
        """Find device and precision and join the other processes; raises UserError for what is not there.

        With `precision: auto`, features, neighbors and scores of what was trained are computed in fp32, so that they
        do not depend on the machine; an explicit precision holds for them too.
        """
        found = find_device(device)
        if threads:
            torch.set_num_threads(threads)
        if found.type == "cuda":
            torch.cuda.set_device(found)
            torch.backends.cudnn.benchmark = not deterministic
            torch.backends.cudnn.allow_tf32 = False  # fp32 is what the CPU computes, not 10 bits of mantissa
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        distributed.start(found)
        if compile is True and not can_compile(found):
            needed = "Triton and a C compiler" if found.type == "cuda" else "a C++ compiler (g++ or clang++)"
            raise UserError(f"compile=true needs {needed} on {found.type}, which is not installed; use compile=auto")
        dtype = find_precision(precision, found)
        return cls(found, dtype, torch.float32 if precision == "auto" else dtype, compile, compile is True)

    def continue_in(self, precision: str | None) -> None:
        """Train in the precision, as torch names it, in which a run with `precision: auto` began on another machine."""
        if precision in ("float32", "bfloat16"):
            self.training = getattr(torch, precision)

    @property
    def training_precision(self) -> str:
        """What it trains in, as a config names it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.training)

    @classmethod
    def of(cls, config: Any) -> "Runtime":
        """What a config asks for."""
        threads = config.get("threads")
        runtime = cls.start(config.device, config.precision, config.compile, config.deterministic, threads)
        if config.precision == "auto" and config.get("auto_precision"):
            runtime.training = DTYPES[config.auto_precision]
        return runtime

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        """The gradient scaler, without effect unless training is in fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.training == torch.float16)

    def holds(self, num_bytes: int) -> bool:
        """Whether a tensor of this size may be in the device's memory: it should take but a third of what is free."""
        return 3 * num_bytes <= free_bytes(self.device)

    def place(self, module: Any) -> Any:
        """Move a module to the device, in channels_last memory format."""
        return module.to(self.device, memory_format=torch.channels_last)

    def autocast(self, dtype: torch.dtype) -> Any:
        """The autocast context of a dtype on this device."""
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def forward(self, module: Any, images: Tensor, dtype: torch.dtype, **kwargs: Any) -> Any:
        """Run a module on images `[B, 3, H, W]`, or features `[B, D]`, in a dtype; what comes out is float32."""
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with self.autocast(dtype):
            outputs = module(images, **kwargs)
        return [head.float() for head in outputs] if isinstance(outputs, list) else outputs.float()

    def expect(self, num_pixels: int) -> None:
        """Decide `compile: auto` by the pixels of the views to come: compiling takes about a minute, once."""
        if self.compile == "auto":
            self.compiles = num_pixels >= WORTH_COMPILING and can_compile(self.device)

    def optimize(self, network: Any) -> Any:
        """Compile a network where this run compiles and that pays: on the CPU it gains nothing."""
        return self.guarded_compile(network) if self.compiles and self.device.type == "cuda" else network

    def guarded_compile(self, function: Any, **kwargs: Any) -> Any:
        """torch.compile, but a function that turns out not to compile is called as it is, with a warning."""
        compiled = torch.compile(function, **{"dynamic": False, **kwargs})
        failed = False

        def call(*args: Any, **named: Any) -> Any:
            nonlocal failed
            if not failed:
                try:
                    return compiled(*args, **named)
                except Exception as error:  # a backend's failures have no common type
                    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                        raise
                    failed = True
                    warn(f"torch.compile failed ({str(error).splitlines()[0]}); continuing without it")
            return function(*args, **named)

        return call


def describe(device: torch.device) -> str:
    """The device in words, for run.json and benchmarks."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return device.type
