"""predict.py --export: programs without PyTorch get what predict.py says, by what the file says of itself."""

import json
import re

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageOps

from data.files.reading import Reading
from data.files.values import Values
from system.files import REPOSITORY
from tests.stages.test_predict import CONFIG, base, make_run, read, run
from utils.exported import facts_of

__all__ = ["base"]
NORMALIZE = {"mean": [0.4, 0.5, 0.3], "std": [0.3, 0.2, 0.25]}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PRETRAINED = {
    "backbone": "timm/test_efficientnet.r160_in1k",
    "stem": None,
    "width": None,
    "train_db_kwargs": {"resize": 20},
    "transformation_kwargs": {"crop_size": 32, "normalize": NORMALIZE, "interpolation": "bicubic", "crop": 0.8},
}
CASES = {
    "from scratch": {"transformation_kwargs": {"crop_size": 16, "normalize": NORMALIZE}},
    "resized, cropped": {
        "train_db_kwargs": {"resize": 22},
        "transformation_kwargs": {"crop_size": 16, "normalize": NORMALIZE},
    },
    "zoomed": {"transformation_kwargs": {"crop_size": 12, "normalize": NORMALIZE, "zoom_to": 20}},
    "pretrained": PRETRAINED,
    "streamed": {**PRETRAINED, "train_db_kwargs": {"resize": 20, "stream": True}},
}


def prepare(path, facts):
    """What the metadata says, done by PIL."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    for step in facts["preparation"]:
        sampling = FILTERS.get(step.get("interpolation"))
        if side := step.get("resize_short_side"):
            scale = side / min(image.size)
            image = image.resize([max(side, int(scale * length)) for length in image.size], sampling)
        elif side := step.get("resize"):
            image = image.resize((side, side), sampling)
        else:
            left, top = (round((length - step["center_crop"]) / 2) for length in image.size)
            image = image.crop((left, top, left + step["center_crop"], top + step["center_crop"]))
    levels = (np.asarray(image) / 255 - facts["mean"]) / facts["std"]
    return levels.transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_images_prepared_as_the_file_says_get_the_probabilities_of_predict(base, capfd, case):
    _, folder = make_run(base, **{**CONFIG, **CASES[case]})
    words = ["--model", folder, "--export", base / "model.onnx", base / "images", "--top_k", 5, "--device", "cpu"]
    code, out, err = run(capfd, *words)
    assert code == 0 and "model.onnx" in err
    session = onnxruntime.InferenceSession(base / "model.onnx")
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    rows = read(out)
    images = np.stack([prepare(row["path"], facts) for row in rows])
    assert images.shape == (7, 3, facts["side"], facts["side"])
    found = session.run(["probabilities"], {"images": images})[0]
    for row, probabilities in zip(rows, found, strict=True):
        told = {int(row[f"cluster{k}"]): float(row[f"confidence{k}"]) for k in ("", "_2", "_3", "_4", "_5")}
        # Levels that are rounded between two resizes instead of after one differ by one or two of 255.
        assert probabilities == pytest.approx([told[cluster] for cluster in range(5)], abs=0.01)


def test_the_file_says_what_is_black_and_what_white_in_wide_images(base):
    p, _ = make_run(base)
    for values, ranges in [
        (Values(whole=(0, 4095)), {"gray of whole numbers": (0, 4095)}),
        (Values(floats=(-1, 1), colors=(0, 255)), {"gray of floats": (-1, 1), "colors of 16 bits": (0, 255)}),
    ]:
        assert facts_of(p, Reading(20, False, values))["wide"] == ranges
    assert "wide" not in facts_of(p, Reading(20, False))


def test_the_lines_of_the_readme(base, capfd, monkeypatch):
    _, folder = make_run(base)
    image = base / "images" / "a.png"
    code, out, _ = run(capfd, "--model", folder, "--export", base / "images.onnx", image, "--top_k", 5)
    assert code == 0
    (base / "new.png").write_bytes(image.read_bytes())
    monkeypatch.chdir(base)
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(session = onnxruntime.*?)```", text, re.DOTALL)
    names = {"onnxruntime": onnxruntime, "json": json, "np": np, "Image": Image, "ImageOps": ImageOps}
    exec(lines, names)
    assert names["probabilities"].argmax() == int(read(out)[0]["cluster"])


def test_without_images_only_the_model_is_written(base, capfd):
    _, folder = make_run(base)
    code, out, err = run(capfd, "--model", folder, "--export", base / "model.onnx")
    assert (code, out) == (0, "") and not re.search(r"\d images", err)
    code, _, err = run(capfd, "--model", folder)
    assert code == 2 and "no images are given" in err
    code, _, err = run(capfd, "--model", folder, "--export", base / "model.bin")
    assert code == 2 and "must end with .onnx" in err
    code, _, err = run(capfd, "--model", folder, "--export", base / "x.onnx", "--embeddings", base / "x.onnx", base)
    assert code == 2 and "--embeddings and --export are both" in err
