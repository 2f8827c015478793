"""Streamed and cached images, and ImageNet's class folders, on a few small files."""

import json
import os
import resource
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from data import DATASETS
from data.files.decode import frame_size, read_square
from data.folder import reading
from system.errors import UserError

build = DATASETS["folder"]


def picture(width, height, seed=0):
    rows, columns = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [127 + 120 * np.sin(4 * (rows * a + columns * b) + seed) for a, b in ((1, 2), (2, -1), (-1, 1))]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def pixels(image):
    return np.asarray(image).transpose(2, 0, 1)


def distance(image, reference):
    return np.abs(np.asarray(image).astype(int) - np.asarray(reference).astype(int)).max()


SIZES = [(60, 40), (40, 60), (33, 33), (90, 20), (47, 31), (200, 160)]


@pytest.fixture
def root(tmp_path):
    for number, size in enumerate(SIZES):
        save(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", picture(*size, number))
    return tmp_path / "images"


@pytest.fixture
def stream(root):
    return build(root, "train", 28, stream=True)


def size_of(dataset, index):
    return SIZES[int(dataset.paths[index][2])]


# --- streaming


def test_stream_has_what_a_dataset_has(stream, root):
    memory = build(root, "train", 28)
    assert stream.images is None
    assert stream.resize == 32  # 28 / 0.875
    assert (stream.paths, stream.classes, stream.root) == (memory.paths, memory.classes, memory.root)
    assert stream.targets.equal(memory.targets)
    assert stream.has_labels
    assert len(stream) == stream.num_classes * 3 == 6


def test_stream_is_automatic_above_eight_gigabytes():
    """3,401,360 images of 28 x 28 take 7,999,998,720 bytes. A streamed one's short side is 28 / 0.875."""
    assert reading(3_401_360, 28, None, "auto") == (28, False)
    assert reading(3_401_361, 28, None, "auto") == (32, True)
    assert reading(3_401_361, 28, None, False) == (28, False)
    assert reading(3_401_360, 28, 30, "auto") == (30, True)
    assert reading(6, 28, None, True) == (32, True)


@pytest.mark.parametrize(("size", "most"), [((800, 600), 0), ((1600, 1200), 2.0)])
def test_a_large_jpeg_is_resized_as_torchvision_does(tmp_path, size, most):
    """Up to four times the wanted side exactly; beyond, where it is decoded at a half, within two levels of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        expected = pixels(transforms.Resize(256)(image.convert("RGB")))
    found = build(tmp_path, "train", 224, resize=256, stream=True).image(0).numpy()
    assert found.shape == (3, 256, 341)
    assert np.abs(found.astype(float) - expected).mean() <= most


def test_items_are_whole_frames(stream):
    for index in range(len(stream)):
        width, height = size_of(stream, index)
        frame = frame_size(height, width, 32)
        item = stream[index]
        assert item["meta"] == {"index": index, "class_name": stream.classes[item["target"]], "im_size": frame}
        image = picture(width, height, int(stream.paths[index][2])).resize(frame[::-1], Image.BILINEAR)
        assert distance(item["image"], pixels(image)) == 0
    stream.transform = lambda image: image[:, :8, :8].float()
    batches = list(DataLoader(stream, batch_size=4, num_workers=2))
    assert torch.cat([batch["image"] for batch in batches]).shape == (6, 3, 8, 8)
    assert batches[1]["meta"]["index"].tolist() == [4, 5]


def test_decode_equals_resize_then_crop_then_resize(tmp_path):
    """One step against three, where the three lose nothing: the frame has the file's size, or the crop its own."""
    image = picture(48, 32)
    save(tmp_path / "a.png", image)
    dataset = build(tmp_path, "train", 28, stream=True, resize=32)
    boxes = [(0, 0, 32, 48), (3, 5, 20, 30), (10, 20, 7, 9), (31, 47, 1, 1)]
    told = []

    def boxes_of(height, width):
        told.append((height, width))
        return torch.tensor(boxes)

    views = dataset.decode(0, boxes_of, 14)
    assert told == [(32, 48)]
    assert (views.shape, views.dtype) == ((4, 3, 14, 14), torch.uint8)
    for view, (top, left, height, width) in zip(views, boxes, strict=True):
        crop = (left, top, left + width, top + height)
        assert distance(view, pixels(image.resize((14, 14), Image.BILINEAR, box=crop))) == 0
    large = build(tmp_path, "train", 28, stream=True, resize=16)
    reference = image.resize((24, 16), Image.BILINEAR)
    for top, left in ((0, 0), (4, 10), (8, 16)):
        view = large.decode(0, lambda h, w, top=top, left=left: [(top, left, 8, 8)], 8)[0]
        assert distance(view, pixels(reference.crop((left, top, left + 8, top + 8)))) <= 1


def test_decode_of_a_large_jpeg_is_drafted_and_right(tmp_path):
    image = picture(640, 480)
    save(tmp_path / "a.jpg", image, quality=95)
    dataset = build(tmp_path, "train", 28, stream=True, resize=60)
    assert dataset._read(0)[0].size == (160, 120)
    reference = image.resize((80, 60), Image.BILINEAR)
    views = dataset.decode(0, lambda h, w: torch.tensor([[0, 0, h, w], [10, 30, 40, 20]]), 16)
    for view, box in zip(views, ((0, 0, 80, 60), (30, 10, 50, 50)), strict=True):
        assert distance(view, pixels(reference.resize((16, 16), Image.BILINEAR, box=box))) <= 6


def test_load_gives_centre_squares(stream, root):
    loaded = stream.load(torch.tensor([3, 0]), "cpu")
    for image, index in zip(loaded, (3, 0), strict=True):
        assert distance(image, read_square(str(root / stream.paths[index]), 32)) == 0
    assert stream.load(torch.tensor([], dtype=torch.int64), "cpu").shape == (0, 3, 32, 32)


def test_fingerprint_of_names_and_sizes(root, stream):
    def fingerprint():
        return build(root, "train", 28, stream=True).fingerprint()

    before = stream.fingerprint()
    assert before == fingerprint() == stream.fingerprint()
    os.utime(root / "a" / "0.png", (1, 1))
    assert fingerprint() == before
    (root / "a" / "0.png").rename(root / "a" / "00.png")
    renamed = fingerprint()
    save(root / "a" / "00.png", picture(61, 40))
    assert len({before, renamed, fingerprint()}) == 3


def test_bad_image_of_a_stream(root):
    (root / "a" / "bad.png").write_bytes(b"nothing")
    dataset = build(root, "train", 28, stream=True)
    index = dataset.paths.index("a/bad.png")
    for read in (dataset.image, lambda i: dataset.decode(i, lambda h, w: [(0, 0, h, w)], 8)):
        with pytest.raises(UserError, match=r"'a/bad.png' .* cannot be read: not an image.*on_bad_image: skip"):
            read(index)
    with pytest.raises(
        UserError, match=r"^the image 'a/bad.png' .*skip in train_db_kwargs \(val_db_kwargs\)$"
    ):  # a worker's is as short
        list(DataLoader(dataset, batch_size=None, num_workers=1))
    skipped = build(root, "train", 28, stream=True, on_bad_image="skip")
    assert skipped.paths == [path for path in dataset.paths if path != "a/bad.png"]
    assert skipped[3]["target"] == 1


def test_a_line_of_pixels_cannot_fill_the_memory(tmp_path):
    save(tmp_path / "line.png", Image.new("RGB", (20000, 1)))
    dataset = build(tmp_path, "train", 224, stream=True)
    with pytest.raises(UserError, match="256x5120000 pixels"):
        dataset[0]
    assert dataset.load(torch.tensor([0]), "cpu").shape == (1, 3, 256, 256)


# --- cache


@pytest.mark.slow
def test_cache_holds_what_memory_would(root, tmp_path, capsys):
    memory = build(root, "train", 28)
    cached = build(root, "train", 28, cache_dir=str(tmp_path / "cache"))
    assert cached.images.equal(memory.images)
    assert cached.load(torch.tensor([4, 1]), "cpu").equal(memory.images[[4, 1]])
    assert (cached.paths, cached.classes) == (memory.paths, memory.classes)
    assert cached.fingerprint() == build(root, "train", 28, stream=True).fingerprint()
    assert next(iter(DataLoader(cached, batch_size=6, num_workers=1)))["image"].equal(memory.images)
    assert "once" in capsys.readouterr().out

    for path in root.rglob("*.png"):  # images that cannot be decoded, but look to the cache as before
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = build(root, "train", 28, cache_dir=str(tmp_path / "cache"))
    assert again.images.equal(memory.images)
    assert "writing" not in capsys.readouterr().out


@pytest.mark.slow
def test_cache_of_what_would_be_streamed(root, tmp_path):
    stream = build(root, "train", 28, stream=True)
    cached = build(root, "train", 28, stream=True, cache_dir=str(tmp_path / "cache"))
    assert cached.images.shape == (6, 3, 32, 32)
    assert cached.images.equal(stream.load(torch.arange(6), "cpu"))
    other = build(root, "val", 28, stream=True, cache_dir=str(tmp_path / "cache"))
    assert other.images.equal(cached.images)
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 2


@pytest.mark.parametrize("change", ["touched", "replaced", "added", "removed", "torn", "no record", "foreign record"])
def test_cache_is_made_anew_when_it_does_not_fit(root, tmp_path, change):
    store = tmp_path / "cache"
    build(root, "train", 28, cache_dir=str(store))
    (file,) = store.glob("*.bin")
    record = file.with_suffix(".json")
    changes = {
        "touched": lambda: os.utime(root / "a" / "0.png", (1, 1)),
        "replaced": lambda: save(root / "a" / "0.png", picture(30, 30, 9)),
        "added": lambda: save(root / "a" / "00.png", picture(30, 30, 9)),
        "removed": lambda: (root / "a" / "0.png").unlink(),
        "torn": lambda: os.truncate(file, 1000),
        "no record": record.unlink,
        "foreign record": lambda: record.write_text("[1, 2]"),
    }
    changes[change]()
    cached = build(root, "train", 28, cache_dir=str(store))
    assert cached.images.equal(build(root, "train", 28).images)
    assert set(json.loads(record.read_text())) == {"sources", "fingerprint", "bad"}
    assert sorted(path.suffix for path in store.iterdir()) == [".bin", ".json", ".lock"]


def test_cache_remembers_bad_images(root, tmp_path, capsys):
    (root / "a" / "1 bad.png").write_bytes(b"nothing")
    store = tmp_path / "cache"
    with pytest.raises(UserError, match="1 of 7 images"):
        build(root, "train", 28, cache_dir=str(store))
    assert not list(store.glob("*.bin*"))
    for _ in range(2):
        capsys.readouterr()
        cached = build(root, "train", 28, cache_dir=str(store), on_bad_image="skip")
        assert capsys.readouterr().out.count("'a/1 bad.png' (not an image); left out") == 1
        assert cached.images.equal(build(root, "train", 28, on_bad_image="skip").images)
    with pytest.raises(UserError, match="1 of 7 images"):
        build(root, "train", 28, cache_dir=str(store))


def test_a_cache_is_read_where_no_lock_can_be_taken(root, tmp_path):
    """As in a folder that may only be read, for which the superuser has no such bounds."""
    store = tmp_path / "cache"
    build(root, "train", 28, cache_dir=str(store))
    (lock,) = store.glob("*.lock")
    lock.unlink()
    lock.mkdir()
    assert build(root, "train", 28, cache_dir=str(store)).images.equal(build(root, "train", 28).images)


def test_cache_without_room(root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs .* and .* free"):
        build(root, "train", 28, cache_dir=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("*.bin*"))


def test_disk_that_fills_while_the_cache_is_written(root, tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(UserError, match=r"needs 1.41e-05 GB .* File too large"):
            build(root, "train", 28, cache_dir=str(tmp_path / "cache"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_a_killed_writer_left_is_removed(root, tmp_path):
    store = tmp_path / "cache"
    build(root, "train", 28, cache_dir=str(store))
    (file,) = store.glob("*.bin")
    file.with_suffix(".json").unlink()
    (store / f"{file.name}.123.partial").write_bytes(b"half")
    (store / "other.bin.123.partial").write_bytes(b"another writer's")
    build(root, "train", 28, cache_dir=str(store))
    assert [path.name for path in store.glob("*.partial")] == ["other.bin.123.partial"]


def test_cache_dir_that_cannot_be(root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache_dir .* cannot be used"):
        build(root, "train", 28, cache_dir=str(tmp_path / "file" / "cache"))


# --- ImageNet

WNIDS = ["n01440764", "n02102040", "n03000684"]


@pytest.fixture
def imagenet(tmp_path):
    for split, num in (("train", 3), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            for number in range(num):
                name = f"ILSVRC2012_img_{split}/{wnid}/{wnid}_{number}.JPEG"
                save(tmp_path / name, picture(40 + number, 30, label))
    return tmp_path


def test_imagenet_streams_in_sorted_order(imagenet):
    train, val = (DATASETS["imagenet"](imagenet, split, 224) for split in ("train", "val"))
    assert (train.images, train.resize, len(train), len(val)) == (None, 256, 9, 6)
    assert train.paths[:2] == ["n01440764/n01440764_0.JPEG", "n01440764/n01440764_1.JPEG"]
    assert train.paths == sorted(train.paths)
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert val.classes == WNIDS
    assert DATASETS["imagenet"](imagenet, "val", 32, stream=False, resize=40).images.shape == (6, 3, 40, 40)


def test_crops_of_imagenet_are_those_of_the_resized_image(imagenet):
    """As published: the short side becomes 256, then a box of that is cut and resized; no JPEG is shrunk before."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (1040, 1600, 3), dtype=np.uint8))
    save(imagenet / "ILSVRC2012_img_train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG", noise, quality=95)
    train = DATASETS["imagenet"](imagenet, "train", 224)
    for index, box in ((0, (20, 30, 100, 120)), (1, (0, 5, 256, 200))):
        whole = Image.open(imagenet / "ILSVRC2012_img_train" / train.paths[index]).convert("RGB")
        frame = whole.resize((int(256 * whole.width / whole.height), 256), Image.Resampling.BILINEAR)
        top, left, height, width = box
        view = frame.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BILINEAR)
        decoded = train.decode(index, lambda height, width: [box], 224)[0]  # noqa: B023
        assert distance(decoded, pixels(view)) == 0


def test_imagenet_subset_numbers_classes_by_line(imagenet, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("n03000684\tchain saw\nn01440764 tench\n\n")
    dataset = DATASETS["imagenet_50"](imagenet, "val", 224, subset_file=str(listed))
    assert dataset.classes == ["chain saw", "tench"]
    assert dataset.paths[0].startswith("n01440764/")
    assert dataset.targets.tolist() == [1, 1, 0, 0]
    assert dataset[0]["meta"]["class_name"] == "tench"
    cached = DATASETS["imagenet_50"](
        imagenet, "val", 32, subset_file=str(listed), resize=36, cache_dir=str(tmp_path / "cache")
    )
    assert cached.images.shape == (4, 3, 36, 36)
    assert cached.targets.equal(dataset.targets)


def test_imagenet_subset_without_its_list(imagenet):
    with pytest.raises(UserError, match=r"imagenet_subsets/imagenet_100.txt; it is not shipped"):
        DATASETS["imagenet_100"](imagenet, "train", 224)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("tench n01440764", "line 1 does not read"),
        ("n01440764 tench\n\nn02102040 dog", "line 2 does not read"),
        ("n01440764 tench\nn01440764 tench", "line 2 names a class again"),
        ("n01440764 tench\nn09999999 nothing", "lacks 1 classes of imagenet_50: n09999999"),
    ],
)
def test_imagenet_subset_with_a_bad_list(imagenet, tmp_path, text, words):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        DATASETS["imagenet_50"](imagenet, "train", 224, subset_file=str(tmp_path / "list.txt"))


def test_imagenet_is_numbered_by_the_classes_of_training(imagenet, capsys):
    shutil.rmtree(imagenet / "ILSVRC2012_img_val" / WNIDS[0])
    for folder, file in {"empty": "a.txt", "@eaDir": "a.JPEG", ".hidden": "a.JPEG"}.items():
        (imagenet / "ILSVRC2012_img_train" / folder).mkdir()
        (imagenet / "ILSVRC2012_img_train" / folder / file).touch()
    val = DATASETS["imagenet"](imagenet, "val", 224)
    assert (val.classes, val.targets.tolist()) == (WNIDS, [1, 1, 2, 2])
    shutil.rmtree(imagenet / "ILSVRC2012_img_train" / WNIDS[1])
    val = DATASETS["imagenet"](imagenet, "val", 224)
    assert f"has classes that are not in training (1): {WNIDS[1]}" in capsys.readouterr().err
    assert (val.classes, val.targets.tolist()) == ([WNIDS[0], WNIDS[2], WNIDS[1]], [2, 2, 1, 1])
    shutil.rmtree(imagenet / "ILSVRC2012_img_train")
    assert DATASETS["imagenet"](imagenet, "val", 224).targets.tolist() == [0, 0, 1, 1]


def test_a_link_from_a_class_to_itself_is_not_followed(imagenet, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{WNIDS[1]} dog")
    (imagenet / "ILSVRC2012_img_val" / WNIDS[1] / "loop").symlink_to(".")
    dataset = DATASETS["imagenet_50"](imagenet, "val", 224, subset_file=str(listed))
    assert dataset.paths == [f"{WNIDS[1]}/{WNIDS[1]}_{number}.JPEG" for number in range(2)]


def test_imagenet_missing_or_flat(tmp_path):
    with pytest.raises(UserError, match="ILSVRC2012_img_train is missing"):
        DATASETS["imagenet"](tmp_path, "train", 224)
    (tmp_path / "ILSVRC2012_img_train").mkdir()
    with pytest.raises(UserError, match="no images"):
        DATASETS["imagenet"](tmp_path, "train", 224)
    save(tmp_path / "ILSVRC2012_img_val" / "ILSVRC2012_val_00000001.JPEG", picture(8, 8))
    with pytest.raises(UserError, match="outside class folders"):
        DATASETS["imagenet"](tmp_path, "val", 224)
