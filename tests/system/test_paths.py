"""Paths as people give them: expanded as a shell would, and names that exist are left alone."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.errors import ConfigError
from system.paths import expand_path, open_regular


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/disk")
    monkeypatch.setenv("USER", "me")
    monkeypatch.delenv("NOPE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("given_", "expanded"),
    [
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("$HOME/x", "/home/me/x"),
        ("${DISK}/x/$USER/y", "/disk/x/me/y"),
        ("/scratch/$USER/x", "/scratch/me/x"),
        ("run-$USER", "run-me"),
        ("a/~/b", "a/~/b"),
        ("./~/x", "./~/x"),
        ("-", "-"),
        ("", ""),
        ("/", "/"),
        ("a//b/", "a//b/"),
        ("$5_to_$10/x", "$5_to_$10/x"),
        ("100$", "100$"),
    ],
)
def test_expansion(given_, expanded):
    assert expand_path(given_) == expanded


@pytest.mark.parametrize("path", ["$NOPE/x", "a/${NOPE}", "~nobody_of_that_name/x", "a\0b", "${}"])
def test_what_cannot_be_expanded_is_an_error(path):
    with pytest.raises(ConfigError, match=r"the path "):
        expand_path(path)


def test_names_that_exist_are_taken_as_they_are(place):
    for name in ("$USER.d", "sub/$HOME", "sub/$NOPE", "~$draft.png", "$NOPE"):
        (place / name).mkdir(parents=True)
        assert expand_path(f"{name}/x") == f"{name}/x"
        assert expand_path(place / name) == str(place / name)


def test_a_folder_that_an_earlier_mistake_made_does_not_stand_in_the_way(place):
    for name in ("~", "$HOME"):
        (place / name).mkdir()
        assert expand_path(f"{name}/x") == "/home/me/x"


@given(st.text(st.characters(exclude_characters="$~\0"), max_size=40))
def test_other_text_stays(text):
    assert expand_path(text) == text


def test_only_regular_files_are_opened(place):
    (place / "file").write_bytes(b"x")
    (place / "link").symlink_to("file")
    assert open_regular(place / "file").read() == open_regular(place / "link").read() == b"x"
    os.mkfifo(place / "pipe")
    for name in ("pipe", "/dev/zero", "missing", place):
        failed = []

        def open_it(name=name, failed=failed):
            try:
                open_regular(name)
            except OSError as error:
                failed.append(error.strerror)

        thread = threading.Thread(target=open_it, daemon=True)  # a pipe without a writer would hold it forever
        thread.start()
        thread.join(20)
        assert failed and failed[0]
