"""What of a folder counts as an image and as a class, what is left out, and what is said of it."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import DATASETS
from data.files import listing
from data.files.formats import SUFFIXES
from data.files.listing import SYSTEMS, list_images
from data.files.unseen import list_inputs
from data.folder import find_images
from system.errors import UserError

build = DATASETS["folder"]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def classes_of(root, *names, classes=None):
    files = find_images(touch(root, *names), "images", classes)
    return [files.classes[target] if target >= 0 else None for target in files.targets.tolist()]


# --- what is ignored


def test_other_files_are_counted_by_kind(tmp_path, capsys):
    touch(tmp_path, *(f"{i}.HEIC" for i in range(6)), *(f"{i}.mov" for i in range(3)), "a.png")
    find_images(tmp_path, "images", None)
    assert "9 other files ignored (6 heic, 3 mov)" in capsys.readouterr().out
    touch(
        tmp_path, ".DS_Store", "._a.png", "README", "x.a\x1b[31m", "x.waytoolongending", *(f"x.k{i}" for i in range(4))
    )
    find_images(tmp_path, "images", None)
    said = capsys.readouterr().out
    assert "18 other files ignored (6 heic, 3 mov, 2 hidden, 2 other, 1 " in said
    assert "\x1b" not in said


def test_folders_of_systems_are_left_out_and_said(tmp_path, capsys):
    names = ["@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
    touch(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", *(f"{name}/x.png" for name in names))
    touch(tmp_path, "cat/@eaDir/1.png/SYNOPHOTO_THUMB.png")
    assert classes_of(tmp_path) == ["cat", "cat", "dog", "dog"]
    said = capsys.readouterr().out
    assert (
        "system folders left out: '#recycle', '$RECYCLE.BIN', '@eaDir', 'System Volume Information', 'cat/@eaDir'"
        in said
    )
    assert "and 1 more" in said
    assert list(list_inputs([str(tmp_path)])) == [f"{tmp_path}/{name}" for name in list_images(tmp_path).paths]


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A directory with a sub-directory that cannot be read, whoever runs this."""
    touch(tmp_path, "locked/3.png")
    for name in ("1.png", "open/2.png"):
        touch(tmp_path, name)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    return tmp_path


def test_an_unreadable_folder_is_named_and_left_out_as_a_file_is(locked, capsys):
    assert build(locked, "train", 8, on_bad_image="skip").paths == ["1.png", "open/2.png"]
    said = capsys.readouterr().err
    assert said.count("'locked' (permission denied); left out") == 1
    with pytest.raises(UserError, match=r"'locked' \(permission denied\); .*on_bad_image: skip"):
        build(locked, "train", 8)
    assert list(list_inputs([str(locked)])) == [f"{locked}/1.png", f"{locked}/open/2.png"]
    assert "locked': permission denied" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be read: permission denied"):
        list_images(locked / "locked")
    endless = f"{'a' * 300}.png"  # no system has such names
    assert list(list_inputs([endless, str(locked / "1.png")])) == [endless, f"{locked}/1.png"]


# --- what is a class


CASES = {
    "wrapped without classes": (["images/1.png", "images/2.png"], [None, None]),
    "wrapped twice": (["zip/images/a/1.png", "zip/images/a/2.png", "zip/images/b/1.png"], ["a", "a", "b"]),
    "wrapped, one outside the classes": (["zip/a/1.png", "zip/a/2.png", "zip/3.png"], [None] * 3),
    "one class": (["cat/1.png", "cat/deep/2.png"], [None, None]),
    "one image a class": (["a/1.png", "b/2.png", "c/3.png"], [None] * 3),
    "one class of two images": (["a/1.png", "a/2.png", "b/3.png"], ["a", "a", "b"]),
    "alike beginnings are no wrapper": (["ab/1.png", "ab/2.png", "ac/1.png"], ["ab", "ab", "ac"]),
    "splits": (["train/a/1.png", "train/b/2.png", "val/a/3.png", "Test/a/4.png"], [None] * 4),
    "a split, wrapped": (["train/a/1.png", "train/a/2.png", "train/b/3.png"], ["a", "a", "b"]),
    "a class named train": (["car/1.png", "car/2.png", "train/3.png"], ["car", "car", "train"]),
}


@pytest.mark.parametrize("name", CASES)
def test_folders_are_classes_where_they_say_something(tmp_path, name, capsys):
    paths, expected = CASES[name]
    found = classes_of(tmp_path, *paths)
    assert Counter(found) == Counter(expected)
    assert ("look like the splits" in capsys.readouterr().err) == (name == "splits")


def test_splits_beside_classes_are_warned_of(tmp_path, capsys):
    found = classes_of(tmp_path, "zip/train/1.png", "zip/train/2.png", "zip/val/1.png", "zip/cat/1.png")
    assert found == ["cat", "train", "train", "val"]
    said = capsys.readouterr().err
    assert "train and val in" in said
    assert "count as classes" in said
    assert f"give {tmp_path / 'zip' / 'train'}" in said


def test_classes_of_training_make_classes_of_what_would_be_none(tmp_path):
    assert classes_of(tmp_path / "one", "dog/1.png", classes=["cat", "dog"]) == ["dog"]
    assert classes_of(tmp_path / "wrapped", "zip/dog/1.png", "zip/cat/2.png", classes=["cat", "dog"]) == ["cat", "dog"]
    with pytest.raises(UserError, match="1 classes that are not in training: emu"):
        classes_of(tmp_path / "emu", "dog/1.png", "emu/1.png", classes=["cat", "dog"])


# --- any tree

PARTS = st.sampled_from(
    [
        "a",
        "b",
        "@eaDir",
        "LOST+FOUND",
        ".git",
        "é",
        "\udcff",
        "new\nline",
        "$5",
        "-x",
        "\x1b[31m",
        "train",
        "x.png",
        "a b",
    ]
)
FILES = st.sampled_from(
    ["1.png", "2.JPG", "3.heic", ".4.png", "5", "6.jfif", "\udcfe.pgm", "x\n.tif", "%s.gif", "7.png.txt"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(PARTS, max_size=3), FILES), min_size=1, max_size=12))
def test_any_tree_is_listed_as_a_naive_walk_does(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    for parts, name in tree:
        touch(root, "/".join([*parts, name]))
    expected, others = [], 0
    for parts, name in sorted({(tuple(parts), name) for parts, name in tree}):
        if any(part.startswith(".") or part.lower() in SYSTEMS for part in parts):
            continue
        image = not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        expected += ["/".join([*parts, name])] * image
        others += not image
    found = list_images(root)
    assert sorted(found.paths) == sorted(expected)
    assert found.others.total() == others
    assert found.words.isprintable()
    if expected:
        files = find_images(root, "images", None)
        named = {files.classes[target] for target in files.targets.tolist() if target >= 0}
        assert len(named) != 1 and all(name.isascii() or name.encode() for name in named)
