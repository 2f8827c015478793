"""Directories of image files: order, classes, every kind of file, and every kind of bad one."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data import DATASETS
from data.files.decode import frame_size, read_image, read_square
from data.files.formats import MAX_PIXELS, SUFFIXES, BadImageError
from data.files.listing import list_images
from system.errors import UserError

build = DATASETS["folder"]


def picture(width, height, seed=0, mode="RGB"):
    """A smooth picture, so that JPEG changes little."""
    rows, columns = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [127 + 120 * np.sin(4 * (rows * a + columns * b) + seed) for a, b in ((1, 2), (2, -1), (-1, 1))]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).convert(mode)


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture(12, 10)).save(path, **options)
    return path


def pixels(image):
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def distance(image, reference):
    return np.abs(np.asarray(image).astype(int) - np.asarray(reference).astype(int)).max()


@pytest.fixture
def animals(tmp_path):
    for number, name in enumerate(["dog/2.png", "dog/10.png", "cat/z.png", "cat/deep/er/a.png", "ant/x.PNG"]):
        save(tmp_path / name, picture(8, 8, number))
    return tmp_path


# --- listing


def test_order_classes_and_targets(animals, capsys):
    (animals / "notes.txt").write_text("no image")
    (animals / "dog" / ".hidden.png").write_text("no image")
    dataset = build(animals, "train", 8)
    assert dataset.paths == ["ant/x.PNG", "cat/deep/er/a.png", "cat/z.png", "dog/10.png", "dog/2.png"]
    assert dataset.classes == ["ant", "cat", "dog"]
    assert dataset.targets.tolist() == [0, 1, 1, 2, 2]
    assert dataset.root == animals
    assert dataset[3]["meta"] == {"index": 3, "class_name": "dog", "im_size": (8, 8)}
    said = capsys.readouterr().out
    assert "5 images of 3 classes" in said
    assert "2 other files ignored (1 hidden, 1 txt)" in said
    assert "read as RGB; short side 8, in memory" in said
    assert said.count("\n") == 2


def test_class_directories_sort_before_their_files(tmp_path):
    """By whole path "a b/1" would come before "a/1", the directory "a" comes first all the same."""
    for name in ("a b/1.png", "a/1.png", "a.c/1.png", "a/0/1.png"):
        save(tmp_path / name)
    assert list_images(tmp_path)[0] == ["a/0/1.png", "a/1.png", "a b/1.png", "a.c/1.png"]


def test_one_image_outside_makes_all_unlabeled(animals, capsys):
    save(animals / "stray.png")
    dataset = build(animals, "train", 8)
    assert "images without labels ('stray.png' is in none of the folders) in" in capsys.readouterr().out
    assert not dataset.has_labels
    assert dataset.classes == []
    assert dataset.paths[0] == "stray.png"
    assert dataset[2]["meta"]["class_name"] == "unlabeled"
    assert dataset[2]["target"] == -1


def test_classes_of_training_number_those_of_validation(animals, tmp_path_factory):
    val = tmp_path_factory.mktemp("val")
    save(val / "dog" / "1.png")
    dataset = build(val, "val", 8, classes=["ant", "cat", "dog"])
    assert (dataset.classes, dataset.targets.tolist()) == (["ant", "cat", "dog"], [2])
    save(val / "emu" / "1.png")
    with pytest.raises(UserError, match="1 classes that are not in training: emu"):
        build(val, "val", 8, classes=["ant", "cat", "dog"])


def test_root_option_overrides_the_directory(animals):
    assert len(build("/nowhere", "train", 8, root=str(animals))) == 5


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_read(tmp_path, suffix):
    image = picture(16, 16, mode="1" if suffix == ".pbm" else "L").convert("RGB")  # lossy formats save on color
    save(tmp_path / f"a{suffix}", image)
    tolerance = 12 if suffix in (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif") else 0
    assert distance(build(tmp_path, "train", 16).images[0], pixels(image)) <= tolerance


NAMES = [
    "a b.png",
    "it's.png",
    'double".png',
    "日本語.png",
    "new\nline.png",
    "-rf.png",
    "%s{}.png",
    "é.png",
    "\x1b[31m.png",
]


def test_odd_file_and_class_names(tmp_path):
    for name in NAMES:
        save(tmp_path / "classe é" / name)
    raw = os.fsencode(tmp_path) + b"/\xff\xfe"
    Path(os.fsdecode(raw)).mkdir()
    with open(raw + b"/\xe9.png", "wb") as file:
        picture(8, 8).save(file, "PNG")
    dataset = build(tmp_path, "train", 8)
    assert len(dataset) == len(NAMES) + 1
    assert set(dataset.classes) == {"classe é", "\\xff\\xfe"}
    "".join(dataset.classes).encode("utf-8")
    assert len(dataset.fingerprint()) == 64
    stream = build(tmp_path, "train", 8, stream=True)
    assert stream.paths == dataset.paths
    assert len(stream.fingerprint()) == 64
    with open(raw + b"/\xe8.png", "wb"):
        pass
    with pytest.raises(UserError) as error:
        build(tmp_path, "train", 8)
    assert str(error.value).isprintable()


def test_symlinks(animals, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    save(outside / "1.png")
    (animals / "linked").symlink_to(outside)
    (animals / "again").symlink_to(outside)  # the same files under two names are two classes
    (animals / "cat" / "file.png").symlink_to(outside / "1.png")
    (animals / "cat" / "up").symlink_to(animals)
    (animals / "cat" / "self").symlink_to("self")
    (animals / "dog" / "other").symlink_to(animals / "cat")
    (outside / "back").symlink_to(animals)
    dataset = build(animals, "train", 8)
    assert set(dataset.classes) == {"again", "ant", "cat", "dog", "linked"}
    assert "cat/file.png" in dataset.paths
    assert "dog/other/z.png" in dataset.paths
    assert not any("cat/up" in path for path in dataset.paths)


def test_directories_linked_crosswise_end(tmp_path):
    for a in range(9):
        save(tmp_path / str(a) / "x.png")
        for b in range(9):
            if a != b:
                (tmp_path / str(a) / f"to{b}").symlink_to(tmp_path / str(b))
    assert len(list_images(tmp_path)[0]) == 9 * (1 + 8 + 8 * 7)


def test_pipes_are_ignored(animals):
    os.mkfifo(animals / "cat" / "pipe.png")
    (animals / "cat" / "linked.png").symlink_to("pipe.png")
    found = list_images(animals)
    assert (len(found.paths), found.others) == (5, {"png": 2})


def test_missing_empty_and_file_roots(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        build(tmp_path / "nowhere", "train", 8)
    with pytest.raises(UserError, match="is a file"):
        build(save(tmp_path / "image.png"), "train", 8)
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(UserError, match=r"holds no images .*; 1 other files ignored"):
        build(tmp_path / "empty", "train", 8)


# --- one image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_orientation_is_undone(tmp_path, orientation, kind):
    upright = picture(24, 16)
    turned = {  # how a camera held that way stores it: the inverse of what the tag asks for
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    path = str(save(tmp_path / f"a.{kind}", Image.fromarray(np.ascontiguousarray(turned)), exif=exif, **options))
    image, size = read_image(path)
    assert image.size == (24, 16)
    assert size == (16, 24)
    assert distance(image, upright) <= (12 if kind == "jpg" else 0)


def test_orientation_with_draft(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture(401, 303)
    path = str(save(tmp_path / "a.jpg", upright.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95))
    image, size = read_image(path, 100)
    assert size == (303, 401)
    assert image.size == (201, 152)
    assert distance(image.resize((40, 30)), upright.resize((40, 30))) <= 8


def test_modes_become_rgb(tmp_path):
    color = picture(16, 16)
    gray = color.convert("L")
    for mode, kind in (("L", "png"), ("1", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "tif"), ("YCbCr", "tif")):
        image = color.convert(mode)
        path = save(tmp_path / f"{mode}.{kind}", image)
        assert distance(read_image(str(path))[0], image.convert("RGB")) <= 2, (mode, kind)
    cmyk = save(tmp_path / "cmyk.jpg", color.convert("CMYK"), quality=98)
    assert distance(read_image(str(cmyk))[0], color) <= 16
    wide = np.asarray(gray).astype(np.uint16) * 257
    for kind in ("png", "tif"):
        path = save(tmp_path / f"wide.{kind}", Image.fromarray(wide))
        assert distance(read_image(str(path))[0], gray.convert("RGB")) == 0
    (tmp_path / "wide.ppm").write_bytes(b"P5 16 16 65535\n" + wide.astype(">u2").tobytes())
    assert distance(read_image(str(tmp_path / "wide.ppm"))[0], gray.convert("RGB")) == 0


def test_float_and_long_gray_are_stretched(tmp_path):
    values = np.linspace(-5, 5, 256, dtype=np.float32).reshape(16, 16)
    values_of = {"f": values, "u": np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)}
    values_of["i"] = np.linspace(0, 2**30, 256).astype(np.int32).reshape(16, 16)
    for name, array in values_of.items():
        path = save(tmp_path / f"{name}.tif", Image.fromarray(array))
        assert distance(read_image(str(path))[0], np.arange(256).reshape(16, 16, 1)) <= 1


def test_alpha_is_composited_on_white(tmp_path):
    image = picture(8, 8)
    image.putalpha(128)
    expected = np.rint(np.asarray(image)[..., :3] * (128 / 255) + 255 * (127 / 255))
    assert distance(read_image(str(save(tmp_path / "a.png", image)))[0], expected) <= 1
    image.putalpha(Image.new("L", (8, 8), 0))
    image.putpixel((0, 0), (9, 9, 9, 255))
    for kind in ("png", "webp", "tif"):
        options = {"lossless": True} if kind == "webp" else {}
        expected = np.full((8, 8, 3), 255)
        expected[0, 0] = 9
        assert distance(read_image(str(save(tmp_path / f"b.{kind}", image, **options)))[0], expected) == 0
    palette = picture(8, 8).convert("P")
    clear = palette.getpixel((3, 3))
    rgb = read_image(str(save(tmp_path / "c.png", palette, transparency=clear)))[0]
    assert rgb.getpixel((3, 3)) == (255, 255, 255)
    gray_alpha = picture(8, 8).convert("LA")
    gray_alpha.putalpha(1)
    assert distance(read_image(str(save(tmp_path / "d.png", gray_alpha)))[0], 255) <= 1


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("gif", "webp", "png", "tif"):
        path = save(tmp_path / f"a.{kind}", frames[0], save_all=True, append_images=frames[1:])
        assert distance(read_image(str(path))[0].getpixel((4, 4)), (255, 0, 0)) <= 2


def test_wrong_suffix_is_no_matter(tmp_path):
    picture(8, 8).save(tmp_path / "a.jpg", "PNG")
    assert distance(build(tmp_path, "train", 8).images[0], pixels(picture(8, 8))) == 0


# --- one shape


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (47, 31), (31, 31), (20, 90), (9, 7)])
@pytest.mark.parametrize("side", [16, 31])
def test_square_equals_resize_and_center_crop(tmp_path, width, height, side):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = picture(width, height)
    path = str(save(tmp_path / "a.png", image))
    expected = Compose([Resize(side, InterpolationMode.BILINEAR), CenterCrop(side)])(image)
    assert distance(read_square(path, side), pixels(expected)) <= 1


def test_square_of_a_drafted_jpeg(tmp_path):
    image = picture(800, 600)
    path = str(save(tmp_path / "a.jpg", image, quality=95))
    assert read_image(path, 64)[0].size == (100, 75)
    expected = image.resize((42, 32), Image.BILINEAR).crop((5, 0, 37, 32))
    assert distance(read_square(path, 32), pixels(expected)) <= 6


def test_frame_size_is_torchvisions():
    from torchvision.transforms.functional import resize

    for height, width in ((60, 40), (333, 500), (500, 375), (7, 7), (31, 97), (97, 31)):
        expected = resize(torch.zeros(1, height, width), 16).shape[1:]
        assert frame_size(height, width, 16) == tuple(expected)


def test_resize_option(animals):
    assert build(animals, "train", 8, resize=10).images.shape == (5, 3, 10, 10)


def test_many_images_in_parallel_keep_their_order(tmp_path):
    for number in range(150):
        save(tmp_path / f"{number:03d}.png", Image.new("RGB", (5, 5), (number, 0, 255 - number)))
    before = torch.get_rng_state()
    dataset = build(tmp_path, "train", 4)
    assert torch.get_rng_state().equal(before)
    assert dataset.images[:, 0, 2, 2].tolist() == list(range(150))
    assert dataset.images[:, 2, 0, 0].tolist() == list(range(255, 105, -1))


def test_items_through_a_plain_dataloader(animals):
    dataset = build(animals, "train", 8)
    batch = next(iter(DataLoader(dataset, batch_size=5, num_workers=2)))
    assert batch["image"].equal(dataset.images)
    assert batch["meta"]["class_name"] == ["ant", "cat", "cat", "dog", "dog"]


# --- bad images


def png_claiming(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(kind):
    file = io.BytesIO()
    picture(64, 64).save(file, kind)
    return file.getvalue()


BAD = {
    "empty.jpg": (b"", "empty file"),
    "text.png": (b"<html>not found</html>", "not an image"),
    "cut.jpg": (encoded("JPEG")[:600], "truncated"),
    "cut.png": (encoded("PNG")[:600], ""),
    "cut.gif": (encoded("GIF")[:600], ""),
    "cut.tif": (encoded("TIFF")[:600], ""),
    "cut.webp": (encoded("WEBP")[:100], ""),
    "cut.bmp": (encoded("BMP")[:600], "truncated"),
    "bomb.png": (png_claiming(20000, 20000), "pixels"),
    "larger bomb.png": (png_claiming(60000, 60000), "pixels"),
    "just over.png": (png_claiming(MAX_PIXELS // 1024 + 1, 1024), "pixels"),
    "nothing.png": (png_claiming(0, 10), ""),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_image_has_a_reason(tmp_path, name):
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadImageError) as error:
        read_image(str(tmp_path / name))
    assert words in str(error.value).lower()
    assert str(error.value)
    assert "\n" not in str(error.value)


def test_bad_images_are_counted_and_named(animals):
    for name, (content, _) in BAD.items():
        (animals / "cat" / name).write_bytes(content)
    (animals / "cat" / "broken link.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=f"{len(BAD) + 1} of {len(BAD) + 6} images") as error:
        build(animals, "train", 8)
    assert "'cat/bomb.png' (more than 134,217,728 pixels)" in str(error.value)
    assert f"{len(BAD) - 4} more" in str(error.value)
    assert "on_bad_image: skip" in str(error.value)


def test_bad_images_are_skipped(animals, capsys):
    good = build(animals, "train", 8)
    for name, (content, _) in BAD.items():
        (animals / "cat" / name).write_bytes(content)
    (animals / "only bad").mkdir()
    (animals / "only bad" / "a.png").touch()
    capsys.readouterr()
    dataset = build(animals, "train", 8, on_bad_image="skip")
    assert f"{len(BAD) + 1} of {len(BAD) + 6} images" in capsys.readouterr().out
    assert dataset.paths == good.paths
    assert dataset.images.equal(good.images)
    assert [dataset.classes[target] for target in dataset.targets] == [good.classes[target] for target in good.targets]
    assert dataset.fingerprint() == good.fingerprint()


def test_nothing_but_bad_images(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="no image is left"):
        build(tmp_path, "train", 8, on_bad_image="skip")


def test_every_truncation_and_flip_is_an_image_or_a_reason(tmp_path):
    """Hostile bytes never raise anything else, for any format."""
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        whole = encoded(kind)
        for trial in range(20):
            content = bytearray(whole[: random.integers(len(whole))] if trial % 2 else whole)
            for position in random.integers(0, max(1, min(len(content), 200)), 4):
                if content:
                    content[position] ^= 1 << random.integers(8)
            path = tmp_path / "a.png"
            path.write_bytes(content)
            try:
                assert read_square(str(path), 8).shape == (3, 8, 8)
            except BadImageError as error:
                assert str(error)


def test_broken_exif_does_not_matter(tmp_path):
    path = save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    assert read_image(str(path))[0].size == (12, 10)
