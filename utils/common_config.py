"""From config to objects: one-line look-ups in the packages' tables. Config stops here."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clustering.features import Embedder
from data import DATASETS
from data.augment import AUGMENTATIONS, Evaluation, Strategy, build_augmentation
from data.augment.pretrained import Pretrained
from data.download import NotHereError
from data.files.listing import NoImagesError
from data.files.pool import options
from data.files.reading import Reading
from data.loaders import NeighborPartner, ViewLoader, WithLabeled
from data.made_up import make_up
from losses import CRITERIA, WITH_PRIOR, WITH_THRESHOLD
from losses.scan import UNIFORM
from models import build_backbone, loading, takes_stem, weights
from models.models import ClassifierModel, ClusteringModel, ContrastiveModel, FeatureModel
from models.plain import is_given
from models.pretrained import build_pretrained, is_pretrained
from system.console import say
from system.errors import ConfigError, UserError
from system.runtime import Runtime
from system.sections import check, look_up, section_of
from training.optimizers import OPTIMIZERS, group_by_rate
from utils.images import where_key
from utils.overrides import merge
from utils.readings import known_values
from utils.setups import SETUPS, how_to_run

STEMS = {"cifar-10": "cifar", "cifar-20": "cifar", "digits": "cifar", "mnist": "cifar", "stl-10": "stl"}

# What reads all of a pretext model.
LOADERS: dict[type[nn.Module], Callable[[Any, weights.Weights], None]] = {
    ContrastiveModel: loading.load_contrastive,
    ClassifierModel: loading.load_classifier,
    FeatureModel: loading.load_backbone,
}
# What a model takes over, by the stage that it starts from.
STARTS: dict[str | None, Callable[[Any, weights.Weights], Any]] = {
    None: lambda model, read: LOADERS[type(model)](model, read),
    "pretext": loading.load_backbone,
    "scan": lambda model, read: loading.load_clusters(model, loading.keep_head(read)),
}


def get_stem(p: Any) -> str | None:
    """The stem that a config names, or that its data set implies; for a `folder` the crop size implies it.

    None for a backbone that has no stems to choose from.
    """
    if p.get("stem") or not takes_stem(p["backbone"]):
        return p.get("stem")
    name = p["train_db_name"]
    if name == "folder":
        size = get_crop_size(p)
        return "cifar" if size <= 64 else "stl" if size <= 128 else "imagenet"
    return STEMS.get(name, "imagenet")


def _evaluation_kwargs(p: Any) -> dict[str, Any]:
    if not p.get("transformation_kwargs"):
        raise ConfigError("the evaluation transform is missing: add transformation_kwargs")
    return p["transformation_kwargs"]


def get_crop_size(p: Any) -> int:
    """The side of the evaluation transform's square; raises ConfigError when the config has none."""
    return _evaluation_kwargs(p)["crop_size"]


def get_backbone(p: Any) -> dict[str, Any]:
    """The backbone that a config names, untrained: `{'backbone': module, 'dim': int}`; raises ConfigError."""
    if is_pretrained(p.get("backbone") or ""):
        return build_pretrained(p["backbone"], side=get_crop_size(p), load=False)
    return build_backbone(p["backbone"], get_stem(p), p.get("width"))


def split_by_network(features: Tensor, backbone: dict[str, Any]) -> list[Tensor]:
    """The features `[N, D]` of several networks side by side as those of each; of any other backbone they are one."""
    dims = backbone["facts"].dims if "facts" in backbone else ()
    return list(features.split(dims, dim=1)) if sum(dims) == features.shape[1] else [features]


def get_model(p: Any, pretrain_path: Path | str | None = None, advice: str | None = None) -> Any:
    """The model of a config's stage.

    `pretrain_path` holds what the stage starts from: for scan a pretext model (its backbone is taken), for selflabel
    a scan model (its best head is kept, as head 0), for a pretext task a model of its own kind.
    Raises ConfigError for an unknown name, UserError when the file is missing (`advice` then says what to do) or does
    not fit.
    """
    backbone = get_backbone(p)
    setup = look_up(SETUPS, p["setup"], "setup")
    if setup.stage == "pretext":
        model: nn.Module = _build_pretext(p, backbone)
    elif not p.get("num_classes"):
        raise ConfigError("the number of clusters is missing: add num_classes")
    else:
        num_heads = 1 if setup.starts_from == "scan" else p.get("num_heads") or 1
        model = ClusteringModel(backbone, p["num_classes"], num_heads)
    if pretrain_path is not None:
        before = how_to_run(setup.starts_from) if setup.starts_from else "check the path"
        STARTS[setup.starts_from](model, weights.read_weights(pretrain_path, advice or before))
    return model


def _build_pretext(p: Any, backbone: dict[str, Any]) -> nn.Module:
    has_head, num_outputs = SETUPS[p["setup"]].has_head, SETUPS[p["setup"]].num_outputs
    if not has_head:
        return FeatureModel(backbone)
    if num_outputs is None:
        return ContrastiveModel(backbone, **(p.get("model_kwargs") or {}))
    if num_outputs == "num_classes":
        num_outputs = p.get("num_classes")
        if not num_outputs:
            raise ConfigError("the number of classes is missing: add num_classes")
    return ClassifierModel(backbone, num_outputs)


def get_criterion(p: Any) -> Any:
    """The loss of a config's stage."""
    kwargs = dict(p.get("criterion_kwargs") or {})
    if p["criterion"] in WITH_THRESHOLD:
        kwargs["threshold"] = p["confidence_threshold"]
    if p["criterion"] in WITH_PRIOR:
        kwargs["cluster_prior"] = p.get("cluster_prior", UNIFORM)
    return look_up(CRITERIA, p["criterion"], "criterion")(**kwargs)


def get_optimizer(
    p: Any,
    model: nn.Module,
    cluster_head_only: bool | None = None,
    *,
    rate_factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a config; with `cluster_head_only` the backbone is frozen and left out.

    By default that is `update_cluster_head_only` of a scan config.
    `rate_factors`: how many times as high the rate of parameters is whose names begin so.
    """
    if cluster_head_only is None:
        cluster_head_only = p.get("update_cluster_head_only") and p.get("setup", "scan") == "scan"  # configs share it
    if cluster_head_only:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("cluster_head" in name)
    name = p["optimizer"]
    build = look_up(OPTIMIZERS, name, "optimizer")
    section, given = section_of(build, left_out=("parameters",)), dict(p["optimizer_kwargs"])
    kwargs = check(section, given, lambda key: f"optimizer {name}", "optimizer_kwargs.", owner=name)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return build(group_by_rate(trained, rate_factors), **dict(kwargs))


def get_view_kwargs(p: Any) -> dict[str, Any]:
    """The augmentation_kwargs of a config, with crop size and normalization of the evaluation transform where none are.

    Raises ConfigError for an unknown strategy.
    """
    strategy = look_up(AUGMENTATIONS, p["augmentation_strategy"], "augmentation_strategy")
    given, evaluation = p.get("augmentation_kwargs") or {}, p.get("transformation_kwargs") or {}
    inherited = {name: evaluation[name] for name in ("crop_size", "normalize") if name in evaluation}
    inherited |= {"crop_size": evaluation["zoom_to"]} if evaluation.get("zoom_to") else {}
    return merge(strategy.as_evaluated(**inherited), given) if len(inherited) == 2 else given


def get_train_transformations(p: Any) -> Strategy:
    """The augmentation of a config's stage; raises ConfigError when it is missing or wrong."""
    if not p.get("augmentation_strategy"):
        raise ConfigError("the training views are missing: add augmentation_strategy")
    return build_augmentation(p["augmentation_strategy"], **get_view_kwargs(p))


def get_val_transformations(p: Any) -> Strategy:
    """The evaluation transform: center crop and normalization; raises ConfigError when the config has none."""
    build = Pretrained if is_pretrained(p.get("backbone") or "") else Evaluation
    return build(**_evaluation_kwargs(p))


def _build_dataset(p: Any, name: str, split: str, kwargs: Mapping[str, Any], transform: Callable | None) -> Any:
    root = (p.get("data_paths") or {}).get(name) or p.get("data_root") or "datasets"
    given = {key: value for key, value in kwargs.items() if value is not None}
    known = (known_values(p),) if name == "folder" else ()
    build = look_up(DATASETS, name, f"{'val' if split == 'val' else 'train'}_db_name")
    try:
        dataset = build(Path(root), split, get_crop_size(p), *known, **given)
    except NotHereError as error:  # in a dry run
        say(f"{error}, and a dry run downloads nothing: made-up images of its shape are used instead")
        dataset = make_up(name, given.get("split") or split)
    except NoImagesError as error:
        raise UserError(f"{error}: {where_key(p, name, 'val' if split == 'val' else 'train')}") from error
    if not is_given(p.get("backbone") or ""):
        side = dataset.resize if dataset.images is None else dataset.images.shape[-1]
        get_val_transformations(p).box({}, side, side)  # images that are too small for it are an error now
    dataset.transform = transform
    return dataset


def get_train_dataset(p: Any, transform: Callable | None, split: str | None = None) -> Any:
    """The training split, as items under `transform`; `split` is `train+unlabeled` for STL-10's pretext task."""
    name, kwargs = p["train_db_name"], p.get("train_db_kwargs") or {}
    return _build_dataset(p, name, split if split and name == "stl-10" else "train", kwargs, transform)


def get_val_dataset(
    p: Any, transform: Callable | None = None, classes: list[str] | None = None, reading: Reading | None = None
) -> Any:
    """The validation split; without `val_db_name` it is the training split.

    `classes` are the training split's names, whose numbers a folder's labels then take, and `reading` is how its images
    were read: by default a folder's short side becomes as long, so that both splits show as much of an image.
    """
    if not p.get("val_db_name"):
        return get_train_dataset(p, transform)
    kwargs = dict(p.get("val_db_kwargs") or {})
    if p["val_db_name"] == "folder":
        kwargs["classes"] = classes or kwargs.get("classes")
        kwargs["resize"] = kwargs.get("resize") or (reading and reading.side)
    return _build_dataset(p, p["val_db_name"], "val", kwargs, transform)


def get_splits(p: Any, run: Any, split: str | None = None) -> tuple[Any, Any]:
    """The training and the validation split of a stage's `Run`, whose classes have the same numbers.

    Says how large they are; how images were read is recorded with the run.
    """
    train = get_train_dataset(p, None, split)
    if train.reading is not None:
        run.note(images=train.reading.to_record())
    # Where there is no other, the training split is decoded once and serves as both.
    differs = p.get("val_db_name") or (split is not None and p["train_db_name"] == "stl-10")
    val = get_val_dataset(p, classes=train.classes, reading=train.reading) if differs else train
    labels = f"{len(train.classes)} classes" if train.has_labels else "no labels"
    say(f"{len(train):,} training and {len(val):,} validation images of {train.name}, {labels}")
    return train, val


def get_view_loader(
    p: Any,
    dataset: Any,
    strategies: Sequence[Strategy],
    run: Any,
    partners: Sequence[NeighborPartner | None] | None = None,
    rows: torch.Tensor | None = None,
) -> ViewLoader:
    """The training batches of a stage's `Run`: a view for every strategy, of a partner's image where there is one.

    `rows` are the images that are trained on, by default all.
    """
    return ViewLoader(
        dataset, strategies, p["batch_size"], run.runtime, run.key, partners, num_workers=p["num_workers"], rows=rows
    )


def add_labeled(
    p: Any, loader: ViewLoader, dataset: Any, strategy: Strategy, run: Any, rows: torch.Tensor, targets: torch.Tensor
) -> WithLabeled:
    """A loader that shows in every step, next to another one's batch, images of `rows` with their targets `[N]`.

    Where they are fewer than the places in an epoch's steps, each comes as often as the others, to within one; where
    they are more, every epoch shows another part.
    """
    num = len(loader) * p["reliable_batch_size"]
    shown = rows if len(rows) >= num else rows.repeat(-(-num // len(rows)))[:num]
    labeled = ViewLoader(
        dataset,
        [strategy],
        p["reliable_batch_size"],
        run.runtime,
        (*run.key, "labelled"),
        num_workers=p["num_workers"],
        rows=shown,
        size_key="reliable_batch_size",
    )
    return WithLabeled(loader, labeled, targets.to(run.runtime.device))


def get_embedder(p: Any, runtime: Runtime) -> Embedder:
    """What turns a split into features under the config's evaluation transform."""
    return Embedder(get_val_transformations(p), runtime, p.get("eval_batch_size") or 256, p.get("num_workers") or 0)


def get_train_dataloader(p: Any, dataset: Any) -> DataLoader:
    """A plain shuffled DataLoader over items, for code of one's own; the stages use `data.loaders`."""
    return DataLoader(dataset, p["batch_size"], shuffle=True, drop_last=True, **options(p.get("num_workers") or 0))


def get_val_dataloader(p: Any, dataset: Any) -> DataLoader:
    """A plain DataLoader over items in order, for code of one's own; the stages use `clustering.features`."""
    return DataLoader(dataset, p.get("batch_size") or 256, **options(p.get("num_workers") or 0))
