import collections
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from models import build_backbone
from models.loading import best_head, keep_head, load_backbone, load_clusters, load_contrastive
from models.models import ClusteringModel, ContrastiveModel
from models.weights import read_weights
from system.errors import UserError
from system.files import write_file


def small(width=4):
    return build_backbone("resnet8", "cifar", width=width)


def contrastive(width=4, seed=1, **options):
    torch.manual_seed(seed)
    return ContrastiveModel(small(width), **{"features_dim": 6, **options})


def clustering(nclusters=5, nheads=1, width=4, seed=2):
    torch.manual_seed(seed)
    return ClusteringModel(small(width), nclusters, nheads)


def with_prefix(prefix, state):
    return collections.OrderedDict((prefix + key, value) for key, value in state.items())


def save(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def same(state, other):
    return list(state) == list(other) and all(torch.equal(state[key], other[key]) for key in state)


def message(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    return str(error.value)


both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


# The published forms


@both_formats
def test_a_bare_state_dict(tmp_path, zipped):
    source = contrastive()
    weights = read_weights(save(tmp_path / "model.pth.tar", source.state_dict(), zipped))
    assert same(weights.state, source.state_dict())
    assert weights.head is None
    target = contrastive(seed=3)
    load_contrastive(target, weights)
    assert same(target.state_dict(), source.state_dict())


@both_formats
@pytest.mark.parametrize("head", [2, np.int64(2), torch.tensor(2)], ids=["int", "numpy", "tensor"])
def test_a_scan_model_and_its_head(tmp_path, zipped, head):
    source, target = clustering(nheads=3), clustering(nheads=3, seed=4)
    content = {"model": source.state_dict(), "head": head}
    weights = read_weights(save(tmp_path / "model.pth.tar", content, zipped))
    assert load_clusters(target, weights) == 2
    assert type(weights.head) is int
    assert same(target.state_dict(), source.state_dict())


def resumable(model, optimizer, **more):
    return {"optimizer": optimizer.state_dict(), "model": with_prefix("module.", model.state_dict()), **more}


@both_formats
def test_a_resumable_checkpoint_with_numpy_scalars(tmp_path, zipped):
    source, target = clustering(nheads=2), clustering(nheads=2, seed=4)
    optimizer = torch.optim.Adam(source.parameters(), lr=1e-4)
    sum(x.sum() for x in source(torch.randn(2, 3, 8, 8))).backward()
    optimizer.step()
    content = resumable(source, optimizer, epoch=np.int32(7), best_loss=np.float32(-1.5), best_loss_head=np.int64(1))
    weights = read_weights(save(tmp_path / "checkpoint.pth.tar", content, zipped))
    assert load_clusters(target, weights) == 1
    assert same(target.state_dict(), source.state_dict())


def test_the_average_in_a_checkpoint_is_its_model(tmp_path):
    trained, average = clustering(), clustering(seed=4)
    content = {"model": trained.state_dict(), "average": average.state_dict(), "epoch": 3}
    assert same(read_weights(save(tmp_path / "checkpoint.pth.tar", content, True)).state, average.state_dict())


@both_formats
def test_a_resumable_pretext_checkpoint(tmp_path, zipped):
    source, target = contrastive(), contrastive(seed=4)
    optimizer = torch.optim.SGD(source.parameters(), lr=0.4)
    content = {"optimizer": optimizer.state_dict(), "model": source.state_dict(), "epoch": 3}
    load_contrastive(target, read_weights(save(tmp_path / "checkpoint.pth.tar", content, zipped)))
    assert same(target.state_dict(), source.state_dict())


def moco(layers):
    """The keys and layout of MoCo's releases, around a small backbone."""
    backbone = small()["backbone"].state_dict()
    query = {**backbone, **with_prefix("fc.", layers.state_dict())}
    state = {
        **with_prefix("module.encoder_q.", query),
        **with_prefix("module.encoder_k.", {key: value * 0 for key, value in query.items()}),
        "module.queue": torch.randn(6, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }  # fmt: skip
    return backbone, {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}


@both_formats
@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_mocos_releases(tmp_path, zipped, head):
    layers = nn.Linear(16, 6)
    if head == "mlp":
        layers = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 6))
    backbone, content = moco(layers)
    target = contrastive(head=head)
    weights = read_weights(save(tmp_path / "moco_v2_800ep_pretrain.pth.tar", content, zipped))
    assert all(key.startswith(("backbone.", "contrastive_head.")) for key in weights.state)
    load_contrastive(target, weights)
    assert same(target.backbone.state_dict(), backbone)
    assert same(target.contrastive_head.state_dict(), layers.state_dict())


@pytest.mark.parametrize("form", ["plain", "module", "compiled", "both", "state_dict", "classifier", "no counts"])
def test_a_plain_backbone_that_fits_completely(tmp_path, form):
    source = small()["backbone"].state_dict()
    content = {
        "plain": source,
        "module": with_prefix("module.", source),
        "compiled": with_prefix("_orig_mod.", source),
        "both": with_prefix("_orig_mod.module.", source),
        "state_dict": {"state_dict": source, "epoch": 1},
        "classifier": {**source, "fc.weight": torch.zeros(9, 16), "fc.bias": torch.zeros(9)},
        "no counts": {key: value for key, value in source.items() if "num_batches" not in key},
    }[form]
    target = clustering()
    load_backbone(target, read_weights(save(tmp_path / "resnet.pth", content)))
    assert same(target.backbone.state_dict(), source)


def old_numpy(data):
    """A pickle's bytes with the module path that numpy had before version 2, lengths being no part of it."""
    assert b"numpy._core.multiarray" in data
    return data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@both_formats
def test_scalars_under_the_module_path_of_old_numpy(tmp_path, zipped):
    source, target = clustering(nheads=2), clustering(nheads=2, seed=4)
    content = {"model": source.state_dict(), "best_loss_head": np.int64(1), "best_loss": np.float64(-3.25)}
    path = save(tmp_path / "checkpoint.pth.tar", content, zipped)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, old_numpy(data) if name.endswith("data.pkl") else data)
    else:
        path.write_bytes(old_numpy(path.read_bytes()))
    assert load_clusters(target, read_weights(path)) == 1
    assert same(target.state_dict(), source.state_dict())


@pytest.mark.parametrize("head", [
    np.int8(1), np.uint8(1), np.int16(1), np.uint32(1), np.array(1, ">i4")[()], np.array(1, ">u8")[()],
])  # fmt: skip
def test_numpy_integers_of_any_width_and_byte_order(tmp_path, head):
    content = {"model": clustering(nheads=2).state_dict(), "head": head, "best_loss": np.float16(1)}
    assert read_weights(save(tmp_path / "model.pth.tar", content)).head == 1


def test_loading_one_part_leaves_the_others(tmp_path):
    source, target = contrastive(), clustering(nheads=2)
    before = {key: value.clone() for key, value in target.cluster_head.state_dict().items()}
    load_backbone(target, read_weights(save(tmp_path / "model.pth.tar", source.state_dict())))
    assert same(target.backbone.state_dict(), source.backbone.state_dict())
    assert same(target.cluster_head.state_dict(), before)


def test_self_labeling_keeps_the_best_head_as_head_0(tmp_path):
    source = clustering(nheads=12)
    content = {"model": source.state_dict(), "head": 1}  # next to heads 10 and 11, whose numbers begin alike
    weights = read_weights(save(tmp_path / "model.pth.tar", content))
    for kept, number in ((keep_head(weights), 1), (keep_head(weights, 11), 11)):
        target = clustering(seed=4)
        assert load_clusters(target, kept) == 0
        assert same(target.cluster_head[0].state_dict(), source.cluster_head[number].state_dict())
        assert same(target.backbone.state_dict(), source.backbone.state_dict())
    assert "12 cluster heads, and none is number 12" in message(keep_head, weights, 12)


def test_a_self_label_model_has_one_head_and_need_not_say_which(tmp_path):
    weights = read_weights(save(tmp_path / "model.pth.tar", clustering().state_dict()))
    assert best_head(weights) == 0


def test_files_without_a_record_load_with_a_word(tmp_path, capsys):
    state = contrastive().state_dict()
    assert not read_weights(save(tmp_path / "published.pth.tar", state)).facts
    assert "published.pth.tar has no recorded checksum" in capsys.readouterr().out
    write_file(tmp_path / "own.pth.tar", lambda file: torch.save(state, file), stage="pretext")
    weights = read_weights(tmp_path / "own.pth.tar")
    assert weights.facts
    assert weights.facts == {"stage": "pretext"}
    assert same(weights.state, state)
    assert capsys.readouterr().out == ""


def test_reading_leaves_no_permission_behind(tmp_path):
    path = save(tmp_path / "model.pth.tar", {"model": clustering().state_dict(), "head": np.int64(0)})
    read_weights(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


# Files that do not fit


def test_another_backbone(tmp_path):
    weights = read_weights(
        save(tmp_path / "model.pth.tar", build_backbone("resnet18", "imagenet")["backbone"].state_dict())
    )
    text = message(load_backbone, clustering(width=64), weights)
    assert "model.pth.tar does not fit the backbone" in text
    # two shortcuts of a convolution and a BatchNorm, whose counts of batches are not demanded
    assert "10 missing (backbone.layer2.0.shortcut.0.weight, " in text
    assert "unexpected (backbone.layer1.1.conv1.weight, " in text
    assert "1 of another shape (backbone.conv1.weight is 64x3x7x7 in the file and 64x3x3x3 here)" in text
    assert "choose the backbone and stem" in text


def test_another_width_names_the_shapes(tmp_path):
    weights = read_weights(save(tmp_path / "model.pth.tar", contrastive(width=8).state_dict()))
    text = message(load_contrastive, contrastive(), weights)
    assert "backbone.conv1.weight is 8x3x3x3 in the file and 4x3x3x3 here" in text
    assert "missing" not in text


@pytest.mark.parametrize("change", ["missing", "unexpected", "foreign"])
def test_one_key_too_few_or_too_many(tmp_path, change):
    state = contrastive().state_dict()
    if change == "missing":
        del state["backbone.bn1.running_var"]
    key = {"unexpected": "backbone.extra", "foreign": "something.else"}.get(change, "backbone.bn1.running_var")
    if change != "missing":
        state[key] = torch.zeros(1)
    target = contrastive(seed=5)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    text = message(load_backbone, target, read_weights(save(tmp_path / "model.pth.tar", state)))
    assert f"1 {change.replace('foreign', 'unexpected')} ({key})" in text
    assert same(target.state_dict(), before)


def test_a_model_of_another_stage(tmp_path):
    pretext = read_weights(save(tmp_path / "pretext.pth.tar", contrastive().state_dict()))
    scan = read_weights(save(tmp_path / "scan.pth.tar", {"model": clustering().state_dict(), "head": 0}))
    for call in ((load_clusters, clustering(), pretext), (keep_head, pretext)):
        assert "pretext.pth.tar is not a clustering model: it has no cluster head" in message(*call)
    assert "scan.pth.tar is not a pretext model: it has no contrastive" in message(
        load_contrastive, contrastive(), scan
    )


def test_clusters_and_heads_that_differ_from_the_config(tmp_path):
    content = {"model": clustering(nclusters=5, nheads=3).state_dict(), "head": 1}
    weights = read_weights(save(tmp_path / "model.pth.tar", content))
    assert "3 cluster heads, but num_heads is 1; set num_heads=3" in message(load_clusters, clustering(), weights)
    assert "5 clusters, but num_classes is 7; set num_classes=5" in message(
        load_clusters, clustering(nclusters=7, nheads=3), weights
    )
    bare = read_weights(save(tmp_path / "bare.pth.tar", content["model"]))
    assert "does not say which is best" in message(load_clusters, clustering(nheads=3), bare)


def test_another_contrastive_head(tmp_path):
    weights = read_weights(save(tmp_path / "model.pth.tar", contrastive().state_dict()))
    assert "features_dim in model_kwargs" in message(load_contrastive, contrastive(features_dim=8), weights)
    assert "missing (contrastive_head.weight" in message(load_contrastive, contrastive(head="linear"), weights)


# Files that are damaged, foreign or hostile


def test_a_file_that_is_not_there_or_empty(tmp_path):
    assert "none.pth.tar does not exist" in message(read_weights, tmp_path / "none.pth.tar")
    assert f"is a folder; give a model file in it, such as {tmp_path}/model.pth.tar" in message(read_weights, tmp_path)
    (tmp_path / "empty.pth.tar").touch()
    assert "empty.pth.tar is empty" in message(read_weights, tmp_path / "empty.pth.tar")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "model.pth.tar", contrastive().state_dict())
    monkeypatch.setattr(torch, "load", refuse)
    assert "cannot be read: Permission denied" in message(read_weights, path)


@both_formats
def test_truncation_anywhere_is_noticed(tmp_path, zipped):
    data = save(tmp_path / "whole.pth.tar", contrastive().state_dict(), zipped).read_bytes()
    path = tmp_path / "cut.pth.tar"
    for tenth in range(10):
        path.write_bytes(data[: max(2, len(data) * tenth // 10)])
        assert "cut.pth.tar is truncated or damaged" in message(read_weights, path)


def test_flipped_bits_of_a_published_file_are_noticed(tmp_path):
    source = contrastive().state_dict()
    path = save(tmp_path / "model.pth.tar", source)
    data = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(data), size=40):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            weights = read_weights(path)
        except UserError:
            continue
        assert same(weights.state, source)  # a bit that no reader looks at: padding, a time


def test_flipped_bits_of_an_own_file_are_an_error(tmp_path):
    path = tmp_path / "model.pth.tar"
    write_file(path, lambda file: torch.save(contrastive().state_dict(), file))
    data = path.read_bytes()
    path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    assert "damaged or replaced" in message(read_weights, path)


@pytest.mark.parametrize(("content", "words"), [
    ([1, 2], "holds a list"), (torch.zeros(3), "holds a Tensor"), ({}, "holds no weights"),
    ({"model": {}}, "holds no weights"), ({"backbone.a": 3}, "its entry 'backbone.a' is of type int"),
    ({"model": {4: torch.zeros(1)}}, "its entry '4' has no text as its name"),
    ({"a": torch.zeros(2, dtype=torch.complex64)}, "complex64"), ({"a": torch.eye(2).to_sparse()}, "sparse"),
    ({"a": torch.zeros(2, device="meta")}, "on meta"),
])  # fmt: skip
def test_contents_that_are_no_weights(tmp_path, content, words):
    assert words in message(read_weights, save(tmp_path / "x.pth.tar", content))


@pytest.mark.parametrize("head", [3, -1, 1.0, "1", True, np.float32(1)])
def test_a_head_that_cannot_be(tmp_path, head):
    content = {"model": clustering(nheads=2).state_dict(), "head": head}
    assert "is not usable: its " in message(read_weights, save(tmp_path / "model.pth.tar", content))


def test_values_that_are_not_finite(tmp_path):
    state = contrastive().state_dict()
    state["backbone.layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    weights = read_weights(save(tmp_path / "model.pth.tar", state))
    assert "'backbone.layer2.0.conv1.weight' holds values that are not finite" in message(
        load_backbone, contrastive(), weights
    )


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"\x93NUMPY\x01\x00", b"\x1f\x8b\x08\x00", bytes(600)])
def test_other_kinds_of_files(tmp_path, content):
    path = tmp_path / "model.pth.tar"
    path.write_bytes(content)
    assert "is not a PyTorch checkpoint" in message(read_weights, path)


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


def evil_open(target):
    return Hostile(open, str(target), "w")


def evil_eval(target):
    return Hostile(eval, f"open({str(target)!r}, 'w')")


def evil_numpy(target):
    return Hostile(np.testing._private.utils.runstring, f"open({str(target)!r}, 'w')", {})


@both_formats
@pytest.mark.parametrize("build", [evil_open, evil_eval, evil_numpy])
def test_a_malicious_pickle_executes_nothing(tmp_path, zipped, build):
    target = tmp_path / "executed"
    for content in (build(target), {"model": clustering().state_dict(), "head": build(target)}):
        path = save(tmp_path / "model.pth.tar", content, zipped)
        assert "model.pth.tar is refused: it asks for '" in message(read_weights, path)
        assert not target.exists()
    torch.load(path, weights_only=False)  # the file is as hostile as it should be
    assert target.exists()


def test_a_plain_pickle_executes_nothing(tmp_path):
    path, target = tmp_path / "model.pth.tar", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"model": evil_open(target)}))
    message(read_weights, path)
    assert not target.exists()


@pytest.mark.parametrize("kind", ["O", "V8", "S8", "M8"])
def test_numpy_types_that_are_no_numbers_are_refused(tmp_path, kind):
    scalar = Hostile(np._core.multiarray.scalar, np.dtype(kind), b"12345678")
    path = save(tmp_path / "model.pth.tar", {"model": clustering().state_dict(), "head": scalar})
    message(read_weights, path)


def test_a_structured_numpy_type_is_refused(tmp_path):
    """A structured type with an object inside would make eight bytes of the file a pointer."""
    scalar = Hostile(np._core.multiarray.scalar, np.dtype([("a", "O")]), b"12345678")
    buffer = io.BytesIO()
    torch.save({"model": clustering().state_dict(), "head": scalar}, buffer)
    (tmp_path / "model.pth.tar").write_bytes(buffer.getvalue())
    message(read_weights, tmp_path / "model.pth.tar")
