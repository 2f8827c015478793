"""`--dry_run`: everything is checked, sizes and times are estimated, nothing is trained or written."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from easydict import EasyDict

from system.console import say, warn
from system.runtime import Runtime, describe, generator
from training import checkpoint
from training.folder import to_plain
from utils.common_config import (
    get_model,
    get_optimizer,
    get_train_dataset,
    get_train_transformations,
    get_val_dataset,
)
from utils.config import require
from utils.pretext import load_train_neighbors, load_val_neighbors, num_to_mine, scan_split

STATE_TENSORS = {"sgd": 1, "adam": 2, "adamw": 2}
NUM_TIMED = 3


def dry_run(p: EasyDict, *needed: str, script: str, starts_from: str | None = None) -> int:
    """Print the resolved config, data set sizes, memory and time estimates; raises what the run itself would.

    Whether the run's folder is free for it is not looked at.
    """
    require(p, *needed, script=script)
    runtime = Runtime.of(p)
    say(yaml.safe_dump(to_plain(p), sort_keys=False).rstrip())
    model = runtime.place(get_model(p, starts_from))
    train = get_train_dataset(p, None, split="train+unlabeled" if p.setup == "simclr" else None)
    val = get_val_dataset(p, classes=train.classes)
    if p.setup == "simclr":
        num_to_mine(p, scan_split(p, train), val)
    if p.setup == "scan":
        load_train_neighbors(p, train)
    if p.setup == "scan" or (p.setup == "selflabel" and Path(p.topk_neighbors_val_path).exists()):
        load_val_neighbors(p, val)
    for split, dataset in (("train", train), ("val", val)):
        labels = f"{len(dataset.classes)} classes" if dataset.has_labels else "no labels"
        say(f"{split}: {len(dataset)} images of {dataset.name}, {labels}")
    steps = len(train) // p.batch_size
    if steps == 0:
        warn(f"batch_size {p.batch_size} is larger than the {len(train)} training images; the run would refuse it")
        return 1
    get_optimizer(p, model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    stored = checkpoint.num_bytes(model.state_dict()) * (1 + STATE_TENSORS[p.optimizer])
    seconds = time_step(p, model, runtime)
    say(f"device: {describe(runtime.device)}, precision {str(runtime.training).removeprefix('torch.')}")
    say(f"model: {parameters / 1e6:.2f} M parameters; a checkpoint takes {stored / 2**20:.1f} MiB, two are kept")
    say(f"about {seconds * steps * p.epochs / 60:.1f} minutes: {p.epochs} epochs of {steps} steps of {seconds:.3f} s")
    folder = Path(p.root_dir)
    while not folder.exists():
        folder = folder.parent
    if shutil.disk_usage(folder).free < 3 * stored:
        warn(f"{folder} has too little free space for the checkpoints")
    return 0


def time_step(p: EasyDict, model: Any, runtime: Runtime) -> float:
    """Seconds of one step's forward and backward passes on random images, without touching the weights."""
    augment = get_train_transformations(p)
    images = torch.randint(
        256, (p.batch_size, 3, augment.size, augment.size), generator=generator(0), dtype=torch.int64
    )
    images = images.to(torch.uint8).to(runtime.device)
    model.train(not p.update_cluster_head_only)
    times = []
    for _ in range(NUM_TIMED):
        started = time.monotonic()
        for _ in range(2):  # every stage forwards two views of every image
            outputs = runtime.forward(model, augment(images), runtime.training)
            loss = sum(output.square().mean() for output in (outputs if isinstance(outputs, list) else [outputs]))
            loss.backward()
        loss.item()  # waits for the device
        times.append(time.monotonic() - started)
    model.zero_grad(set_to_none=True)
    return min(times)
