"""Does the report stay fluent with 50,000 images? Its size, and frames a second while its sheet scrolls, in Chromium.

    python -m benchmarks.scrolling --data DIR               # DIR: 50,000 images or more, such as CIFAR-10 as files
    python -m benchmarks.scrolling --num_images 2000 --seconds 2 --out /tmp/scrolling.json        # try, with noise

Builds report.html of so many images in 10 clusters with random features, opens it in headless Chromium, and scrolls the
contact sheet of its largest group from its top downwards, a third of its height a frame for tiles of each size, so that
every frame shows images that were not there before. Frames are counted by the page itself (requestAnimationFrame, at
most 60 a second). Needs selenium and Chromium, as the browser tests do; CHROMIUM and CHROMEDRIVER name them. Writes
benchmarks/results/scrolling.json.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import common
from data.files.listing import list_images
from report.build import write_report
from report.contents import ReportData

NUM_CLUSTERS, SIDE = 10, 64
SIZES = {"small": 48, "middle": 80, "large": 132}  # as the page offers them
SCROLL = """
const [seconds, done] = arguments;
const sheet = document.querySelector("#sheet");
sheet.scrollTop = 0;
const times = [];
function frame(now) {
  times.push(now);
  if (now - times[0] > 1000 * seconds) return done(times);
  const end = sheet.scrollHeight - sheet.clientHeight;
  sheet.scrollTop = (sheet.scrollTop + sheet.clientHeight / 3) % Math.max(end, 1);
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
"""


def find_pictures(data: Path | None, num_images: int) -> tuple[list[str], Callable[[int], Any]]:
    """Names and pictures: images of a folder, or noise."""
    if data is None:
        noise = np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 3), dtype=np.uint8)
        return [f"noise/{i:06d}.png" for i in range(num_images)], lambda i: noise[i % len(noise)]
    paths = list_images(data).paths[:num_images]
    if len(paths) < num_images:
        raise SystemExit(f"{data} holds {len(paths):,} images; give a folder with {num_images:,}, or --num_images")
    return paths, lambda i: Image.open(data / paths[i]).convert("RGB")


def build(path: Path, data: Path | None, num_images: int) -> None:
    """Write the page: images, random clusters and features."""
    generator = np.random.default_rng(0)
    paths, picture = find_pictures(data, num_images)
    neighbors = (np.arange(num_images)[:, None] + np.arange(9)) % num_images
    write_report(
        path,
        ReportData(
            title=f"{num_images:,} images",
            paths=paths,
            thumbnail=picture,
            probabilities=generator.dirichlet(np.full(NUM_CLUSTERS, 0.1), num_images).astype(np.float32),
            features=generator.normal(size=(num_images, 16)).astype(np.float32),
            neighbors=neighbors,
        ),
    )


def start(profile: str) -> Any:
    """A headless Chromium."""
    from selenium import webdriver  # only the tests need it, too
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,900",
    ):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={profile}")
    return webdriver.Chrome(options, Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")))


def scroll(browser: Any, side: int, seconds: float) -> dict[str, Any]:
    """Frames a second while the sheet with tiles of a side scrolls, and the longest frames."""
    browser.execute_script(
        "const size = document.querySelector('#sheet-size'); size.value = arguments[0];"
        "size.dispatchEvent(new Event('change')); document.querySelector('#label').scrollIntoView()",
        str(side),
    )
    times = browser.execute_async_script(SCROLL, seconds)
    frames = sorted(after - before for before, after in itertools.pairwise(times))
    return {
        "frames_per_second": round(1000 * len(frames) / (times[-1] - times[0]), 1),
        "median_ms": round(statistics.median(frames), 1),
        "slowest_of_20_ms": round(frames[int(0.95 * (len(frames) - 1))], 1),
        "longest_ms": round(frames[-1], 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder of images; by default noise")
    parser.add_argument("--num_images", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="to scroll at each size")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "scrolling.json")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Path(folder) / "report.html"
        began = time.monotonic()
        build(page, args.data, args.num_images)
        seconds = time.monotonic() - began
        browser = start(f"{folder}/profile")
        try:
            browser.set_script_timeout(60 + args.seconds)
            browser.get(page.as_uri())
            usable = browser.execute_script("return performance.getEntriesByName('ready')[0].startTime")
            version = browser.capabilities["browserVersion"]
            found = {name: scroll(browser, side, args.seconds) for name, side in SIZES.items()}
        finally:
            browser.quit()
        result = {
            "images": args.num_images,
            "pictures": "noise" if args.data is None else "files",
            "megabytes": round(page.stat().st_size / 1e6, 1),
            "build_seconds": round(seconds, 1),
            "usable_after_ms": round(usable),
            "scrolling": found,
            "chromium": version,
            "machine": common.machine(command="python -m benchmarks.scrolling --data DIR"),
        }
    print(json.dumps(result, indent=1))
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
