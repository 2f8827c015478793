"""What a user of the published code brings along, made small here: data, and configs written out in full."""

import pickle

import numpy as np
import torch
import yaml

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
NORMALIZE = {"mean": MEAN, "std": STD}
CIFAR = {
    "backbone": "resnet18",
    "train_db_name": "cifar-10",
    "val_db_name": "cifar-10",
    "num_classes": 10,
    "transformation_kwargs": {"crop_size": 32, "normalize": NORMALIZE},
}
STRONG = {
    "augmentation_strategy": "ours",
    "augmentation_kwargs": {
        "crop_size": 32,
        "normalize": NORMALIZE,
        "num_strong_augs": 4,
        "cutout_kwargs": {"n_holes": 1, "length": 16, "random": True},
    },
}
ADAM = {
    "optimizer": "adam",
    "optimizer_kwargs": {"lr": 0.0001, "weight_decay": 0.0001},
    "scheduler": "constant",
    "num_workers": 8,
}
SIMCLR = {
    "setup": "simclr",
    **CIFAR,
    "model_kwargs": {"head": "mlp", "features_dim": 128},
    "criterion": "simclr",
    "criterion_kwargs": {"temperature": 0.1},
    "epochs": 500,
    "optimizer": "sgd",
    "optimizer_kwargs": {"nesterov": False, "weight_decay": 0.0001, "momentum": 0.9, "lr": 0.4},
    "scheduler": "cosine",
    "scheduler_kwargs": {"lr_decay_rate": 0.1},
    "batch_size": 512,
    "num_workers": 8,
    "augmentation_strategy": "simclr",
    "augmentation_kwargs": {
        "random_resized_crop": {"size": 32, "scale": [0.2, 1.0]},
        "color_jitter_random_apply": {"p": 0.8},
        "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        "random_grayscale": {"p": 0.2},
        "normalize": NORMALIZE,
    },
}
SCAN = {
    "setup": "scan",
    **CIFAR,
    **STRONG,
    **ADAM,
    "criterion": "scan",
    "criterion_kwargs": {"entropy_weight": 5.0},
    "update_cluster_head_only": False,
    "num_heads": 1,
    "num_neighbors": 20,
    "epochs": 50,
    "batch_size": 128,
}
SELFLABEL = {
    "setup": "selflabel",
    **CIFAR,
    **STRONG,
    **ADAM,
    "criterion": "confidence-cross-entropy",
    "criterion_kwargs": {"apply_class_balancing": True},
    "confidence_threshold": 0.99,
    "use_ema": False,
    "num_heads": 1,
    "epochs": 200,
    "batch_size": 1000,
}
MOCO = {
    "setup": "moco",
    **CIFAR,
    "model_kwargs": {"head": "mlp", "features_dim": 128},
    "temperature": 0.07,
}


def write_cifar10(root, num_train=60, num_val=30, splits=("train", "val"), seed=0):
    """CIFAR-10 as torchvision lays it out, with few images; returns each split's images and labels."""
    random = np.random.default_rng(seed)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    batches = {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]}
    sizes = {"train": num_train // 5, "val": num_val}
    content = {}
    for split in splits:
        images, labels = [], []
        for batch in batches[split]:
            data = random.integers(0, 256, (sizes[split], 3072), dtype=np.uint8)
            targets = random.integers(0, 10, sizes[split]).tolist()
            (folder / batch).write_bytes(pickle.dumps({"data": data, "labels": targets}, protocol=2))
            images.append(data.reshape(-1, 3, 32, 32))
            labels += targets
        content[split] = np.concatenate(images), np.array(labels)
    return content


def write_env(root, **more):
    """An env.yml whose results and data sets are in a directory."""
    path = root / "env.yml"
    path.write_text(yaml.safe_dump({"root_dir": str(root / "results"), "data_root": str(root / "data"), **more}))
    return str(path)


def write_config(root, content, **changes):
    """A config written out in full; None leaves a key out."""
    path = root / f"{content['setup']}.yml"
    path.write_text(yaml.safe_dump({key: v for key, v in (content | changes).items() if v is not None}))
    return str(path)


def load(path):
    """A model file as the published code loads it."""
    return torch.load(path, map_location="cpu")


def normalized(images):
    """The evaluation transform, by hand: uint8 [N, 3, 32, 32] to float32."""
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    return torch.from_numpy(((images / 255 - mean) / std).astype(np.float32))


@torch.no_grad()
def outputs(module, images):
    """What a module in eval mode says of images."""
    return module.eval()(normalized(images))


def nearest(features, k):
    """Brute force: each row, then its neighbors by falling similarity, ties by index."""
    similarity = cosine(features)
    rows = []
    for i, row in enumerate(similarity):
        others = sorted((j for j in range(len(row)) if j != i), key=lambda j, row=row: (-row[j], j))
        rows.append([i, *others[:k]])
    return np.array(rows)


def cosine(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


def assert_nearest(indices, features, k):
    """Neighbors are the nearest, in order, but for the last digits in which features of two devices differ."""
    assert (indices.dtype, indices.shape) == (np.int64, (len(features), k + 1))
    assert indices[:, 0].tolist() == list(range(len(features)))
    assert all(len(set(row)) == k + 1 for row in indices.tolist())
    similarity = cosine(features)
    best = np.take_along_axis(similarity, nearest(features, k), 1)
    np.testing.assert_allclose(np.take_along_axis(similarity, indices, 1), best, atol=1e-5)
