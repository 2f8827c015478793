"""Readers of untrusted files: what fits is read, all else is one sentence, and nothing is allocated."""

import io
import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from system.bounded import MAX_RECORD, map_array, parse_json, read_bytes, read_json, read_json_lines, what_it_is
from system.errors import UserError
from training.record import Record

NUM_BYTES = 4 << 20  # that a reader may take for a file of a few hundred bytes


def sentence(call, *arguments):
    """The error of a call, which has one line and came without a large allocation."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            call(*arguments)
        assert tracemalloc.get_traced_memory()[1] < NUM_BYTES
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    return str(error.value)


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def with_header(header, data=b"\0" * 64, version=1):
    header = header.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + data


def described(shape, kind="<i8", fortran=False):
    return f"{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': {shape}, }}"


@pytest.mark.parametrize("version", [None, (1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(5, dtype=">i4"),
        np.float16(3),
        np.array([[True, False]]),
    ],
    ids=["int64", "fortran", "big endian", "a number", "bool"],
)
def test_arrays_are_read_as_numpy_reads_them(tmp_path, array, version):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.asarray(array), version)
    found = map_array(tmp_path / "a.npy")
    assert found.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(found, array)


BAD_ARRAYS = {
    "brackets": (with_header("(" * 9000), "does not give the type"),
    "huge": (with_header(described("(1000000000, 1000000000)")), "which no file can fill"),
    "huge but possible": (with_header(described("(1000000000, 100)")), "but 64 follow"),
    "empty and huge": (with_header(described(f"(0, {2**62})")), "which no file can fill"),
    "negative": (with_header(described("(-1, 3)")), "does not give the type"),
    "two shapes": (with_header(described("(1,)") + described("(2,)")), "does not give the type"),
    "digits": (with_header(described("(" + "1" * 5000 + "x)")), "does not give the type"),
    "code": (with_header("__import__('os').system('false')"), "does not give the type"),
    "no such type": (with_header(described("(1,)", "<f5")), "not a readable .npy file"),
    "long header": (b"\x93NUMPY\x02\0\xff\xff\xff\xff" + b"(" * 100, "header would have 4294967295 bytes"),
    "objects": (npy(np.array([{}, {}]), allow_pickle=True), "Python objects"),
    "structured": (npy(np.zeros(3, dtype=[("a", "i4")])), "does not give the type"),
    "words": (npy(np.array(["a", "b"])), "does not give the type"),
    "no numbers": (npy(np.zeros((0, 3))), "without a number"),
    "truncated": (npy(np.arange(100))[:-1], "truncated"),
    "nothing": (b"", "it has no bytes"),
    "an archive": (b"PK\x03\x04" + b"\0" * 90, "a zip archive"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_are_none(tmp_path, case):
    content, words = BAD_ARRAYS[case]
    (tmp_path / "a.npy").write_bytes(content)
    assert words in sentence(map_array, tmp_path / "a.npy")


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=4))
@example(b"\x93NUMPY\x01\0", 0, b"")
def test_any_bytes_are_an_array_or_a_sentence(tmp_path_factory, noise, place, change):
    """Random bytes, and a whole file with a random change."""
    whole = npy(np.arange(6).reshape(2, 3))
    path = tmp_path_factory.mktemp("any") / "a.npy"
    for content in (noise, b"\x93NUMPY\x01\0" + noise, whole[:place] + change + whole[place + len(change) :]):
        path.write_bytes(content)
        try:
            found = map_array(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert found.nbytes <= len(content)


GOOD = {"status": "finished", "seconds": 3.5, "result": {"acc": 0.5, "purity_val": {"1": 0.25}}, "more": [1]}
BAD_RECORDS = {
    "a list": "[]",
    "a number": "3",
    "no JSON": "{",
    "not UTF-8": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "a long number": '{"status": "finished", "seconds": ' + "9" * 9999 + "}",
    "seconds are words": json.dumps(GOOD | {"seconds": "3"}),
    "seconds are infinite": json.dumps(GOOD | {"seconds": float("inf")}),
    "status is a list": json.dumps(GOOD | {"status": []}),
    "result is a list": json.dumps(GOOD | {"result": [1]}),
    "a score is words": json.dumps(GOOD | {"result": {"acc": "much"}}),
    "purity is a list": json.dumps(GOOD | {"result": {"purity_val": [1]}}),
    "no seconds": json.dumps({"status": "finished"}),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_records_of_another_form(tmp_path, case):
    content = BAD_RECORDS[case]
    (tmp_path / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "run.json is damaged" in sentence(read_json, tmp_path / "run.json", Record)


def test_a_record_is_returned_as_it_stands(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(GOOD))
    assert read_json(tmp_path / "run.json", Record) == GOOD
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", Record)


def test_a_file_that_is_too_large_or_no_file(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MAX_RECORD + 1)
    with pytest.raises(UserError, match="too large"):
        read_bytes(tmp_path / "large.json")
    os.mkfifo(tmp_path / "pipe.json")
    assert "not a regular file; move it away" in sentence(read_bytes, tmp_path / "pipe.json")
    assert "directory; move it away" in sentence(read_bytes, tmp_path)


@given(st.binary(max_size=200), st.integers(0, 90), st.binary(max_size=3))
def test_any_bytes_are_a_record_or_an_error(noise, place, change):
    whole = json.dumps(GOOD).encode()
    for content in (noise, whole[:place] + change + whole[place + len(change) :]):
        try:
            found = parse_json(content, Record)
        except ValueError:
            continue
        assert isinstance(found["status"], str) and isinstance(found["seconds"], int | float)


@pytest.mark.parametrize(
    "line", ["3", "[]", '{"loss": {"a": 1}}', '{"loss": [[1]]}', "{", '{"a": "' + "x" * 2_000_000 + '"}']
)
def test_lines_of_another_form(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged \(line 2"):
        read_json_lines(tmp_path / "metrics.jsonl")


def test_lines_as_runs_write_them(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": NaN, "sizes": [1, 2]}\n{"epoch": 2}\n')
    first, second = read_json_lines(tmp_path / "metrics.jsonl")
    assert first["sizes"] == [1, 2] and second == {"epoch": 2}


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"\0" * 100, "it holds zeros"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{"dtype"', "safetensors"),
        (b"\x1f\x8b\x08", "unpack it"),
        (b"\x89PNG\r\n", "a picture"),
    ],
)
def test_what_a_file_is(tmp_path, start, words):
    (tmp_path / "x").write_bytes(start)
    assert words in (what_it_is(tmp_path / "x") or "")
