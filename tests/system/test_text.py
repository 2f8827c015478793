"""Words from outside: shown on any terminal, never markup, never a formula."""

import csv
import io
import os
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from system import console
from system.errors import ConfigError, UserError
from system.text import LINE, csv_cell, csv_path, csv_text, escape, markdown_text, one_line, quoted, shown

ANY = st.text(st.characters(exclude_categories=[]), max_size=300)  # surrogates and control characters too
NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@given(ANY, st.integers(10, 300))
@example("\x1b[31mred\x07\r\n\t", 300)
@example("left\u202eright\u2066\u200b\ufeff", 300)
def test_what_is_shown_is_printable_one_line_and_short(text, most):
    word = shown(text, most)
    assert word.isprintable() and len(word) <= most
    assert shown(word, most) == word  # a sentence may stand in another
    if text.isprintable() and len(text) <= most:
        assert word == text
    word.encode("utf-8")


def test_escapes_say_which_character_or_byte_it_was():
    assert escape("\x1b[1m\n") == r"\x1b[1m\n"
    assert escape(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert escape("a\x9bb") == r"a\u009bb"  # not the byte 9b
    assert escape("\u202etxt.exe") == r"\u202etxt.exe"
    assert escape("Bär 日本 🐻.png") == "Bär 日本 🐻.png"


def test_long_words_keep_both_ends():
    word = shown("/data/" + "x" * 5_000_000 + "/last.png")
    assert len(word) == 200 and word.startswith("/data/xxx") and "..." in word and word.endswith("/last.png")


@given(ANY)
def test_no_message_leaves_a_line_or_says_what_a_terminal_obeys(text):
    for kind in (UserError, ConfigError):
        assert str(kind(f"{text}; advice")).isprintable()
        assert str(kind(str(kind(text)))) == str(kind(text))
    assert len(str(UserError(text * 100))) <= LINE
    assert str(UserError("x" * 5_000_000 + "; do this")).endswith("; do this")


@given(ANY)
def test_say_and_warn_print_one_line_each(text):
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        patch.setenv("NO_COLOR", "1")
        console.say(text)
        console.warn(text)
    assert out.getvalue() == one_line(text) + "\n"
    assert err.getvalue().startswith("warning: ") and err.getvalue().count("\n") == 1
    assert err.getvalue()[:-1].isprintable()


def test_a_block_keeps_its_own_lines(capsys):
    console.say_block("a\n\x1bb\nc")
    assert capsys.readouterr().out == "a\n\\x1bb\nc\n"


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(NAMES, min_size=1, max_size=3))
@example(["it's", "$(touch x)", "a\nb", "\udce9'\\\\", "`x`", "!1"])
def test_a_quoted_command_is_what_bash_reads(words):
    text = quoted(words)
    assert text.isprintable()
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, check=True, env={"LC_ALL": "C"}
    ).stdout
    assert said == b"".join(os.fsencode(word) + b"\0" for word in words)


@given(ANY)
@example("=1+1")
@example("-cmd|'/C calc'!A0")
@example("\t=1")
def test_no_cell_is_a_formula(text):
    assert not csv_path(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    cell = csv_cell(text)
    if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        float(cell)
    line = io.StringIO()
    csv.writer(line).writerow([cell, "next"])
    assert next(csv.reader(io.StringIO(line.getvalue(), newline=""))) == [cell, "next"]


@given(st.lists(st.tuples(ANY, ANY), max_size=5))
@example([("a\rb.jpg", "1"), ("a\r\nb.jpg", "2"), ("c.jpg\r", "\r\n")])
def test_rows_read_back_whatever_they_hold_and_end_with_a_line_feed(rows):
    text = csv_text(rows)
    assert [tuple(row) for row in csv.reader(io.StringIO(text, newline=""))] == rows
    assert text.count("\n") == len(rows) + sum(cell.count("\n") for row in rows for cell in row)


def test_numbers_stay_numbers():
    assert [csv_cell(text) for text in ("-1", "+0.5", "1e-4", "-1e-4", "-x")] == ["-1", "+0.5", "1e-4", "-1e-4", "'-x"]


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("confidence_threshold", "confidence_threshold"),
        ("[0.2, 1.0]", "[0.2, 1.0]"),
        ("a|b", "a\\|b"),
        ("<img src=x>", "&lt;img src=x>"),
        ("&lt;", "&amp;lt;"),
        ("**x** `y` $z$", "\\*\\*x\\*\\* \\`y\\` \\$z\\$"),
        ("[x](javascript:1)", "[x]\\(javascript:1)"),
        ("_x_", "\\_x\\_"),
        ("a\nb", "a\\\\nb"),
    ],
)
def test_markdown_shows_it_literally(text, literal):
    assert markdown_text(text) == literal
