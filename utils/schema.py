"""Every key a config may hold: its type, its range, its default, and what it means.

Adding a key is adding a field here; `utils.tables` says which names a field may take, and which options go with them.
`python -m docs.configs` writes docs/configs.md from both.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from losses.scan import UNIFORM, ClusterPrior
from system import sections
from system.atomic import TEMPORARY
from system.files import MANIFEST
from system.sections import (
    Batch,
    Count,
    Folder,
    Fraction,
    NumClusters,
    NumEpochs,
    NumHeads,
    NumNeighbors,
    NumReliable,
    NumWorkers,
    Positive,
    PositiveRate,
    Section,
    Share,
)
from training.board import FOLDER
from training.folder import WRITTEN

RESERVED = {*WRITTEN, FOLDER, MANIFEST, "sweeps", "cache", "configs", "logs"}
"""Names of files and folders that this program writes next to runs."""


def _not_reserved(name: str) -> str:
    # Some file systems take names for the same that differ in their case.
    if name.lower() in RESERVED or name.lower().endswith(TEMPORARY):
        raise ValueError("it is the name of a file or folder that this program writes itself; choose another")
    return name


RunName = Annotated[sections.RunName, AfterValidator(_not_reserved)]


class Environment(Section):
    """env.yml: where results go and where data sets are."""

    root_dir: Folder
    """Where results go: `{root_dir}/{data set}/{pretext,scan,selflabel}`."""
    data_root: Folder = "datasets"
    """Where data sets are looked for, and downloaded to."""
    data_paths: dict[str, Folder] = {}
    """Data sets that are elsewhere: `{cifar-10: /data/cifar}`."""
    threads: Positive | None = None
    """Threads of the CPU that compute; by default as many as PyTorch takes."""
    auto_precision: Literal["fp32", "bf16"] | None = None
    """What precision: auto trains in; by default what is fast on this machine."""


class CheckpointEvery(Section):
    """How often a resumable checkpoint is written, besides at the end and when a signal stops the run."""

    epochs: Positive = 1
    """Epochs between two checkpoints."""
    minutes: PositiveRate = 10
    """Minutes between two checkpoints within an epoch."""


class Config(Section):
    """One stage's config. What a stage needs beyond its own defaults it demands itself, when it starts."""

    setup: str
    """What the config is for."""

    # Data
    train_db_name: str
    """The data set of the training split."""
    val_db_name: str | None = None
    """The data set of the validation split; by default the training split."""
    train_db_kwargs: dict[str, Any] = {}
    """Options of the training data set."""
    val_db_kwargs: dict[str, Any] = {}
    """Options of the validation data set."""
    db_alias: RunName | None = None
    """Names the folder of a `folder`'s results; by default its directory's name."""
    num_classes: NumClusters | None = None
    """Clusters to find."""

    # Model
    backbone: str = "resnet18"
    """The network whose features are learned."""
    weights: str | None = None
    """Of a pretrained backbone: a .safetensors or PyTorch file, instead of its own."""
    features_file: str | None = None
    """Of a backbone given/D: the .npy or .parquet file with the features of the images."""
    offline: bool = False
    """Nothing is downloaded."""
    stem: str | None = None
    """What comes before the backbone's first stage; by default what suits the data set."""
    width: int | None = None
    """Channels of the backbone's first stage; by default the network's own."""
    model_kwargs: dict[str, Any] = {}
    """Options of a pretext task's contrastive head."""
    head_kwargs: dict[str, Any] = {}
    """Of a clustering method's model: what its head is built from; the run writes it."""
    class_names: list[str] = []
    """Of a classifier that label.py trained: what its classes are called."""
    num_heads: NumHeads = 1
    """Cluster heads trained side by side; the lowest validation loss picks one."""

    # Method
    num_neighbors: NumNeighbors = 20
    """Of the mined ones, from which scan draws a partner."""
    num_mined_train: NumNeighbors | None = None
    """Neighbors mined for each training image; by default 20, or 50 (moco, pretrained)."""
    num_mined_val: NumNeighbors = 5
    """Neighbors mined for each validation image."""
    mine_features: Literal["head", "backbone", "layer2", "layer3"] | None = None
    """The outputs compared, a layer as its average; by default head (moco, pretrained, classifiers: backbone)."""
    method_kwargs: dict[str, Any] = {}
    """Options that the setup alone has."""
    neighbors: Literal["auto", "torch", "faiss"] = "auto"
    """What searches; the result is the same. Auto: faiss on a CPU, except on macOS, else torch."""
    temperature: PositiveRate = 0.07
    """Of the k-NN vote, where criterion_kwargs has none."""
    update_cluster_head_only: bool = False
    """The backbone is frozen."""
    confidence_threshold: Fraction = 0.99
    """Probability above which a prediction becomes a label."""
    cluster_prior: ClusterPrior = UNIFORM
    """How large clusters are expected to be: `power:A` has the r-th largest in proportion to r^-A, A from 0 to 1."""
    starts_from: Literal["scan", "candidates"] = "scan"
    """The clustering that self-labeling refines."""
    reliable_share: Share = 0.5
    """Of `criterion: fixmatch`: the share of each cluster's images whose clusters serve as labels from the start on."""
    reliable_neighbors: NumReliable = 100
    """Of `criterion: fixmatch`: an image's cluster is compared with those of this many nearest images, itself included;
    the images with the most agreement are the reliable ones."""
    reliable_batch_size: Batch = 64
    """Of `criterion: fixmatch`: reliable images in every step, besides the batch_size images of all."""
    trained_layers: Positive | None = None
    """Of a pretrained backbone that is trained on: its last groups of layers that change; by default all."""
    patience: Positive | None = None
    """Self-labeling ends after this many epochs without a lower validation loss, or with fewer clusters in use."""
    minutes: PositiveRate | None = None
    """Training stops at a checkpoint after this many minutes, and may be continued; by default never."""
    use_ema: bool = False
    """In self-labeling: after every step the weights become their running average."""
    ema_alpha: Fraction = 0.999
    """Decay of that average per step."""
    average_decay: Fraction | None = None
    """A running average of the weights, with this decay per step, is what is evaluated and saved; by default none."""

    # Loss, optimizer, schedule
    criterion: str | None = None
    """The loss."""
    criterion_kwargs: dict[str, Any] = {}
    """Options of the loss."""
    optimizer: str | None = None
    """The optimizer; where it has a weight decay, biases and normalization decay, too."""
    optimizer_kwargs: dict[str, Any] = {}
    """Options of the optimizer."""
    scheduler: str = "constant"
    """The learning rate over the epochs."""
    scheduler_kwargs: dict[str, Any] = {}
    """Options of the schedule."""
    epochs: NumEpochs | None = None
    """Times that every image is trained on."""
    batch_size: Batch | None = None
    """Images a step, of all processes together."""
    eval_batch_size: Batch | None = None
    """Images at a time where nothing is trained; by default 256."""
    num_workers: NumWorkers = 8
    """Processes that decode streamed images; never more than cores."""

    # Views
    augmentation_strategy: str | None = None
    """What makes the training views."""
    augmentation_kwargs: dict[str, Any] = {}
    """Options of the training views; crop size and normalization are the evaluation transform's unless given here."""
    transformation_kwargs: dict[str, Any] = {}
    """Options of the evaluation transform."""

    # The run
    run_name: RunName | None = None
    """Keeps a run in a folder of its own; a folder may be renamed, and then is the run of its new name."""
    pretext_run: RunName | None = None
    """The run_name of the pretext run to start from."""
    scan_run: RunName | None = None
    """The run_name of the scan run to start from."""
    candidates_run: RunName | None = None
    """The run_name of the candidates run to start from."""
    overwrite: bool = False
    """Start again, whatever the folder holds."""
    seed: Count = 0
    """What every random draw depends on."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 for training where it is fast."""
    compile: Literal["auto"] | bool = "auto"
    """auto: where it pays."""
    deterministic: bool = False
    """On CUDA the same bits every time, at some speed."""
    knn_every: Positive = 10
    """Epochs between two k-NN accuracies of a pretext task."""
    log_every: Positive = 50
    """Steps between two looks at the loss."""
    checkpoint_every: CheckpointEvery = CheckpointEvery()
    """How often a resumable checkpoint is written, besides at the end and when a signal stops the run."""
    tensorboard: bool = False
    """Write losses and pictures for TensorBoard, too."""


# What makes a run another one is everything but these: they change how a run is carried out, not what it computes.
CARRIED_OUT = {
    "overwrite", "num_workers", "eval_batch_size", "device", "precision", "compile", "log_every", "threads",
    "auto_precision", "minutes", "offline", "head_kwargs", "class_names", "checkpoint_every", "tensorboard",
    "root_dir", "run_name", "data_root", "data_paths", "neighbors",
}  # fmt: skip

DEFAULTS = {
    name: field.get_default(call_default_factory=True)
    for name, field in Config.model_fields.items()
    if not field.is_required()
}
"""What a key means that a config does not hold."""


RUN_KEYS = tuple(key for key in Config.model_fields if key.endswith("_run"))
"""Keys that name the runs that a stage starts from."""
