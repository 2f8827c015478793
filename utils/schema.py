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

    setup: Literal["simclr", "moco", "scan", "selflabel"]  # which stage the config is for

    # Data
    train_db_name: str  # a data set: see DATASETS in data/__init__.py
    val_db_name: str | None = None  # by default the training split
    train_db_kwargs: DatasetKwargs = DatasetKwargs()
    val_db_kwargs: DatasetKwargs = DatasetKwargs()
    db_alias: RunName | None = None  # names the folder of a `folder`'s results; by default its directory's name
    num_classes: Positive | None = None  # clusters to find

    # Model
    backbone: str = "resnet18"  # see BACKBONES in models/__init__.py
    stem: Literal["cifar", "cifar_s2", "stl", "imagenet"] | None = None  # by default what suits the data set
    width: Positive | None = None  # channels of the first stage; by default the network's own
    model_kwargs: ModelKwargs = ModelKwargs()  # of the contrastive head
    num_heads: Positive = 1  # cluster heads trained side by side; the lowest validation loss picks one

    # Method
    num_neighbors: Positive = 20  # of the mined ones, from which scan draws a partner
    num_mined_train: Positive | None = None  # per image; by default 20 (simclr) or 50 (moco)
    num_mined_val: Positive = 5
    mine_features: Literal["head", "backbone"] | None = None  # what is compared; by default head (moco: backbone)
    neighbors: Literal["auto", "torch", "faiss"] = "auto"  # what searches; the result is the same
    temperature: PositiveRate = 0.07  # of the k-NN vote, where criterion_kwargs has none
    update_cluster_head_only: bool = False  # the backbone is frozen
    confidence_threshold: Fraction = 0.99  # above which a prediction becomes a label
    use_ema: bool = False  # in self-labeling: after every step the weights become their running average
    ema_alpha: Fraction = 0.999  # its decay per step

    # Loss, optimizer, schedule
    criterion: str | None = None  # see CRITERIA in losses/__init__.py
    criterion_kwargs: dict[str, Any] = {}
    optimizer: str | None = None  # sgd, adam or adamw
    optimizer_kwargs: dict[str, Any] = {}
    scheduler: str = "constant"  # constant, cosine or step
    scheduler_kwargs: dict[str, Any] = {}
    epochs: Positive | None = None
    batch_size: Positive | None = None  # of all processes together
    eval_batch_size: Positive | None = None  # by default 256
    num_workers: Count = 8  # processes that decode streamed images; never more than cores

    # Views
    augmentation_strategy: str | None = None  # see AUGMENTATIONS in data/augment/__init__.py
    augmentation_kwargs: dict[str, Any] = {}
    transformation_kwargs: dict[str, Any] = {}  # of the evaluation transform: crop_size, normalize

    # The run
    run_name: RunName | None = None  # keeps a run in a folder of its own
    pretext_run: RunName | None = None  # the run_name of the pretext run to start from
    scan_run: RunName | None = None  # that of the scan run
    overwrite: bool = False  # start again, whatever the folder holds
    seed: Count = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 for training where it is fast
    compile: Literal["auto"] | bool = "auto"  # auto: where it pays
    deterministic: bool = False  # on CUDA the same bits every time, at some speed
    knn_every: Positive = 10  # epochs between two k-NN accuracies of a pretext task
    log_every: Positive = 50  # steps between two looks at the loss
    checkpoint_every: CheckpointEvery = CheckpointEvery()
    tensorboard: bool = False


# What tells a run from another is everything but these: they change how a run is carried out, not what it computes.
CARRIED_OUT = {
    "overwrite", "num_workers", "eval_batch_size", "device", "precision", "compile", "log_every",
    "checkpoint_every", "tensorboard", "root_dir", "data_root", "data_paths", "neighbors",
}  # fmt: skip
