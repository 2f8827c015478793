"""Command lines: options by either spelling, words after `--`, and what is unknown is named with the nearest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster
import demo
import eval as evaluation
import moco
import predict
import scan
import selflabel
import simclr
import sweep
from utils import cli

SCRIPTS = [cluster, demo, evaluation, moco, predict, scan, selflabel, simclr, sweep]


def make_parser():
    made = cli.base_parser("What it does.", folder="a folder")
    made.add_argument("--num_clusters", type=int)
    made.add_argument("--output", type=cli.path)
    made.add_argument("--dry_run", action="store_true")
    return made


def parse(*words):
    return make_parser().parse_intermixed_args(list(words))


@pytest.mark.parametrize("sign", ["=", " "])
@pytest.mark.parametrize("name", ["--num_clusters", "--num-clusters", "--num-clus"])
def test_either_spelling(name, sign):
    args = parse("photos", *f"{name}{sign}3".split(" "), "--dry-run", "seed=-1")
    assert (args.folder, args.num_clusters, args.dry_run, args.overrides) == ("photos", 3, True, ["seed=-1"])


def test_words_after_two_dashes_are_plain():
    args = parse("--num_clusters", "3", "--", "-x.png", "--dry_run", "--", "a")
    assert (args.folder, args.overrides, args.dry_run) == ("-x.png", ["--dry_run", "--", "a"], False)
    assert parse("photos", "epochs=1", "--").overrides == ["epochs=1"]


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=10), min_size=1, max_size=5))
def test_any_word_may_stand_after_two_dashes(words):
    args = parse("--dry-run", "--", *words)
    assert [args.folder, *args.overrides] == words and args.dry_run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photos", "--numclusters", "3"], "unknown option --numclusters; did you mean --num_clusters?"),
        (["photos", "--num-cluster=3", "--ouput=x"], "unknown option --ouput; did you mean --output?"),
        (["photos", "--\x1b[31mred"], r"unknown option --\x1b[31mred (see"),
        (
            ["photos", "--epochs", "3"],
            "unknown option --epochs; keys of the config are given without dashes, as in epochs=",
        ),
        (["photos", "--optimizer_kwargs.lr=1"], "without dashes, as in optimizer_kwargs.lr=…"),
        (["photos", "--Epochs=3"], "without dashes, as in epochs=…"),
        (["photos", "--x"], "unknown option --x (see"),
        (["photos", "--lr=0.1"], "unknown option --lr (see"),
        (["-x.png"], "unknown option -x.png; a name that begins with - goes after --"),
        (["photos", "--num_clusters", "\x1b[2J"], r"\x1b[2J"),
        ([], "are required: FOLDER"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(capsys, monkeypatch, words, said):
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error
    assert error.startswith("error: ") and error.count("\n") == 1 and error[:-1].isprintable()


def test_a_path_that_cannot_be_looked_at_is_a_sentence(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    endless = tmp_path / ("a" * 300)
    assert cli.run(lambda _: endless.stat().st_mode, []) == 1
    said = f"error: cannot use {endless}: file name too long; check the path, its permissions and the disk\n"
    assert capsys.readouterr().err == said


def test_a_huge_word_is_cut(capsys):
    with pytest.raises(SystemExit):
        parse("photos", "--" + "x" * 5_000_000)
    assert len(capsys.readouterr().err) < 1000


def actions_of(script, monkeypatch):
    """The options of a script's parser."""
    found = []

    def stop(self, *_):
        found.extend(self._actions)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Parser, "parse_intermixed_args", stop)
    with pytest.raises(KeyboardInterrupt):
        script.main([])
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_path_of_a_command_line_is_expanded(script, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    kinds = ("FILE", "DIR", "RUN_OR_FILE", "FILE.npy")
    paths = [action for action in actions_of(script, monkeypatch) if action.metavar in kinds]
    assert paths or script is demo
    for action in paths:
        assert action.type is not None and action.type("~/x") == f"{tmp_path}/x", action.dest


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_tells_the_nearest_option(script, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(["--hlep"])
    assert ended.value.code == 2 and "did you mean --help?" in capsys.readouterr().err
