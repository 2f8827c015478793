"""Can images be told from their mirror images? In which data sets cluster.py would forbid flips, and how clearly.

    python -m benchmarks.orientation --data DIR     # a minute

DIR is that of benchmarks.judge. Writes benchmarks/results/orientation.json: for every data set, random choices of
classes and images, and the share of images that `recipes.orientation` picks out of the pair with their mirror image.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import common
from benchmarks.judge_data import SIDES, load_images
from recipes.look import NUM_LOOKED_AT, SIDE
from recipes.orientation import FEWEST_IMAGES, LIMIT, mirror_accuracy
from utils import cli

NUM_CHOICES = 12
CLASSES = (10, 5, 2, 1)
COMMAND = "python -m benchmarks.orientation --data DIR"


def read_gray(image: np.ndarray | Path) -> np.ndarray:
    """Return the center square of an image as cluster.py looks at it: gray [SIDE, SIDE]."""
    picture = (Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image)).convert("RGB")
    scale = SIDE / min(picture.size)
    width, height = (max(SIDE, round(length * scale)) for length in picture.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    square = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + SIDE, top + SIDE))
    return np.asarray(square, dtype=np.float32).mean(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data sets' folder")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "orientation.json")
    args = parser.parse_args(argv)
    found: dict[str, dict[str, list[float]]] = {}
    for name in SIDES:
        images, targets = load_images(name, args.data)
        for num_images in (FEWEST_IMAGES, NUM_LOOKED_AT):
            shares = []
            for choice in range(NUM_CHOICES):
                draws = np.random.default_rng(choice)
                classes = draws.permutation(10)[: CLASSES[choice % len(CLASSES)]]
                rows = draws.permutation(np.flatnonzero(np.isin(targets, classes)))[:num_images]
                rows = rows[np.argsort(np.asarray(targets)[rows], kind="stable")]  # folders come class by class
                pictures = np.stack([read_gray(images[row]) for row in rows])
                shares.append(round(mirror_accuracy(pictures), 3))
            found.setdefault(name, {})[str(num_images)] = shares
            print(name, num_images, shares)
    common.write_result(args.out, {"limit": LIMIT, "shares": found, "machine": common.machine(command=COMMAND)})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
