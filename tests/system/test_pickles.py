"""PyTorch files and pickles that would cost far more memory or time than their size: refused before they are loaded."""

import copy
import io
import subprocess
import sys
import zipfile

import pytest
import torch
from easydict import EasyDict
from hypothesis import given
from hypothesis import strategies as st

from data.cifar import read_pickle
from system.errors import UserError
from system.files import REPOSITORY
from system.pickles import load_untrusted
from utils import clusters

MEASURE = """
import resource, sys, time
from pathlib import Path
from data.cifar import read_pickle
from easydict import EasyDict
from system.errors import UserError
from utils import clusters
p = EasyDict(backbone="resnet8", stem="cifar", width=4)
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    read_pickle(Path(sys.argv[1])) if sys.argv[2] == "cifar" else clusters.load_clustering(p, sys.argv[1])
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def rewritten(path, change, compression=zipfile.ZIP_STORED, **more):
    """A PyTorch file whose entries went through `change(name, data)`, with more of them."""
    original = io.BytesIO(saved({"a": torch.zeros(1000)}))
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry.filename, source.read(entry)))
        for name, data in more.items():
            target.writestr(name, data)


def deflated(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w") as file:
            for _ in range(400):
                file.write(bytes(1 << 20))


def overlapping(path):
    """Forty entries that are the same bytes of the file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(100_000))
        for number in range(40):
            entry = copy.copy(archive.filelist[-1])
            entry.filename = f"archive/data/{number + 1}"
            archive.filelist.append(entry)


def heads(num, distinct):
    shared = torch.zeros(1)
    return lambda path: torch.save(
        {f"cluster_head.{i}.x": torch.zeros(1) if distinct else shared for i in range(num)}, path
    )


def expanded(path):
    large = torch.zeros(1, 1).expand(10**9, 16)
    torch.save({"cluster_head.0.weight": large, "cluster_head.0.bias": large[:, 0]}, path)


def with_pickle(pickle):
    return lambda path: rewritten(path, lambda name, data: pickle if name.endswith("data.pkl") else data)


BYTEARRAY = b"\x80\x02}q\0X\x01\0\0\0acbuiltins\nbytearray\n\x8a\x05\0\xe4\x0bT\x02\x85Rs."
TENSOR = b"\x80\x02}q\0X\x01\0\0\0actorch\nFloatTensor\n\x8a\x05\0\xe4\x0bT\x02\x85Rs."
BOMBS = {
    "deflated": (deflated, "compressed entries"),
    "entries that overlap": (overlapping, "larger together than the file"),
    "many heads": (heads(30_000, False), "a model has at most 20,000"),
    "many entries": (heads(21_000, True), "a zip file of 21,00"),
    "a few more heads": (heads(1100, False), "cluster heads"),
    "expanded": (expanded, "far larger than the file"),
    "a million lists": (lambda path: path.write_bytes(b"\x80\x02" + b"]" * 2_000_000), "more than 500,000 steps"),
    "bytes by number": (with_pickle(BYTEARRAY), "asks for 'builtins.bytearray'"),
    "a tensor by number": (with_pickle(TENSOR), "asks for 'torch.FloatTensor'"),
    "two of one name": (lambda path: rewritten(path, lambda n, d: d, **{"A/x": b"", "a/X": b""}), "two entries of one"),
    "a program": (lambda path: rewritten(path, lambda n, d: d, **{"a/constants.pkl": b"."}), "TorchScript"),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused(tmp_path, case):
    make, words = BOMBS[case]
    path = tmp_path / "bomb.pth.tar"
    make(path)
    with pytest.raises(UserError) as error:
        clusters.load_clustering(EasyDict(backbone="resnet8", stem="cifar", width=4), path)
    assert words in str(error.value) and "\n" not in str(error.value)


CIFAR_BOMBS = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "lists": b"\x80\x02" + b"]" * 4_500_000 + b".",
    "a length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["deflated", "many heads", "many entries", "bytes by number", *CIFAR_BOMBS])
def test_bombs_cost_little_memory(tmp_path, case):
    path = tmp_path / "bomb"
    if case in CIFAR_BOMBS:
        path.write_bytes(CIFAR_BOMBS[case])
    else:
        BOMBS[case][0](path)
    kind = "cifar" if case in CIFAR_BOMBS else "model"
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, path, kind], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    *message, kibibytes = run.stdout.splitlines()
    assert any(str(path) in line for line in message)
    assert int(kibibytes) < 300 << 10


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_files_load(tmp_path, zipped):
    state = {"a": torch.arange(5), "b": {"c": torch.ones(2, 2, dtype=torch.float16), "d": 3}}
    torch.save(state, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    found = load_untrusted(tmp_path / "x")
    assert torch.equal(found["a"], state["a"]) and torch.equal(found["b"]["c"], state["b"]["c"])
    assert found["b"]["d"] == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
        (b"<!doctype html><title>Sign in</title>", "a web page"),
        (b"\0" * 1000, "holds zeros"),
        (b'\x08\0\0\0\0\0\0\0{"x":{}}', "safetensors"),
        (b"hello", "give a file such as model.pth.tar"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, content, words):
    (tmp_path / "model.pth.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pth\.tar is not a PyTorch checkpoint") as error:
        load_untrusted(tmp_path / "model.pth.tar")
    assert words in str(error.value)


@given(st.binary(max_size=60), st.integers(0, 2000), st.binary(min_size=1, max_size=4))
def test_any_bytes_load_or_are_a_sentence(tmp_path_factory, noise, place, change):
    whole = saved({"a": torch.zeros(3)})
    path = tmp_path_factory.mktemp("any") / "x"
    for content in (noise, b"\x80\x02" + noise, b"PK\x03\x04" + noise, whole[:place] + change + whole[place + 1 :]):
        path.write_bytes(content)
        for read in (load_untrusted, read_pickle):
            try:
                read(path)
            except UserError as error:
                assert "\n" not in str(error)
