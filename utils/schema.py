"""Every key a config may hold: its type, its range, its default, and what it means.

Adding a key is adding a field here; the tables in `data`, `losses` and `models` say which names a field may take.
"""

from typing import Any, Literal, NamedTuple

from system.sections import Count, Folder, Fraction, Positive, PositiveRate, RunName, Section

STAGES = ("pretext", "scan", "selflabel")
"""The stages of the method in the order in which they run; each has folders of its own."""
TRAINING_KEYS = (
    *("criterion", "optimizer", "optimizer_kwargs", "epochs", "batch_size"),
    *("augmentation_strategy", "transformation_kwargs"),
)
"""What every stage that trains demands of a config."""


class Setup(NamedTuple):
    """What a config's `setup` stands for."""

    module: str
    """What runs it, as Python imports it."""
    stage: str
    """The folder of its results, and the word that may stand before a key: `scan.epochs=25`."""
    needs: tuple[str, ...]
    """Keys that its config must hold."""
    starts_from: str | None = None
    """The stage whose model it begins with."""
    num_mined: int | None = None
    """Of a pretext task: neighbors that are mined for each training image, unless the config says how many."""
    mined: Literal["head", "backbone"] = "head"
    """Of a pretext task: the outputs that are compared."""
    has_head: bool = True
    """Of a pretext task: whether its model has a contrastive head besides the backbone."""

    @property
    def script(self) -> str:
        """What one types after `python`."""
        return f"-m {self.module}" if "." in self.module else f"{self.module}.py"


SETUPS = {
    "simclr": Setup("simclr", "pretext", TRAINING_KEYS, num_mined=20),
    "moco": Setup("moco", "pretext", ("transformation_kwargs",), num_mined=50, mined="backbone"),
    "pretrained": Setup("methods.pretrained", "pretext", (), num_mined=50, mined="backbone", has_head=False),
    "candidates": Setup("methods.candidates", "candidates", ("num_classes",), starts_from="pretext"),
    "scan": Setup("scan", "scan", (*TRAINING_KEYS, "num_classes"), starts_from="pretext"),
    "selflabel": Setup("selflabel", "selflabel", (*TRAINING_KEYS, "num_classes"), starts_from="scan"),
}


def stage_of(word: str) -> str | None:
    """The stage that a setup's or a stage's name speaks of; None for another word."""
    return SETUPS[word].stage if word in SETUPS else word if word in STAGES else None


class Environment(Section):
    """env.yml: where results go and where data sets lie."""

    root_dir: Folder
    data_root: Folder = "datasets"
    data_paths: dict[str, Folder] = {}


class CheckpointEvery(Section):
    """How often a resumable checkpoint is written, besides at the end and on SIGTERM or SIGINT."""

    epochs: Positive = 1
    minutes: PositiveRate = 10


class Config(Section):
    """One stage's config. What a stage needs beyond its own defaults it demands itself, when it starts."""

    setup: str  # what the config is for: see SETUPS

    # Data
    train_db_name: str  # a data set: see DATASETS in data/__init__.py
    val_db_name: str | None = None  # by default the training split
    train_db_kwargs: dict[str, Any] = {}  # what the data set's builder takes: root, resize, stream, …
    val_db_kwargs: dict[str, Any] = {}
    db_alias: RunName | None = None  # names the folder of a `folder`'s results; by default its directory's name
    num_classes: Positive | None = None  # clusters to find

    # Model
    backbone: str = "resnet18"  # see BACKBONES in models/__init__.py
    stem: Literal["cifar", "cifar_s2", "stl", "imagenet"] | None = None  # by default what suits the data set
    weights: str | None = None  # of a pretrained backbone: a .safetensors or PyTorch file, in the place of its own
    offline: bool = False  # nothing is downloaded
    width: Positive | None = None  # channels of the first stage; by default the network's own
    model_kwargs: dict[str, Any] = {}  # of the contrastive head: head, features_dim
    head_kwargs: dict[str, Any] = {}  # of a clustering method's model: what its head is built from; written by the run
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
    "overwrite", "num_workers", "offline", "head_kwargs", "eval_batch_size", "device", "precision", "compile", "log_every",
    "checkpoint_every", "tensorboard", "root_dir", "data_root", "data_paths", "neighbors",
}  # fmt: skip

DEFAULTS = {
    name: field.get_default(call_default_factory=True)
    for name, field in Config.model_fields.items()
    if not field.is_required()
}
"""What a key means that a config does not hold."""
