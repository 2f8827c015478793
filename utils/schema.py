"""Every key a config may hold: its type, its range, its default, and what it means.

Adding a key is adding a field here; the tables in `data`, `losses` and `models` say which names a field may take.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

STAGES = ("pretext", "scan", "selflabel")
"""In the order in which they run; each has folders of its own."""
STAGE_OF = {"simclr": "pretext", "moco": "pretext", "pretext": "pretext", "scan": "scan", "selflabel": "selflabel"}
"""The stage that a config's `setup`, or a word of the command line, speaks of."""

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]*$", max_length=200)]


def _expand_home(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(f"there is no such home directory ({error})") from error


Folder = Annotated[str, AfterValidator(_expand_home)]


class Section(BaseModel):
    """A part of a config: unknown keys are errors, numbers are not made of strings."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Environment(Section):
    """env.yml: where results go and where data sets lie."""

    root_dir: Folder
    data_root: Folder = "datasets"
    data_paths: dict[str, Folder] = {}


class ModelKwargs(Section):
    """The pretext model's head."""

    head: Literal["mlp", "linear"] = "mlp"
    features_dim: Positive = 128


class SgdKwargs(Section):
    """torch.optim.SGD."""

    lr: Rate
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: Rate = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SgdKwargs":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class AdamKwargs(Section):
    """torch.optim.Adam and AdamW."""

    lr: Rate
    weight_decay: Rate = 0.0
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.999]


class ConstantKwargs(Section):
    """The base rate, after an optional linear warm-up."""

    warmup_epochs: Rate = 0


class CosineKwargs(ConstantKwargs):
    """From lr down to lr · lr_decay_rate³ along half a cosine."""

    lr_decay_rate: Fraction = 0.1


class StepKwargs(ConstantKwargs):
    """The rate is multiplied by lr_decay_rate after each milestone."""

    lr_decay_epochs: list[Count]
    lr_decay_rate: Fraction = 0.1


class CheckpointEvery(Section):
    """How often a resumable checkpoint is written, besides at the end and on SIGTERM or SIGINT."""

    epochs: Positive = 1
    minutes: PositiveRate = 10


class DatasetKwargs(Section):
    """Options of one split; `root`, `stream`, `resize`, `on_bad_image`, `cache_dir` concern folders and ImageNet."""

    root: str | None = None
    stream: Literal["auto"] | bool = "auto"
    resize: Positive | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    cache_dir: str | None = None
    subset_file: str | None = None


def section_of(function: Callable[..., Any], *left_out: str) -> type[Section]:
    """A section whose keys are a function's parameters, with their annotations and defaults."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in left_out
    }
    return create_model("Kwargs", __base__=Section, **fields)


OPTIMIZER_KWARGS: dict[str, type[Section]] = {"sgd": SgdKwargs, "adam": AdamKwargs, "adamw": AdamKwargs}
SCHEDULER_KWARGS: dict[str, type[Section]] = {
    "constant": ConstantKwargs,
    "cosine": CosineKwargs,
    "step": StepKwargs,
}


class Config(Section):
    """One stage's config. What a stage needs beyond its own defaults it demands itself, when it starts."""

    setup: Literal["simclr", "moco", "scan", "selflabel"]

    # Data
    train_db_name: str
    val_db_name: str | None = None
    train_db_kwargs: DatasetKwargs = DatasetKwargs()
    val_db_kwargs: DatasetKwargs = DatasetKwargs()
    db_alias: RunName | None = None
    num_classes: Positive | None = None

    # Model
    backbone: str = "resnet18"
    stem: Literal["cifar", "cifar_s2", "stl", "imagenet"] | None = None
    width: Positive | None = None
    model_kwargs: ModelKwargs = ModelKwargs()
    num_heads: Positive = 1

    # Method
    num_neighbors: Positive = 20
    num_mined_train: Positive | None = None
    num_mined_val: Positive = 5
    mine_features: Literal["head", "backbone"] | None = None
    neighbors: Literal["auto", "torch", "faiss"] = "auto"
    temperature: PositiveRate = 0.07
    update_cluster_head_only: bool = False
    confidence_threshold: Fraction = 0.99
    use_ema: bool = False
    ema_alpha: Fraction = 0.999

    # Loss, optimizer, schedule
    criterion: str | None = None
    criterion_kwargs: dict[str, Any] = {}
    optimizer: str | None = None
    optimizer_kwargs: dict[str, Any] = {}
    scheduler: str = "constant"
    scheduler_kwargs: dict[str, Any] = {}
    epochs: Positive | None = None
    batch_size: Positive | None = None
    eval_batch_size: Positive | None = None
    num_workers: Count = 8

    # Views
    augmentation_strategy: str | None = None
    augmentation_kwargs: dict[str, Any] = {}
    transformation_kwargs: dict[str, Any] = {}

    # The run
    run_name: RunName | None = None
    pretext_run: RunName | None = None
    scan_run: RunName | None = None
    overwrite: bool = False
    seed: Count = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    deterministic: bool = False
    knn_every: Positive = 10
    log_every: Positive = 50
    checkpoint_every: CheckpointEvery = CheckpointEvery()
    tensorboard: bool = False


# What tells a run from another is everything but these: they change how a run is carried out, not what it computes.
CARRIED_OUT = {
    "overwrite", "num_workers", "eval_batch_size", "device", "precision", "compile", "log_every",
    "checkpoint_every", "tensorboard", "root_dir", "data_root", "data_paths", "neighbors",
}  # fmt: skip
