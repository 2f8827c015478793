"""A trained model as one ONNX file: probabilities and features, and how images are prepared, noted inside."""

from pathlib import Path
from typing import Any

from data.files.reading import Reading, record_of
from models.export import Predictor, export_onnx
from utils import clusters
from utils.common_config import get_val_transformations

OUTPUTS = ("probabilities", "features")


def export_model(path: str, p: Any, model: Path, reading: Reading) -> None:
    """Write the clustering model of a file as FILE.onnx; its images are prepared as `reading` and config say.

    Raises UserError when it cannot be written as ONNX.
    """
    network, head = clusters.load_clustering(p, model)
    predictor = Predictor(network.backbone, network.cluster_head[head])
    export_onnx(path, predictor, get_val_transformations(p).size, OUTPUTS, facts_of(p, reading))


def facts_of(p: Any, reading: Reading) -> dict[str, Any]:
    """What another program needs to know to give the file images, and to understand what comes out."""
    strategy = get_val_transformations(p)
    kinds, order = ("classes", "of `classes`") if p.class_names else ("clusters", "of predict.py's numbers")
    return {
        "input": "images, float32 [batch, 3, side, side]: RGB, (levels / 255 - mean) / std",
        "outputs": f"probabilities [batch, {kinds}], in the order {order}; features [batch, length]",
        **({"classes": list(p.class_names)} if p.class_names else {"clusters": p.num_classes}),
        "side": strategy.size,
        "mean": strategy.mean,
        "std": strategy.std,
        "image": "upright by its EXIF orientation, RGB of 8 bits, transparent parts on white",
        **({"wide": ranges} if (ranges := wide(reading)) else {}),
        "preparation": preparation(strategy, reading),
    }


def wide(reading: Reading) -> dict[str, Any]:
    """What is black (0) and what white (255) in images of more than 8 bits, where all share a range."""
    ranges = {"whole": "gray of whole numbers", "floats": "gray of floats", "colors": "colors of 16 bits"}
    known = record_of(reading.values)
    return {ranges[name]: known[name] for name in ranges if name in known}


def preparation(strategy: Any, reading: Reading) -> list[dict[str, Any]]:
    """What becomes of an image before it is normalized, step by step; every resize is antialiased, as PIL's."""
    first = {"resize_short_side": reading.side, "interpolation": "bilinear"}
    if not reading.streamed:
        return [first, {"center_crop": reading.side}, *strategy.steps()]
    # Streamed images are cut and resized by the workers, whatever interpolation the strategy has.
    kept = int(strategy.box(strategy.draw(1), reading.side, reading.side)[0, 2])
    if getattr(strategy, "crop_mode", "") == "squash":
        first = {"resize": reading.side, "interpolation": "bilinear"}
    return [first, {"center_crop": kept}, {"resize": strategy.size, "interpolation": "bilinear"}]
