"""Gray wider than 8 bits, alpha, pages, foreign files: what is read of them, against a naive reader."""

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from data import DATASETS
from data.files import formats
from data.files.decode import look_into, read_image, to_rgb
from data.files.formats import BadImageError
from data.files.reading import Reading
from data.files.values import AS_BEFORE, Values, boxes, range_of, range_of_all

build = DATASETS["folder"]


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return str(path)


def gray(dataset):
    """The images of a data set as [N, side, side]; their channels are equal."""
    images = dataset.images.numpy()
    assert (images == images[:, :1]).all()
    return images[:, 0].astype(int)


def noise(top, dtype=np.uint16, seed=0, low=0, num=6, side=8):
    return np.random.default_rng(seed).integers(low, top, (num, side, side), endpoint=True).astype(dtype)


# --- whole numbers


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_16_bits_are_shown_by_the_depth_that_the_folder_uses(tmp_path, kind, bits, capsys):
    arrays = noise(2**bits - 1)
    arrays[3] //= 4  # a dark image stays darker than the others
    for number, array in enumerate(arrays):
        save(tmp_path / f"{number}.{kind}", array)
    dataset = build(tmp_path, "train", 8)
    assert np.array_equal(gray(dataset), np.rint(arrays * (255 / (2**bits - 1))))
    assert dataset.reading.values == Values(whole=(0, 2**bits - 1))
    assert f"16-bit gray from 0 (black) to {2**bits - 1} (white)" in capsys.readouterr().out


def test_a_narrow_band_of_16_bits_is_shown_by_itself(tmp_path):
    arrays = noise(31000, low=30000)
    arrays[0, 0, 0], arrays[1, 0, 0] = 30000, 31000
    for number, array in enumerate(arrays):
        save(tmp_path / f"{number}.png", array)
    assert np.array_equal(gray(build(tmp_path, "train", 8)), np.rint((arrays - 30000.0) * (255 / 1000)))


def test_values_that_were_known_before_are_used_again(tmp_path):
    for number, array in enumerate(noise(255)):
        save(tmp_path / f"{number}.tif", array)
    known = Values(whole=(0, 4095))
    dataset = DATASETS["folder"](tmp_path, "val", 8, known)
    assert np.array_equal(gray(dataset), np.rint(noise(255) * (255 / 4095)))
    assert DATASETS["folder"](tmp_path, "val", 8, AS_BEFORE).images.max() <= 1  # as the first version read them
    stream = build(tmp_path, "train", 8, stream=True, resize=8)
    assert np.array_equal(stream.image(2)[0].numpy(), np.rint(noise(255)[2]))


def test_a_cache_of_other_values_is_made_anew(tmp_path):
    for number, array in enumerate(noise(4095)):
        save(tmp_path / "images" / f"{number}.tif", array)
    cache = str(tmp_path / "cache")
    before = DATASETS["folder"](tmp_path / "images", "train", 8, AS_BEFORE, cache_dir=cache).images.clone()
    after = build(tmp_path / "images", "train", 8, cache_dir=cache)
    assert before.max() == 16
    assert np.array_equal(gray(after), np.rint(noise(4095) * (255 / 4095)))


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (6, 4)])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colors_of_16_bits_are_shown_by_the_depth_that_the_folder_uses(tmp_path, color, channels, bits):
    arrays = np.random.default_rng(0).integers(0, 2**bits, (4, 8, 8, channels)).astype(">u2")
    arrays[0, 0, 0] = 2**bits - 1
    arrays[..., 3:] = 65535
    for number, array in enumerate(arrays):
        rows = b"".join(b"\0" + row.tobytes() for row in array)
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, color, 0, 0, 0))
        body = header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    dataset = build(tmp_path, "train", 8)
    shown = arrays[..., :3].astype(float)
    # All 16 bits are shown as ever, by their high bytes.
    expected = shown // 256 if bits == 16 else np.rint(shown * (255 / (2**bits - 1)))
    assert np.array_equal(dataset.images.numpy(), expected.transpose(0, 3, 1, 2))


# --- floats


@pytest.mark.parametrize("missing", [-3.4028235e38, 3.4028235e38, -9999, -32768, np.inf, -np.inf, np.nan, 1e35, -99999])
@pytest.mark.parametrize("scale", [1.0, 3000.0])
def test_missing_values_take_no_part_in_the_range(tmp_path, missing, scale):
    arrays = np.random.default_rng(1).random((5, 8, 8), dtype=np.float32)
    arrays[0, 0, :2] = 0, 1
    arrays *= np.float32(scale)
    holed = arrays.copy()
    holed[2, 3, 4] = missing
    for number, array in enumerate(holed):
        save(tmp_path / f"{number}.tif", array)
    expected = np.rint(arrays.astype(float) * (255 / scale)).astype(int)
    expected[2, 3, 4] = 255 if missing > 0 else 0
    assert np.array_equal(gray(build(tmp_path, "train", 8)), expected)


def test_a_file_of_nothing_but_missing_values_and_half_of_them(tmp_path):
    arrays = np.random.default_rng(1).random((4, 8, 8), dtype=np.float32) * 100
    arrays[0], arrays[1, 4:], arrays[2] = -9999, -9999, np.nan
    for number, array in enumerate(arrays):
        save(tmp_path / f"{number}.tif", array)
    found = build(tmp_path, "train", 8).reading.values.floats
    assert found == (pytest.approx(min(arrays[1, :4].min(), arrays[3].min())), arrays[[1, 3]].max())


def test_a_tiff_names_its_missing_value(tmp_path):
    array = np.arange(64, dtype=np.float32).reshape(8, 8)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[42113], info.tagtype[42113] = "7", 2
    assert look_into(save(tmp_path / "a.tif", array, tiffinfo=info), decode=True).range == (0, 63)
    info[42113] = "63"
    assert look_into(save(tmp_path / "b.tif", array, tiffinfo=info), decode=True).range == (0, 62)
    for word in ("nan", "inf", "-inf", "1e30", "7.5"):  # which no whole number is
        info[42113] = word
        path = save(tmp_path / "c.tif", array.astype(np.uint16), tiffinfo=info)
        assert look_into(path, decode=True).range == (0, 63)


def test_dark_floats_and_two_levels(tmp_path):
    dark = np.linspace(0, 0.01, 64, dtype=np.float32).reshape(8, 8)
    assert np.asarray(read_image(save(tmp_path / "a.tif", dark))[0]).max() == 255
    mask = (dark > 0.005).astype(np.float32)
    assert set(np.asarray(read_image(save(tmp_path / "b.tif", mask))[0]).ravel()) == {0, 255}
    assert range_of(Image.fromarray(mask * 200), None) == (0, 200)


def test_files_of_one_value_say_nothing_of_floats_but_something_of_whole_numbers():
    assert range_of_all([(5.0, 5.0), (0.0, 0.9)], floats=True) == (0, 1)
    assert range_of_all([(5.0, 5.0)], floats=True) == (5, 5)
    assert range_of_all([(4000, 4000), (0, 200)], floats=False) == (0, 4095)
    assert range_of_all([], floats=False) is None


# --- every mode against a naive reader


def naive(image, shown):
    """RGB float [H, W, 3] of a whole image at once, by NumPy."""
    if image.mode in ("F", "I", "I;16"):
        low, high = shown
        level = np.clip((np.asarray(image).astype(float) - low) * 255 / (high - low), 0, 255)
        return np.repeat(level[..., None], 3, 2)
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] if not alpha.any() else rgba[..., :3] * alpha + 255 * (1 - alpha)


MODES = {
    "L": "png", "1": "png", "P": "png", "LA": "png", "RGB": "png", "RGBA": "png", "I;16": "png", "F": "tif", "I": "tif",
    "CMYK": "tif",
}  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    mode=st.sampled_from(sorted(MODES)),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    box=st.integers(1, 300),
)
def test_every_mode_is_read_as_by_a_naive_reader(tmp_path_factory, mode, width, height, seed, box):
    random = np.random.default_rng(seed)
    shape = (height, width)
    if mode == "F":
        image = Image.fromarray((random.random(shape) * 2).astype(np.float32))
    elif mode in ("I", "I;16"):
        image = Image.fromarray(random.integers(0, 5000, shape).astype(np.int32 if mode == "I" else np.uint16))
    else:
        pixels = Image.fromarray(random.integers(0, 256, (*shape, 4), dtype=np.uint8))
        pixels = pixels if mode in ("LA", "RGBA") else pixels.convert("RGB")
        image = pixels.convert(mode)
        if mode in ("LA", "RGBA") and seed % 3 == 0:
            image.putalpha(0)
    path = save(tmp_path_factory.mktemp("mode") / f"a.{MODES[mode]}", image)
    shown = (0.0, 2.0) if mode == "F" else (0.0, 8191.0)
    found, size = read_image(path, values=Values(shown, shown))
    expected = naive(image, shown)
    assert np.abs(np.asarray(found).astype(float) - expected).max() <= 1
    assert size == shape
    # As a large picture is made RGB: in boxes, and reduced.
    with Image.open(path) as opened:
        opened.load()
        assert np.array_equal(to_rgb(opened, Values(shown, shown), 1, box), found)
        times = max(1, min(8, min(shape) // 4))
        reduced = to_rgb(opened, Values(shown, shown), times, box)
    assert reduced.size == (-(-width // times), -(-height // times))
    rows, columns = height // times, width // times
    blocks = expected[: rows * times, : columns * times].reshape(rows, times, columns, times, 3).mean((1, 3))
    assert np.abs(np.asarray(reduced)[:rows, :columns] - blocks).max() <= 1.5


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 8), st.integers(1, 300))
def test_boxes_cover_a_picture_once(width, height, step, box):
    times = np.zeros((height, width), int)
    for left, upper, right, lower in boxes(width, height, step, box):
        assert left % step == upper % step == 0
        assert 0 < (right - left) * (lower - upper) <= max(box, step * step)
        times[upper:lower, left:right] += 1
    assert (times == 1).all()


# --- alpha


def bmp_with_alpha(pixels):
    """A 32-bit BMP of BGRA pixels uint8 [H, W, 4], with masks that name its alpha."""
    height, width = pixels.shape[:2]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, pixels.size, 0, 0, 0, 0) + masks + bytes(52)
    start = struct.pack("<2sIHHI", b"BM", 14 + len(header) + pixels.size, 0, 0, 14 + len(header))
    return start + header + np.ascontiguousarray(pixels[::-1]).tobytes()


def test_an_alpha_plane_of_zeros_is_no_alpha(tmp_path):
    bgra = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    bgra[..., 3] = 0
    (tmp_path / "a.bmp").write_bytes(bmp_with_alpha(bgra))
    assert Image.open(tmp_path / "a.bmp").mode == "RGBA"
    assert np.array_equal(np.asarray(read_image(str(tmp_path / "a.bmp"))[0]), bgra[..., 2::-1])
    bgra[2, 3, 3] = 255
    (tmp_path / "a.bmp").write_bytes(bmp_with_alpha(bgra))
    found = np.asarray(read_image(str(tmp_path / "a.bmp"))[0])
    assert np.array_equal(found[2, 3], bgra[2, 3, 2::-1])
    assert (np.delete(found.reshape(30, 3), 13, axis=0) == 255).all()
    level = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for mode, kind in (("LA", "png"), ("RGBA", "png"), ("RGBA", "tif")):
        image = Image.fromarray(level).convert(mode)
        image.putalpha(0)
        assert np.array_equal(np.asarray(read_image(save(tmp_path / f"b.{kind}", image))[0])[..., 0], level)


# --- files


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt", b"iCCP"])
@pytest.mark.parametrize("length", [2 * 2**20, 70 * 2**20])
def test_large_texts_in_a_png_are_skipped(tmp_path, kind, length):
    level = np.arange(64, dtype=np.uint8).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray(level).save(file, "PNG")
    text = bytes(length) if kind == b"tEXt" else zlib.compress(bytes(length))
    between = {b"iTXt": b"\0\1\0\0\0"}.get(kind, b"\0" if kind == b"tEXt" else b"\0\0")
    png = file.getvalue()
    extra = chunk(kind, b"name" + between + text)
    for place in (33, len(png) - 12):  # after the header, and before the end
        (tmp_path / "a.png").write_bytes(png[:place] + extra + png[place:])
        assert np.array_equal(np.asarray(read_image(str(tmp_path / "a.png"))[0])[..., 0], level)


FOREIGN = {
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "HEIC, which is not read here; convert it",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "HEIC, which is not read here; convert it",
    b"\xff\x0a\x00\x10": "JPEG XL, which is not read here; convert it",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL, which is not read here; convert it",
    b"8BPS\0\1": "a Photoshop file, which is not read here; convert it",
    b"\0\0\0\x14ftypqt  \0\0\0\0": "a video, not an image",
    b"version https://git-lfs.github.com/spec/v1\noid": "a pointer of Git LFS, not an image; fetch",
    b"plain words": "not an image",
}


@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_content_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImageError) as error:
        read_image(str(tmp_path / "a.jpg"))
    assert str(error.value).startswith(FOREIGN[content])


@pytest.mark.skipif(not formats.AVIF, reason="this Pillow has no AVIF")
def test_avif_is_read_under_any_name(tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 60)).save(tmp_path / "a.jpg", "AVIF", quality=95)
    (tmp_path / "b.avif").write_bytes((tmp_path / "a.jpg").read_bytes()[:60])
    with pytest.raises(BadImageError, match="a damaged AVIF file"):
        read_image(str(tmp_path / "b.avif"))
    assert np.abs(np.asarray(read_image(str(tmp_path / "a.jpg"))[0]).astype(int) - (200, 30, 60)).max() <= 6


def test_several_pages_are_told_once_with_their_number(tmp_path, capsys):
    pages = [Image.new("L", (8, 8), level) for level in (10, 200)]
    for name in ("a", "b"):
        pages[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / "c.tif")
    dataset = build(tmp_path, "train", 8)
    assert gray(dataset)[:, 0, 0].tolist() == [10, 10, 200]
    assert capsys.readouterr().out.count("of 2 files with several pages the first page") == 1


# --- what takes too much


def png_header(width, height, color=0):
    """A PNG of 8 bits that says how large it is, and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def enlarged(path, width, height, rows):
    """Have a TIFF say that it is that large, in strips of that many rows; its content stays."""
    content = path.read_bytes()
    for tag, value in ((256, width), (257, height), (278, rows)):
        entry = struct.pack("<H", tag) + rb"[\x03\x04]\x00\x01\x00\x00\x00...."  # one number, of 16 or 32 bits
        content, found = re.subn(entry, struct.pack("<HHII", tag, 4, 1, value), content, flags=re.DOTALL)
        assert found == 1
    path.write_bytes(content)


def test_a_large_picture_is_reduced_while_it_is_made_rgb(tmp_path):
    path = save(tmp_path / "a.png", np.full((4096, 8193), 77, dtype=np.uint8), compress_level=1)  # 2^25 pixels and more
    image, size = read_image(path, 1024)
    assert (image.size, size) == ((2049, 1024), (4096, 8193))  # 4 times
    assert image.getextrema() == ((77, 77),) * 3


def test_what_takes_too_much_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png_header(10_000, 8_900, 6))
    with pytest.raises(
        BadImageError, match=r"10000 x 8900 pixels in this form take 0\.7 GB to decode; make it smaller"
    ):
        read_image(str(tmp_path / "a.png"), 8_900)
    with pytest.raises(BadImageError) as error:  # reduced 8 times it is not too large, but there is nothing in it
        read_image(str(tmp_path / "a.png"), 1000)
    assert "GB" not in str(error.value)
    (tmp_path / "a.png").write_bytes(png_header(1, 50_000_000))
    with pytest.raises(BadImageError, match="1 x 50000000 pixels in this form"):
        read_image(str(tmp_path / "a.png"), 10)
    strip, turned = tmp_path / "strip.tif", tmp_path / "turned.tif"
    Image.new("F", (80, 100)).save(strip, compression="tiff_adobe_deflate")
    enlarged(strip, 10_000, 8_900, 8_900)
    Image.new("RGB", (80, 100)).save(turned, compression="tiff_adobe_deflate", tiffinfo={274: 6})
    enlarged(turned, 10_000, 8_900, 8)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", lambda image: pytest.fail("decoded"))
    for path in (strip, turned):
        with pytest.raises(BadImageError, match="in this form take"):
            read_image(str(path), 10)


def test_a_slow_form_and_too_many_scans_are_refused(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P2 2049 2048 255 7 7")  # 2^22 values and more
    with pytest.raises(BadImageError, match="slow form of PNM"):
        read_image(str(tmp_path / "a.pgm"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", progressive=True)
    read_image(str(tmp_path / "a.jpg"))
    content = (tmp_path / "a.jpg").read_bytes()
    content = content.replace(struct.pack(">HH", 8, 8), struct.pack(">HH", 4096, 4096), 1)
    (tmp_path / "a.jpg").write_bytes(content + b"\xff\xda" * 256)  # 256 scans of 2^24 pixels, and its own
    with pytest.raises(BadImageError, match="too many scans"):
        read_image(str(tmp_path / "a.jpg"))


def test_scans_of_a_picture_of_several_are_counted_too(tmp_path):
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture], progressive=True)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.format == "MPO"
    read_image(str(tmp_path / "a.jpg"))
    content = (tmp_path / "a.jpg").read_bytes()
    content = content.replace(struct.pack(">HH", 8, 8), struct.pack(">HH", 4096, 4096), 1)
    (tmp_path / "a.jpg").write_bytes(content + b"\xff\xda" * 256)
    with pytest.raises(BadImageError, match="too many scans"):
        read_image(str(tmp_path / "a.jpg"))


# --- the record


def test_a_reading_comes_back_from_its_record():
    reading = Reading(32, True, Values((0, 4095), (-1.5, 2.25)), resized_first=True)
    assert Reading.from_record(json.loads(json.dumps(reading.to_record()))) == reading
    assert Reading.from_record(Reading(8, False, AS_BEFORE).to_record()).values.old


WHOLE = Reading(8, False).to_record()
CHANGES = [
    *({"side": "8"}, {"side": True}, {"side": 0}, {"side": 10**9}, {"streamed": 1}, {"values": 3}, {"found": [1]}),
    *({"values": {"whole": [1]}}, {"values": {"whole": ["a", "b"]}}, {"values": {"floats": [2, 1]}}),
    *({"values": {"whole": [0, float("inf")]}}, {"found": {"wide": "x"}}, {"found": {"other": 1}}),
]


@pytest.mark.parametrize("record", [[], 3, "x", {}, {"side": 8}, *(WHOLE | change for change in CHANGES)], ids=str)
def test_a_record_of_another_form_is_a_value_error(record):
    with pytest.raises(ValueError, match="not how images are read"):
        Reading.from_record(record)
