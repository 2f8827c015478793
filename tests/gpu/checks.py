"""What depends on the device, checked on it against the CPU: a check returns its figures or raises AssertionError.

test_checks.py runs them as tests; `python -m benchmarks.gpu smoke` runs them too and keeps the figures.
"""

import copy
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.steps import CONFIGS, Step, make_images
from clustering.mining import mine_neighbors
from clustering.neighbors import weighted_knn
from clustering.scores import score
from clustering.validation import validation_loss
from data.augment import Strategy
from models.weights import read_weights
from system.runtime import Runtime
from tests import stage as stages
from training.run import Run
from utils.common_config import get_train_transformations, get_val_transformations
from utils.config import load_config

CPU = torch.device("cpu")

# What may lie between the views of two devices, in levels of 255: at the worst, the share of values that are more than
# half a level apart, and on average. The draws are the CPU's, so that only arithmetic can differ.
#
# A center crop is exact; the normalization may differ in its last bits.
EXACT = {"worst": 0.01}
# Crops, flips, affine maps, blends: the same float32 operations, whose sums may be in another order or fused. That
# tips what is rounded to whole levels only where it lies within some 1e-4 of the edge, since resizing rounds halves up
# with a margin (geometry.HALF). Weights of a crop of 32 x 32 to that size have few bits and are exact anyway. A blend
# may make more of a level that was tipped before.
RESIZED = {"worst": 1.01, "share": 0.002}
ROUNDED = {"share": 0.002}
# The hue is cut to one of 256 steps, as PIL does, and of whole levels ramp * 42.5 is often a whole number, such as
# 34 / 85 * 42.5, as is chroma / value * 255. A division that is not the nearest number, as Triton's (up to 2 units in
# the last place), falls below it: with all divisions one unit low, 3.9 % of the values change, .043 levels on average.
# A step of the hue is up to 6 levels, which contrast, brightness and saturation of 1.4 make up to 16 and round thrice.
HUE = {"worst": 20, "share": 0.06, "mean": 0.07}


def _levels_apart(
    strategy: Strategy, device: torch.device, compiler: Any = None, **changed: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """How far the device's views are from the CPU's; changed: what becomes of single draws."""
    images = make_images(256).images
    draws = strategy.draw(len(images), torch.Generator().manual_seed(0))
    draws |= {name: change(draws[name]) for name, change in changed.items()}
    expected = strategy.run(images, draws)
    if compiler:
        strategy.compile(compiler)
    found = strategy.run(images.to(device), draws).cpu()
    levels = (found - expected).abs() * 255 * torch.tensor(strategy.std)[:, None, None]
    result = {"worst": levels.max(), "share": (levels > 0.5).float().mean(), "mean": levels.mean()}
    return {name: float(value) for name, value in result.items()}


def augmentations(runtime: Runtime) -> dict[str, Any]:
    """The same draws give the same views, as far as arithmetic of another order and division allow."""
    configs = {stage: load_config(None, common.ROOT / "configs" / path, []) for stage, path in CONFIGS.items()}
    digits = load_config(None, common.ROOT / "configs" / "pretext/simclr_digits.yml", [])
    compilers = {"": None} | ({", compiled": runtime.guarded_compile} if runtime.device.type == "cuda" else {})
    unturned = {"turned": torch.zeros_like}
    uncolored = unturned | {"gray": torch.zeros_like, "blends": torch.ones_like}  # blends by a factor of 1
    made: list[tuple[str, Callable[[], Strategy], dict[str, float], dict[str, Any]]] = [
        ("evaluation", lambda: get_val_transformations(configs["scan"]), EXACT, {}),
        ("ours", lambda: get_train_transformations(configs["scan"]), ROUNDED, {}),
        ("digits", lambda: get_train_transformations(digits), ROUNDED, {}),
        ("simclr without color", lambda: get_train_transformations(configs["simclr"]), RESIZED, uncolored),
        ("simclr without hue", lambda: get_train_transformations(configs["simclr"]), ROUNDED, unturned),
        ("simclr", lambda: get_train_transformations(configs["simclr"]), HUE, {}),
    ]
    found = {}
    for name, build, limits, changed in made:
        for kind, compiler in compilers.items():
            if kind and not name.startswith("simclr"):  # the others are not what a step waits for
                continue
            found[name + kind] = apart = _levels_apart(build(), runtime.device, compiler, **changed)
            over = {key: apart[key] for key, limit in limits.items() if apart[key] > limit}
            assert not over, f"{name}{kind}: the views differ from those of the CPU: {over}, at most {limits}"
    return found


def _gradient(runtime: Runtime, dtype: torch.dtype) -> tuple[float, Tensor]:
    step = Step("scan", Runtime(runtime.device, dtype, dtype), ["batch_size=64", "width=16"], 128)
    noise = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(runtime.device)
    # A loss whose gradient is not a difference of nearly equal terms, as it is for untrained features.
    loss = torch.nn.functional.cross_entropy(step.forward(noise)[0], torch.arange(128, device=noise.device) % 10)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in step.model.parameters() if p.grad is not None]).cpu()


def precision(runtime: Runtime) -> dict[str, Any]:
    """The same step: fp32 on the CPU, fp32 and bf16 on the device."""
    expected, reference = _gradient(Runtime(CPU, torch.float32, torch.float32), torch.float32)
    found: dict[str, Any] = {}
    # An untrained network makes much of rounding: on a CPU the gradients of bf16 are .23 apart.
    for name, dtype, loss_off, gradient_off in (
        ("fp32", torch.float32, 1e-3, 0.01),
        ("bf16", torch.bfloat16, 0.02, 0.4),
    ):
        loss, gradient = _gradient(runtime, dtype)
        apart = float((gradient - reference).norm() / reference.norm())
        found[name] = {"loss": loss, "loss_on_cpu": expected, "gradient_apart": apart}
        assert apart < gradient_off and abs(loss - expected) < loss_off * abs(expected), found[name]
    return found


def skipped_batches(runtime: Runtime) -> dict[str, Any]:
    """A batch without confident samples leaves weights and optimizer state as they are, the first step included."""
    words = ["batch_size=16", "width=8"]
    optimizers = {
        "sgd": ["optimizer=sgd", "optimizer_kwargs={lr: 0.1, momentum: 0.9, weight_decay: 1.0e-4}"],
        "adam": ["optimizer=adam"],
    }
    for name, chosen in optimizers.items():
        for skipped in (0, 2):
            step = Step("selflabel", runtime, [*words, *chosen], 64)
            for number in range(3):
                step.criterion.threshold = 2.0 if number == skipped else 0.0
                before = (
                    copy.deepcopy([*step.model.parameters()]),
                    copy.deepcopy(step.run.parts.optimizer.state_dict()["state"]),
                )
                step()
                state = step.run.parts.optimizer.state_dict()["state"]
                same = all(torch.equal(a, b) for a, b in zip(before[0], step.model.parameters(), strict=True))
                for index, values in before[1].items():
                    same &= all(torch.equal(value, state[index][key]) for key, value in values.items())
                if not before[1] and number == skipped:  # the state came into being in a step that must not count
                    same &= all(not value.any() for values in state.values() for value in values.values())
                assert same == (number == skipped), f"{name}: step {number}, skipped {skipped}, unchanged {same}"
    return {"optimizers": list(optimizers)}


def gathering(runtime: Runtime) -> dict[str, Any]:
    """Images that the device holds are those of the CPU."""
    dataset, indices = make_images(500), torch.randint(500, (200,))
    expected = dataset.load(indices, CPU)
    sent = dataset.load(indices, runtime.device).cpu()
    dataset.hold(runtime.device)
    assert torch.equal(sent, expected) and torch.equal(dataset.load(indices, runtime.device).cpu(), expected)
    return {"images": 500}


def mining(runtime: Runtime) -> dict[str, Any]:
    """Neighbors do not depend on the device, duplicates and small budgets included."""
    features = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    features[1000:1100] = features[:100]
    expected = mine_neighbors(features, 20, "torch")
    for budget in (1 << 21, 2 << 30):
        found = mine_neighbors(features.to(runtime.device), 20, budget_bytes=budget)
        assert np.array_equal(found, expected), f"{(found != expected).any(1).sum()} rows differ"
    return {"rows": len(features)}


def evaluation(runtime: Runtime) -> dict[str, Any]:
    """Scores, validation loss and k-NN votes are those of the CPU."""
    random = torch.Generator().manual_seed(0)
    probabilities = torch.randn(5000, 12, generator=random).mul(3).softmax(1)
    targets = torch.randint(-1, 10, (5000,), generator=random)
    neighbors = torch.randint(5000, (5000, 6), generator=random)
    placed = probabilities.to(runtime.device)
    expected, found = score(probabilities, targets, 10), score(placed, targets, 10)
    assert all(np.array_equal(found[name], value) for name, value in expected.items()), "scores differ"
    apart = [
        abs(float(a) - float(b))
        for a, b in zip(validation_loss(probabilities, neighbors), validation_loss(placed, neighbors), strict=True)
    ]
    assert max(apart) < 1e-5, apart
    bank = torch.nn.functional.normalize(torch.randn(3000, 32, generator=random), dim=1)
    votes = [
        weighted_knn(bank.to(device), targets[:3000].clamp(min=0).to(device), bank[:500].to(device), 10).cpu()
        for device in (CPU, runtime.device)
    ]
    agree = float((votes[0] == votes[1]).float().mean())
    assert agree > 0.99, f"k-NN votes agree in {agree:.3f}"
    return {"validation_loss_apart": max(apart), "knn_agreement": agree}


def waiting(runtime: Runtime) -> dict[str, Any]:
    """No step of any stage makes the host wait for the device."""
    for stage in CONFIGS:
        step = Step(stage, runtime, ["batch_size=32", "width=8"], 256)
        for _ in range(2):
            step()
        if runtime.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(10):
                step()
        finally:
            if runtime.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return {"stages": list(CONFIGS)}


def _stop_at(num_steps: int) -> Any:
    """A signal, as a scheduler sends it, that comes in the middle of a step."""
    step = Run.step

    def signalled(self: Run, *args: Any, **kwargs: Any) -> None:
        step(self, *args, **kwargs)
        if self.num_steps == num_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return mock.patch.object(Run, "step", signalled)


def _recipe(root: Path, runtime: Runtime, stop: bool) -> dict[str, dict[str, Tensor]]:
    words = [f"device={runtime.device}", "width=8", "batch_size=128", "deterministic=true"]
    found = {}
    for stage, folder in stages.FOLDERS.items():
        if stop:
            with _stop_at(3):
                assert stages.stage(stage, root, *words) == 128 + signal.SIGTERM
        assert stages.stage(stage, root, *words) == 0
        found[stage] = read_weights(root / "digits" / folder / "model.pth.tar").state
    return found


def resuming(runtime: Runtime) -> dict[str, Any]:
    """Stages stopped in the middle of an epoch end with the same weights, bit by bit, under `deterministic`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            whole, resumed = (_recipe(Path(folder) / str(stop), runtime, stop) for stop in (False, True))
        finally:
            torch.use_deterministic_algorithms(False)
    apart = {
        stage: max(
            float((a - resumed[stage][name]).abs().max()) for name, a in whole[stage].items() if a.is_floating_point()
        )
        for stage in whole
    }
    assert max(apart.values()) == 0, f"resumed runs end elsewhere, weights apart by {apart}"
    return {"weights_apart": apart}


CHECKS: dict[str, Callable[[Runtime], dict[str, Any]]] = {
    "augmentations": augmentations,
    "precision": precision,
    "skipped batches": skipped_batches,
    "gathering": gathering,
    "mining": mining,
    "evaluation": evaluation,
    "waiting": waiting,
    "resuming": resuming,
}
