"""predict.py over several processes: one table, in the order and of the bytes of one process, or one error."""

import hashlib
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clustering.features import Embedder
from clustering.prediction import predict_files
from data.augment import Evaluation
from data.files.reading import Reading
from models import build_backbone
from models.models import ClusteringModel
from report.outputs import Columns
from report.sorting import Sorter, cluster_folders, link_file
from report.targets import BlockWriter
from system import distributed
from system.errors import ConfigError, UserError
from system.runtime import Runtime
from system.sharing import lead
from tests.distributed.test_distributed import ROOT, free_port
from tests.stage import command
from tests.stages.test_predict import make_run

pytestmark = pytest.mark.slow
NUM_CLUSTERS = 3


def draw_images(folder, num=11):
    """Images of random colors; the fifth and the last two are none."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(num):
        path = folder / f"{number:02d}.png"
        Image.fromarray(random.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(path)
        if number in (4, num - 2, num - 1):
            path.write_bytes(b"no image")
    return sorted(map(str, folder.glob("*.png")))


def shared_out(kind):
    """What rank 0 writes of images dealt out two at a time: digests of its files, its counts, its links."""
    torch.manual_seed(0)
    model = ClusteringModel(build_backbone("resnet8", "cifar", width=4), NUM_CLUSTERS).eval()
    embedder = Embedder(Evaluation(8, {"mean": [0.5] * 3, "std": [0.25] * 3}), Runtime.start("cpu", "fp32"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = draw_images(folder / "images")
        os.chdir(folder)
        paths = [os.path.relpath(path) for path in paths]

        def write(share):
            sorter = Sorter(folder / "to", link_file, cluster_folders(3))
            writer = BlockWriter(kind, Columns(2), "features.npy", model.backbone_dim, sorter)
            with Path("table").open("wb") as file:
                writer.write(share(paths[i : i + 2] for i in range(0, len(paths), 2)), file)
            digests = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in ("table", "features.npy")]
            links = sorted(str(path.relative_to(folder / "to")) for path in (folder / "to").rglob("*.png"))
            return digests, links, writer.num_images, writer.num_unreadable

        work = partial(predict_files, model, 0, reading=Reading(8, False), embedder=embedder)
        try:
            return lead(write, work)
        finally:
            os.chdir(ROOT)


def squares():
    """The rank that worked on each of seven numbers, and their squares."""
    return lead(lambda share: list(share(range(7))), lambda x: (distributed.rank(), x * x))


def refused(body, work):
    try:
        lead(body, work)
    except UserError as error:
        return str(error), error.exit_code
    return None


def fail_at_3(x):
    if x == 3:
        raise UserError(f"{x} is a bad number")
    return x


def endless(share):
    for x in share(iter(int, 1)):
        raise ConfigError(f"no place for {x}")


def bad_items():
    yield from range(4)
    raise UserError("the list ends early")


CASES = {
    "csv": partial(shared_out, ".csv"),
    "parquet": partial(shared_out, ".parquet"),
    "squares": squares,
    "work fails": lambda: refused(lambda share: list(share(range(9))), fail_at_3),
    "writing fails": lambda: refused(endless, abs),
    "listing fails": lambda: refused(lambda share: list(share(bad_items())), abs),
    "nothing": lambda: lead(lambda share: list(share([])), abs),
}


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_one_table_of_the_bytes_of_one_process(ranks, name):
    digests, links, num_images, num_unreadable = CASES[name]()
    assert (num_images, num_unreadable, len(links)) == (8, 3, 8)
    assert [found[name] for found in ranks] == [(digests, links, 8, 3)] * len(ranks)


def test_items_go_to_the_ranks_in_turn_and_come_back_in_order(ranks):
    expected = [(number % len(ranks), number * number) for number in range(7)]
    assert [found["squares"] for found in ranks] == [expected] * len(ranks)
    assert [found["nothing"] for found in ranks] == [[]] * len(ranks)


def test_an_error_anywhere_is_raised_on_every_rank(ranks):
    for name, expected in {
        "work fails": ("3 is a bad number", 1),
        "writing fails": ("no place for 0", 2),
        "listing fails": ("the list ends early", 1),
    }.items():
        assert CASES[name]() == expected
        assert [found[name] for found in ranks] == [expected] * len(ranks)


def torchrun(words, given):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    whole = [*launcher, "--master_port", str(free_port()), str(ROOT / "predict.py"), *map(str, words)]
    return subprocess.run(whole, env=environment, capture_output=True, input=given, timeout=240)


def test_a_list_on_the_standard_input_and_a_table_on_the_standard_output(tmp_path):
    paths = draw_images(tmp_path / "images")
    _, folder = make_run(tmp_path)
    words = ["--model", folder, "-", "--device", "cpu", "--embeddings"]
    done = torchrun([*words, tmp_path / "two.npy"], "\n".join(paths).encode())
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"skipped '") == 3 and done.stderr.count(b"8 images; 3 files skipped") == 1
    alone = ["--model", folder, *paths, "--device", "cpu", "--output", tmp_path / "one.csv", "--embeddings"]
    assert command("predict", *alone, tmp_path / "one.npy") == 0
    assert done.stdout == (tmp_path / "one.csv").read_bytes()
    assert (tmp_path / "two.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()


def test_an_error_ends_all_ranks_with_one_sentence(tmp_path):
    _, folder = make_run(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    done = torchrun(["--model", folder, tmp_path / "broken.png", "--device", "cpu"], b"")
    assert done.returncode == 1
    assert done.stderr.count(b"error: none of the 1 files can be read") == 1
    assert b"another rank has ended" not in done.stderr
