"""Published walk-throughs as their users have them: config, data, DataLoader, model, embed, cluster, predict."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.utils.data import DataLoader

from clustering.scores import score
from models.models import ClusteringModel, ContrastiveModel
from models.resnet_cifar import resnet18
from tests import published
from training.schedule import learning_rate
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_train_dataloader,
    get_train_dataset,
    get_train_transformations,
    get_val_dataloader,
    get_val_dataset,
    get_val_transformations,
)  # fmt: skip
from utils.config import create_config


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A directory with CIFAR-10 in small and published configs; images and labels by split."""
    root = tmp_path_factory.mktemp("site")
    content = published.write_cifar10(root / "data")
    published.write_env(root)
    return root, content


def config_of(root, content=published.SIMCLR, **changes):
    return create_config(str(root / "env.yml"), published.write_config(root, content, **changes))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pretext_model_embeds_images_that_k_means_clusters(site, num_workers):
    root, content = site
    p = config_of(root)
    torch.manual_seed(0)
    trained = ContrastiveModel(resnet18())
    torch.save(trained.state_dict(), p.pretext_model)

    dataset = get_val_dataset(p, get_val_transformations(p))
    loader = DataLoader(dataset, batch_size=8, num_workers=num_workers)
    model = ContrastiveModel(resnet18())
    model.load_state_dict(torch.load(p.pretext_model, map_location="cpu"))
    model.contrastive_head = nn.Identity()
    model.eval()
    with torch.no_grad():
        batches = [(model(batch["image"]), batch["target"], batch["meta"]["index"]) for batch in loader]
    features, targets, indices = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))

    images, labels = content["val"]
    assert features.shape == (30, 512)
    assert indices.tolist() == list(range(30))
    assert targets.tolist() == labels.tolist()
    expected = published.outputs(trained.backbone, images).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert len(set(KMeans(10, n_init=1, random_state=0).fit_predict(features))) == 10


def test_a_clustering_model_predicts_and_its_clusters_are_mapped(site):
    root, content = site
    p = config_of(root, published.SCAN, num_heads=3, num_workers=0)
    torch.manual_seed(1)
    trained = ClusteringModel(resnet18(), p.num_classes, p.num_heads)
    torch.save({"model": trained.state_dict(), "head": np.int64(2)}, p.scan_model)

    checkpoint = torch.load(p.scan_model, map_location="cpu", weights_only=False)
    model = get_model(p)
    model.load_state_dict(checkpoint["model"])
    model.eval()
    loader = get_val_dataloader(p, get_val_dataset(p, get_val_transformations(p)))
    with torch.no_grad():
        heads = [torch.cat(outs) for outs in zip(*(model(batch["image"]) for batch in loader), strict=True)]
    assert len(heads) == 3
    logits = heads[checkpoint["head"]]
    images, labels = content["val"]
    torch.testing.assert_close(logits, published.outputs(trained, images)[2], atol=1e-4, rtol=1e-4)

    scores = score(logits.softmax(1), torch.from_numpy(labels), 10)
    class_of = dict(scores["matching"])
    assert sorted(class_of) == sorted(class_of.values()) == list(range(10))
    hits = [class_of[cluster] == label for cluster, label in zip(logits.argmax(1).tolist(), labels, strict=True)]
    assert scores["acc"] == pytest.approx(np.mean(hits))


def test_models_start_from_the_stage_before(site):
    root, _ = site
    p = config_of(root)
    torch.manual_seed(2)
    pretext = ContrastiveModel(resnet18())
    torch.save(pretext.state_dict(), p.pretext_model)
    started = get_model(config_of(root, published.SCAN), p.pretext_model)
    assert all(value.equal(pretext.backbone.state_dict()[key]) for key, value in started.backbone.state_dict().items())

    scanned = ClusteringModel(resnet18(), 10, 4)
    torch.save({"model": scanned.state_dict(), "head": 3}, p.scan_model)
    refined = get_model(config_of(root, published.SELFLABEL, num_heads=4), p.scan_model)
    assert len(refined.cluster_head) == 1
    assert refined.cluster_head[0].weight.equal(scanned.cluster_head[3].weight)
    assert refined.backbone.conv1.weight.equal(scanned.backbone.conv1.weight)


def test_a_config_touches_no_data_and_may_be_changed(tmp_path):
    published.write_env(tmp_path, data_root="/nowhere/at/all")
    p = config_of(tmp_path, published.SCAN)
    folder = tmp_path / "results" / "cifar-10"
    for stage in ("pretext", "scan", "selflabel"):
        assert p[f"{stage}_dir"] == str(folder / stage)
        assert p[f"{stage}_checkpoint"] == str(folder / stage / "checkpoint.pth.tar")
        assert p[f"{stage}_model"] == str(folder / stage / "model.pth.tar")
    p.num_heads = 2
    p.num_classes = 7
    p["optimizer_kwargs"]["lr"] = 0.5
    p.own = {"key": 1}
    model = get_model(p)
    assert [tuple(head.weight.shape) for head in model.cluster_head] == [(7, 512)] * 2
    (group,) = get_optimizer(p, model).param_groups
    assert (group["lr"], group["weight_decay"], p.own.key) == (0.5, 1e-4, 1)


def test_items_are_as_published(site):
    root, content = site
    p = config_of(root)
    images, labels = content["train"]
    item = get_train_dataset(p, None)[17]
    assert sorted(item) == ["image", "meta", "target"]
    assert item["image"].dtype == torch.uint8
    assert item["image"].numpy().tolist() == images[17].tolist()
    assert item["target"] == labels[17]
    assert item["meta"]["index"] == 17
    assert tuple(item["meta"]["im_size"]) == (32, 32)
    assert item["meta"]["class_name"] == get_train_dataset(p, None, split="train+unlabeled").classes[labels[17]]
    transformed = get_val_dataset(p, get_val_transformations(p))[3]["image"]
    torch.testing.assert_close(transformed, published.normalized(content["val"][0])[3])


def test_dataloaders_train_shuffled_and_whole_batches_only(site):
    root, _ = site
    p = config_of(root, batch_size=16, num_workers=0)
    dataset = get_train_dataset(p, get_train_transformations(p))
    batches = [batch["meta"]["index"].tolist() for batch in get_train_dataloader(p, dataset)]
    assert [len(batch) for batch in batches] == [16, 16, 16]
    order = list(itertools.chain(*batches))
    assert order != sorted(order)
    batches = [batch["meta"]["index"].tolist() for batch in get_val_dataloader(p, get_val_dataset(p))]
    assert list(itertools.chain(*batches)) == list(range(30))


@pytest.mark.parametrize("content", [published.SIMCLR, published.SCAN], ids=lambda content: content["setup"])
def test_transforms_take_one_image_or_a_batch(site, content):
    root, data = site
    p = config_of(root, content)
    images = torch.from_numpy(data["train"][0][:12])
    for transform in (get_train_transformations(p), get_val_transformations(p)):
        assert transform(images).shape == (12, 3, 32, 32)
        one = transform(images[0])
        assert one.shape == (3, 32, 32)
        assert one.dtype == torch.float32
    views = get_train_transformations(p)(images[:1].expand(12, -1, -1, -1).contiguous())
    assert len({view.numpy().tobytes() for view in views}) == 12  # every image has its own draws
    torch.testing.assert_close(get_val_transformations(p)(images), published.normalized(images.numpy()))


def test_the_evaluation_transform_cuts_the_middle():
    p = {"transformation_kwargs": {"crop_size": 4, "normalize": published.NORMALIZE}}
    image = torch.arange(3 * 9 * 6).view(3, 9, 6).to(torch.uint8)
    cut = image[:, 2:6, 1:5].numpy()  # (9 - 4) / 2 rounds to 2
    torch.testing.assert_close(get_val_transformations(p)(image), published.normalized(cut[None])[0])


def test_criteria_need_their_own_keys_only():
    torch.manual_seed(3)
    features = nn.functional.normalize(torch.randn(5, 2, 8, dtype=torch.float64), dim=2)
    loss = get_criterion({"criterion": "simclr", "criterion_kwargs": {"temperature": 0.2}})(features)
    flat = torch.cat(features.unbind(1)).numpy()
    similarity = np.exp(flat @ flat.T / 0.2)
    losses = [-math.log(similarity[i, 5 + i] / (similarity[i].sum() - similarity[i, i])) for i in range(5)]
    assert loss.shape == ()
    assert loss.item() == pytest.approx(np.mean(losses))

    anchors, neighbors = torch.randn(2, 6, 4, dtype=torch.float64)
    total, consistency, entropy = get_criterion({"criterion": "scan", "criterion_kwargs": {}})(anchors, neighbors)
    p, q = anchors.softmax(1).numpy(), neighbors.softmax(1).numpy()
    mean = p.mean(0)
    assert consistency.item() == pytest.approx(-np.mean(np.log((p * q).sum(1))))
    assert entropy.item() == pytest.approx(-(mean * np.log(mean)).sum())
    assert total.item() == pytest.approx(consistency.item() - 2 * entropy.item())

    given = {"criterion": "confidence-cross-entropy", "criterion_kwargs": {"apply_class_balancing": True}}
    weak, strong = 3 * torch.randn(2, 40, 4, dtype=torch.float64)
    loss = get_criterion({**given, "confidence_threshold": 0.8})(weak, strong)
    best, target = weak.softmax(1).max(1)
    sure = best > 0.8
    counts = torch.bincount(target[sure], minlength=4)
    weight = torch.where(counts > 0, counts.sum() / counts.clamp(min=1), 1.0).double()
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(strong[sure], target[sure], weight=weight).item())


def test_optimizers_take_plain_dicts_and_step_as_pytorchs():
    for name, kwargs, make in (
        ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01}, torch.optim.SGD),
        ("adam", {"lr": 0.01, "weight_decay": 0.1}, torch.optim.Adam),
    ):
        torch.manual_seed(4)
        ours, theirs = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
        theirs.load_state_dict(ours.state_dict())
        optimizers = (
            get_optimizer({"optimizer": name, "optimizer_kwargs": kwargs}, ours),
            make(theirs.parameters(), **kwargs),
        )
        assert len(optimizers[0].param_groups) == 1
        for step in range(3):
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
            for model, optimizer in zip((ours, theirs), optimizers, strict=True):
                optimizer.zero_grad()
                model(x).square().sum().backward()
                optimizer.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_head_only_freezes_the_backbone():
    model = ClusteringModel(resnet18(width=2), 10, 3)
    p = {"optimizer": "sgd", "optimizer_kwargs": {"lr": 5.0}, "update_cluster_head_only": True}
    optimizer = get_optimizer(p, model)
    (group,) = optimizer.param_groups
    assert {id(parameter) for parameter in group["params"]} == {id(x) for x in model.cluster_head.parameters()}
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_head_only_is_scans_alone():
    model = ClusteringModel(resnet18(width=2), 10)
    p = {"setup": "selflabel", "optimizer": "sgd", "optimizer_kwargs": {"lr": 5.0}, "update_cluster_head_only": True}
    (group,) = get_optimizer(p, model).param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    (group,) = get_optimizer(p, model, True).param_groups  # as published scripts call it
    assert {id(parameter) for parameter in group["params"]} == {id(x) for x in model.cluster_head.parameters()}


def test_schedules_by_hand():
    lowest = 0.4 * 0.1**3
    for epoch in (0, 1, 250, 499):
        expected = lowest + (0.4 - lowest) * (1 + math.cos(math.pi * epoch / 500)) / 2
        assert learning_rate("cosine", 0.4, epoch, 500, lr_decay_rate=0.1) == pytest.approx(expected)
    steps = [learning_rate("step", 1.0, e, 8, lr_decay_epochs=[2, 5], lr_decay_rate=0.1) for e in range(8)]
    assert steps == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert learning_rate("constant", 0.3, 7, 8) == 0.3


def test_splits_matter_to_stl10_only(tmp_path):
    folder = tmp_path / "data" / "stl10_binary"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    sizes = {"train": 12, "unlabeled": 9, "test": 5}
    for part, num in sizes.items():
        random.integers(0, 256, num * 3 * 96 * 96, dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(num, dtype=np.uint8) % 10 + 1).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("airplane bird car cat deer dog horse monkey ship truck")
    published.write_env(tmp_path)
    normalize = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    names = {"train_db_name": "stl-10", "val_db_name": "stl-10"}
    p = config_of(tmp_path, transformation_kwargs={"crop_size": 96, "normalize": normalize}, **names)
    both = get_train_dataset(p, None, "train+unlabeled")
    assert len(both) == 21
    assert (both[20]["target"], both[20]["meta"]["class_name"]) == (-1, "unlabeled")
    train = get_train_dataset(p, None)
    assert (len(train), len(get_val_dataset(p))) == (12, 5)
    assert both[11]["image"].equal(train[11]["image"])
    # The files hold columns: the second byte of a channel is the pixel below the first.
    data = np.fromfile(folder / "train_X.bin", dtype=np.uint8).reshape(12, 3, 96, 96)
    assert train[3]["image"][1, 7, 40] == data[3, 1, 40, 7]
    with torch.no_grad():
        assert get_model(p)(get_val_transformations(p)(train[0]["image"])[None]).shape == (1, 128)
