"""What of a file's weights goes into which part of a model: all of it or an error, never a part that happens to fit."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.leave_out import LeaveOut
from models.models import ClusteringModel
from models.weights import PREFIXES, Weights
from system.errors import UserError
from system.sections import MAX_HEADS
from system.text import shown

NUM_NAMED = 3  # keys that an error names before it only counts


def _named(what: str, keys: Iterable[str]) -> str:
    keys = list(keys)
    more = ", …" if len(keys) > NUM_NAMED else ""
    return f"{len(keys)} {what} ({', '.join(map(shown, keys[:NUM_NAMED]))}{more})"


def _load(model: nn.Module, weights: Weights, prefix: str, advice: str) -> None:
    """Copy the tensors of one part of the model; raises UserError unless they fit it exactly."""
    expected = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    given = {key: value for key, value in weights.state.items() if key.startswith(prefix)}
    # Files of PyTorch before 0.4 do not count batches, and nothing here depends on the count.
    missing = [key for key in expected if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights.state if key not in expected and (key in given or _foreign(key))]
    shapes = [
        f"{key} is {_shape(given[key])} in the file and {_shape(expected[key])} here"
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(problems.values()):
        found = ", ".join(_named(what, keys) for what, keys in problems.items() if keys)
        raise UserError(f"{weights.path} does not fit the {prefix[:-1].replace('_', ' ')}: {found}; {advice}")
    for key, value in given.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{weights.path} is not usable: '{key}' holds values that are not finite numbers; train it again"
            )
    model.load_state_dict(given, strict=False)


def _foreign(key: str) -> bool:
    return not key.startswith(PREFIXES)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def load_backbone(model: nn.Module, weights: Weights) -> None:
    """Load the backbone of a ContrastiveModel or ClusteringModel; heads in the file are ignored.

    Raises UserError, naming missing and unexpected keys, unless the file fits the backbone completely.
    """
    _load(model, weights, "backbone.", "choose the backbone and stem it was trained with")


def load_contrastive(model: nn.Module, weights: Weights) -> None:
    """Load a whole ContrastiveModel; raises UserError unless backbone and contrastive head fit."""
    if not any(key.startswith("contrastive_head.") for key in weights.state):
        raise UserError(f"{weights.path} is not a pretext model: it has no contrastive head; give a pretext model")
    load_backbone(model, weights)
    _load(model, weights, "contrastive_head.", "set head and features_dim in model_kwargs as in training")


def load_classifier(model: nn.Module, weights: Weights) -> None:
    """Load a whole ClassifierModel; raises UserError unless backbone and classifier fit."""
    if not any(key.startswith("classifier.") for key in weights.state):
        raise UserError(f"{weights.path} has no classifier; give the model of the pretext task that the config names")
    load_backbone(model, weights)
    _load(model, weights, "classifier.", "give the config that it was trained with")


def best_head(weights: Weights) -> int:
    """Return the cluster head to use: the stored one, or the only one.

    Raises UserError for weights without cluster heads, or with several of which none is marked as the best.
    """
    if weights.num_heads == 0:
        raise UserError(
            f"{weights.path} is not a clustering model: it has no cluster head; give a scan or self-label model"
        )
    if weights.head is None and weights.num_heads > 1:
        raise UserError(
            f"{weights.path} has {weights.num_heads} cluster heads and does not say which is best; give the "
            "scan stage's model.pth.tar"
        )
    return weights.head or 0


def count_clusters(weights: Weights, dim: int) -> int:
    """Return the number of clusters of the heads on features of length `dim`.

    Raises UserError for weights without cluster heads, or with more, or other ones, than a model is built for.
    """
    best_head(weights)
    if weights.num_heads > MAX_HEADS:
        raise UserError(
            f"{weights.path} is refused: it has {weights.num_heads:,} cluster heads, at most {MAX_HEADS:,} are read"
        )
    bias = weights.state.get("cluster_head.0.bias")
    if bias is None or bias.ndim != 1:
        raise UserError(f"{weights.path} is not usable: it has no 'cluster_head.0.bias' to count its clusters by")
    for head in range(weights.num_heads):
        for name, shape in (("weight", (len(bias), dim)), ("bias", (len(bias),))):
            key = f"cluster_head.{head}.{name}"
            if key not in weights.state or tuple(weights.state[key].shape) != shape:
                found = _shape(weights.state[key]) if key in weights.state else "missing"
                wanted = "x".join(map(str, shape))
                raise UserError(
                    f"{weights.path} does not fit the cluster head: '{key}' is {found}, not {wanted}, which "
                    "its first head and the config's backbone ask for; give the config it was trained with"
                )
    return len(bias)


def keep_head(weights: Weights, head: int | None = None) -> Weights:
    """Return the weights with one cluster head only, as head 0: the best one, or the one given.

    Raises UserError when there is no such head.
    """
    head = best_head(weights) if head is None else head
    prefix = f"cluster_head.{head}."
    if not any(key.startswith(prefix) for key in weights.state):
        raise UserError(f"{weights.path} has {weights.num_heads} cluster heads, and none is number {head}")
    state = {
        key.replace(prefix, "cluster_head.0."): value
        for key, value in weights.state.items()
        if key.startswith(prefix) or not key.startswith("cluster_head.")
    }
    return replace(weights, state=state, head=0)


def load_parts(model: nn.Module, weights: Weights) -> None:
    """Load the backbone and the cluster heads of any kind; raises UserError unless both fit exactly."""
    load_backbone(model, weights)
    _load(model, weights, "cluster_head.", "the config next to the model says what its head is; keep both together")


def load_leave_out(model: ClusteringModel, weights: Weights) -> None:
    """Give a model what says which features belong in no cluster, where its file has it.

    Raises UserError unless it fits the model.
    """
    reference = weights.state.get("leave_out.reference")
    if reference is None:
        return
    if reference.ndim != 2 or reference.shape[1] != model.backbone_dim:
        raise UserError(
            f"{weights.path} is not usable: its 'leave_out.reference' is {_shape(reference)}, and the network gives "
            f"{model.backbone_dim} features; give the config it was trained with"
        )
    model.leave_out = LeaveOut(*reference.shape)
    _load(model, weights, "leave_out.", "cluster the images again")
    if not 1 <= int(model.leave_out.num_neighbors) <= len(reference):
        raise UserError(f"{weights.path} is not usable: its 'leave_out.num_neighbors' fits no {len(reference)} images")


def load_clusters(model: nn.Module, weights: Weights) -> int:
    """Load a whole ClusteringModel and return the index of its best head.

    Raises UserError unless backbone, number of heads and number of clusters fit.
    """
    head = best_head(weights)
    load_backbone(model, weights)
    expected = {key: value for key, value in model.state_dict().items() if key.startswith("cluster_head.")}
    num_heads = len(expected) // 2
    if num_heads != weights.num_heads:
        raise UserError(
            f"{weights.path} has {weights.num_heads} cluster heads, but num_heads is {num_heads}; "
            f"set num_heads={weights.num_heads}"
        )
    bias = "cluster_head.0.bias"
    if bias in weights.state and weights.state[bias].shape != expected[bias].shape:
        raise UserError(
            f"{weights.path} has {weights.state[bias].numel()} clusters, but num_classes is "
            f"{expected[bias].numel()}; set num_classes={weights.state[bias].numel()}, or give another model"
        )
    _load(model, weights, "cluster_head.", "set num_classes and num_heads as in training")
    return head
