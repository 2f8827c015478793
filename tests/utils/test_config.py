"""Configs: what is wrong with one is said in a sentence that names file, key and value; published ones work."""

import os
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from system.errors import ConfigError
from system.yaml_file import MAX_BYTES, MAX_DEPTH, MAX_NODES, load_yaml, parse_yaml
from training.comparison import to_plain
from utils import config, schema
from utils.config import create_config, load_config
from utils.overrides import merge
from utils.setups import SETUPS

CONFIGS = config.REPOSITORY / "configs"

# As a user of the published code has it: everything written out, one file.
PUBLISHED = """
setup: scan
criterion: scan
criterion_kwargs:
   entropy_weight: 5.0
update_cluster_head_only: False
num_heads: 1
backbone: resnet18
train_db_name: cifar-10
val_db_name: cifar-10
num_classes: 10
num_neighbors: 20
augmentation_strategy: ours
augmentation_kwargs:
   crop_size: 32
   normalize:
      mean: [0.4914, 0.4822, 0.4465]
      std: [0.2023, 0.1994, 0.2010]
   num_strong_augs: 4
   cutout_kwargs:
      n_holes: 1
      length: 16
      random: True
transformation_kwargs:
   crop_size: 32
   normalize:
      mean: [0.4914, 0.4822, 0.4465]
      std: [0.2023, 0.1994, 0.2010]
optimizer: adam
optimizer_kwargs:
   lr: 0.0001
   weight_decay: 0.0001
epochs: 50
batch_size: 128
num_workers: 8
scheduler: constant
"""


@pytest.fixture
def write(tmp_path):
    """Write YAML files; the first argument is the experiment's text, or what is laid over the published one."""
    (tmp_path / "env.yml").write_text(f"root_dir: {tmp_path / 'results'}\n")

    def written(exp="", env=None, **more):
        if env is not None:
            (tmp_path / "env.yml").write_text(env)
        for name, text in more.items():
            (tmp_path / f"{name}.yml").write_text(text)
        data = exp if isinstance(exp, bytes) else exp.encode("utf-8", "surrogatepass")
        (tmp_path / "exp.yml").write_bytes(data)
        return tmp_path / "env.yml", tmp_path / "exp.yml"

    return written


def changed(**changes):
    """The published config with other values; None leaves a key out."""
    content = yaml.safe_load(PUBLISHED) | changes
    return yaml.safe_dump({key: value for key, value in content.items() if value is not None})


def error(files, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(*files, overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What works


def test_a_published_config_written_out_in_full(write, tmp_path):
    p = create_config(*map(str, write(PUBLISHED)))
    assert (p.setup, p.optimizer_kwargs.lr, p["augmentation_kwargs"]["cutout_kwargs"]["length"]) == ("scan", 1e-4, 16)
    base = tmp_path / "results" / "cifar-10"
    assert p.pretext_dir == str(base / "pretext")
    assert p.pretext_checkpoint == str(base / "pretext" / "checkpoint.pth.tar")
    assert p.scan_model == str(base / "scan" / "model.pth.tar")
    assert p.selflabel_dir == str(base / "selflabel")
    assert p.topk_neighbors_train_path == str(base / "pretext" / "topk-train-neighbors.npy")
    assert p.topk_neighbors_val_path == str(base / "pretext" / "topk-val-neighbors.npy")
    p.num_neighbors = 3
    p.own = "key"
    assert p["num_neighbors"] == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-1e+3", -1e3), ("1.5e-3", 1.5e-3), (".5", 0.5), ("5.", 5.0), ("0.1", 0.1),
        (".5e1", 5.0), ("12", 12), ("e5", "e5"), ("1e", "1e"), ("1-4", "1-4"), ("true", True), ("null", None),
        ("[1e-3, a]", [1e-3, "a"]), ("a.b", "a.b"), (".", "."), ("-", "-"), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, value):
    if text == "-":
        assert parse_yaml(text, "x") == [None]
        return
    found = parse_yaml(text, "x")
    assert (found, type(found)) == (value, type(value))


def test_a_base_is_merged_key_by_key_one_level_deep(write):
    base = changed(epochs=7, setup=None)
    exp = "base: shared.yml\nsetup: scan\nepochs: 9\noptimizer_kwargs: {lr: 0.5}\n"
    files = write(exp, shared=base)
    p = load_config(*files)
    assert (p.epochs, p.batch_size, p.optimizer_kwargs) == (9, 128, {"lr": 0.5, "weight_decay": 1e-4})


def test_merge_leaves_its_arguments_alone():
    base, over = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}, {"a": {"y": {"w": 4}}, "c": 5}
    assert merge(base, over) == {"a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": 3, "c": 5}
    assert base == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert merge({"a": {"x": 1}}, {"a": 2}) == {"a": 2}


def test_overrides_in_any_order(write, tmp_path):
    words = ["epochs=3", "optimizer_kwargs.lr=1e-3", "optimizer=sgd", "optimizer_kwargs.momentum=0.9", "run_name=x"]
    files = write(PUBLISHED)
    found = [load_config(*files, order) for order in (words, words[::-1], [*words[2:], *words[:2]])]
    assert found[0] == found[1] == found[2]
    assert found[0].optimizer_kwargs == {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
    assert Path(found[0].scan_dir).name == "x"
    assert Path(found[0].pretext_dir).name == "pretext"
    p = load_config(*files, [f"root_dir={tmp_path}/other", "pretext_run=p", "data_paths.cifar-10=/data"])
    assert p.pretext_model == f"{tmp_path}/other/cifar-10/pretext/p/model.pth.tar"
    assert p.data_paths == {"cifar-10": "/data"}
    assert load_config(*files, ["criterion_kwargs={entropy_weight: 2}"]).criterion_kwargs.entropy_weight == 2


def test_a_folder_is_called_by_its_directory_or_alias(write, tmp_path):
    files = write(changed(train_db_name="folder", val_db_name=None, train_db_kwargs={"root": "some/where/cats"}))
    assert load_config(*files).scan_dir == str(tmp_path / "results/cats/scan")
    assert load_config(*files, ["db_alias=dogs"]).scan_dir == str(tmp_path / "results/dogs/scan")
    assert "train_db_kwargs.root=PATH" in error(files, "train_db_kwargs={}")


# What is wrong, and what is said of it


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epohcs": 3}, "exp.yml: unknown key 'epohcs'; did you mean 'epochs'?"),
        ({"Batch_size": 3}, "exp.yml: unknown key 'Batch_size'; did you mean 'batch_size'?"),
        (
            {"optimizer_kwargs": {"lr": 0.1, "weight_decya": 0}},
            "exp.yml: unknown key 'optimizer_kwargs.weight_decya'; did you mean 'weight_decay'?",
        ),
        ({"checkpoint_every": {"epoch": 1}}, "unknown key 'checkpoint_every.epoch'; did you mean 'epochs'?"),
        ({"train_db_kwargs": {"rot": "x"}}, "unknown key 'train_db_kwargs.rot'; did you mean 'root'?"),
        ({"criterion_kwargs": {"temperature": 1}}, "unknown key 'criterion_kwargs.temperature'"),
        ({"scheduler_kwargs": {"lr_decay_rate": 1}}, "unknown key 'scheduler_kwargs.lr_decay_rate'"),
        ({"epochs": "50"}, "epochs is 50; it should be a valid integer"),
        ({"epochs": 0}, "epochs is 0; it should be greater than or equal to 1"),
        ({"epochs": 2.0}, "epochs is 2.0; "),
        ({"epochs": True}, "epochs is True; "),
        ({"batch_size": [128]}, "batch_size is [128]; "),
        ({"confidence_threshold": 1.5}, "confidence_threshold is 1.5; it should be less than or equal to 1"),
        ({"optimizer_kwargs": {"lr": -1}}, "optimizer_kwargs.lr is -1; "),
        ({"optimizer_kwargs": {"lr": float("nan")}}, "optimizer_kwargs.lr is nan; "),
        ({"optimizer_kwargs": {"lr": float("inf")}}, "optimizer_kwargs.lr is inf; "),
        ({"optimizer_kwargs": {"lr": 10**400}}, "optimizer_kwargs.lr is 1000"),
        ({"optimizer_kwargs": {"lr": "high"}}, "optimizer_kwargs.lr is high; it should be a valid number"),
        ({"optimizer_kwargs": {"momentum": 1}, "optimizer": "sgd"}, "the key 'optimizer_kwargs.lr' is missing"),
        ({"optimizer_kwargs": {"lr": 1, "nesterov": True}, "optimizer": "sgd"}, "nesterov: true needs a momentum"),
        ({"optimizer_kwargs": {"lr": 1, "betas": [0.9, 1.0]}}, "optimizer_kwargs.betas.1 is 1.0; "),
        ({"optimizer_kwargs": 3}, "optimizer_kwargs is 3; "),
        ({"optimizer": "adams"}, "optimizer"),
        ({"scheduler": "step", "scheduler_kwargs": {}}, "the key 'scheduler_kwargs.lr_decay_epochs' is missing"),
        ({"setup": "scam"}, f"setup is 'scam', but must be one of {', '.join(SETUPS)}; is it 'scan'?"),
        ({"setup": None}, "the key 'setup' is missing"),
        ({"train_db_name": "cifar10"}, "train_db_name is 'cifar10', but must be one of"),
        ({"backbone": "resnet19"}, "backbone is 'resnet19', but must be one of"),
        ({"run_name": "../up"}, "run_name is ../up; "),
        ({"run_name": "a\n"}, "run_name is 'a\\n'; "),
        ({"augmentation_kwargs": {1: 2}}, "exp.yml: the key 'augmentation_kwargs.1' is not a word"),
        ({"precision": "fp8"}, "precision is fp8; "),
        ({"compile": "yes"}, "compile"),
    ],
    ids=str,
)
def test_a_wrong_key_or_value_is_named(write, changes, words):
    assert words in error(write(changed(**changes)))


def test_who_gave_a_key_is_named(write, tmp_path):
    """The experiment's file, its base, env.yml, or the command line."""
    files = write(PUBLISHED)
    assert error(files, "epohcs=3") == "the command line: unknown key 'epohcs'; did you mean 'epochs'?"
    assert error(files, "optimizer_kwargs.lr=x").startswith("the command line: optimizer_kwargs.lr is x")
    assert error(files, "root_dir=3").startswith("the command line: root_dir is 3")
    files = write("base: shared.yml\nsetup: scan\n", shared=changed(setup=None, epochs=-1))
    assert error(files).startswith(f"{tmp_path / 'shared.yml'}: epochs is -1")
    files = write(PUBLISHED, env="root_dir: r\ndataroot: d\n")
    assert error(files) == f"{tmp_path / 'env.yml'}: unknown key 'dataroot'; did you mean 'data_root'?"
    files = write(PUBLISHED, env="root_dir: r\ndata_paths: {cifar10: d}\n")
    assert error(files).endswith("env.yml: unknown data set 'data_paths.cifar10'; did you mean 'cifar-10'?")


@pytest.mark.parametrize("word", ["epochs", "=3", "a..b=1", ".=1", "x." * 50 + "y=1", "epochs=[", "epochs=!!float x"])
def test_words_that_are_no_override(write, word):
    message = error(write(PUBLISHED), word)
    assert "command line" in message or "key=value" in message


def test_files_that_cannot_be_read(write, tmp_path):
    env, exp = write(PUBLISHED)
    assert "cannot be read: No such file" in error((env, tmp_path / "none.yml"))
    assert "none.yml cannot be read" in error((tmp_path / "none.yml", exp))
    assert "cannot be read: Is a directory" in error((env, tmp_path))
    assert "cannot be read" in error((env, "a\0b"))
    assert "not UTF-8" in error(write(b"\xff\xfe\x00"))
    assert "must hold `key: value` lines" in error(write("- a\n"))
    assert "must hold `key: value` lines" in error(write("1: 2\n"))
    assert "must hold `key: value` lines" in error(write("just a text"))
    assert "the key 'setup' is missing" in error(write(""))
    assert f"at most {MAX_BYTES} bytes" in error(write("a: b\n" * MAX_BYTES))
    if Path("/dev/zero").exists():
        assert f"at most {MAX_BYTES} bytes" in error((env, "/dev/zero"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\n", "exp.yml is not a config that can be read (line 2, column 1)"),
        ("a: b: c\n", "(line 1, column 5): mapping values are not allowed here"),
        ("a: \t- x\n\tb", "is not a config that can be read"),
        ("epochs: 1\nepochs: 2\n", "exp.yml names the key 'epochs' twice (line 2)"),
        ("x: {lr: 1, momentum: 2, lr: 3}\n", "names the key 'lr' twice"),
        ("a: !!python/object/apply:os.system ['touch executed']\n", "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: !unknown x\n", "could not determine a constructor"),
        ("a: !!bool maybe\n", "exp.yml is not a config"),
        ("a: !!timestamp never\n", "exp.yml is not a config"),
        ("a: !!int ''\n", "exp.yml is not a config"),
        ("a: !!binary ä\n", "exp.yml is not a config"),
        ("a: 2020-99-99\n", "exp.yml is not a config"),
        ("a: " + "9" * 5000 + "\n", "exp.yml is not a config"),
        ("? [a, b]\n: c\n", "exp.yml is not a config"),
        ("? {a: b}\n: c\n", "exp.yml is not a config"),
        ("a: " + "[" * 5000 + "]" * 5000, f"is nested deeper than {MAX_DEPTH} levels"),
        ("a: " + "{b: " * 5000, f"is nested deeper than {MAX_DEPTH} levels"),
        ("- " * 5000, f"is nested deeper than {MAX_DEPTH} levels"),
        ("a: &a [*a]\n", "expands to more than"),
        ("a: *b\n", "found undefined alias"),
        ("---\na: b\n---\nc: d\n", "found another document"),
        ("\x00", "is not a config that can be read"),
        ("%YAML 9.9\n---\na: b", "is not a config"),
    ],
    ids=range(24),
)
def test_yaml_that_is_wrong_or_hostile(write, text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in error(write(text))
    assert not (tmp_path / "executed").exists()


def bomb(link):
    """Ten levels of ten aliases: 10^10 values in eleven lines."""
    lines = ["a0: &a0 [x, x]" if link == "list" else "a0: &a0 {x: 1}"]
    for level in range(1, 11):
        many = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + (f"[{many}]" if link == "list" else f"{{<<: [{many}]}}"))
    return "\n".join(lines)


@pytest.mark.parametrize("link", ["list", "merge key"])
def test_alias_bombs(write, link):
    """Expanded, they would fill the memory."""
    assert f"expands to more than {MAX_NODES} values" in error(write(bomb(link)))


def test_a_chain_of_aliases_is_as_deep_as_what_it_holds(write):
    links = "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))
    assert f"nested deeper than {MAX_DEPTH}" in error(write("a0: &a0 [x]\n" + links))


def test_many_keys_are_not_slow(write):
    """With a comparison of each with each this would take minutes."""
    assert "expands to more than" in error(write("".join(f"k{n}:\n" for n in range(MAX_NODES))))


# Any text at all

WORDS = st.sampled_from([
    *schema.Config.model_fields, "lr", "setup", "scan", "adam", "base", "x", "", "exp.yml", "cifar-10", "<<", "\ud800",
    "!!bool", "!!set", "&a", "*a", "? ", "- ", ": ", ", ", "{", "}", "[", "]", "\n", "\n  ", "|", ">", "'", '"', "#",
    "1e-4", ".nan", "1:30", "2020-01-01", "~", "\\ud800", "\x00", "%YAML 1.1", "---", "!!float", "!!python/none",
])  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["scan", "simclr", "sgd", "cifar-10", "folder", "ours", "step", 10**400, "a\0b", "\udc80"])
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8)


def loads(text, folder, *words):
    """A config is loaded, or it is a ConfigError of one line that can be printed."""
    path = folder / "fuzz.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(CONFIGS / "env.yml", path, words)
    except ConfigError as error:
        assert str(error).strip()
        str(error).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=120, deadline=None)
@given(st.lists(WORDS | st.text(max_size=5), max_size=30).map("".join))
@example("setup: scan\n? []\n: x")
@example('a: "\\ud800"\n')
@example('"\\ud800": 1\n')
def test_any_text_is_a_config_or_a_sentence(folder, text):
    loads(text, folder)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(schema.Config.model_fields)), VALUES, max_size=4))
@example({"augmentation_kwargs": {"crop_size": 10**400}})
@example({"augmentation_kwargs": {"normalize": {"mean": [0, 0, "x"], "std": None}}})
@example({"transformation_kwargs": {"crop_size": 32, "normalize": {"mean": [0.1] * 3, "std": [0, 0, 0]}}})
@example({"train_db_name": "folder", "train_db_kwargs": {"root": "a\0b"}})
@example({"augmentation_kwargs": {"items": 1, "update": 2}})
def test_any_values_are_a_config_or_a_sentence(folder, changes):
    content = yaml.safe_load(PUBLISHED) | changes
    loads(yaml.safe_dump(content, allow_unicode=False), folder)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(WORDS | st.text(max_size=8), WORDS | st.text(max_size=12)).map("=".join), max_size=3))
@example(["optimizer_kwargs.lr.x=1"])
@example(["base=x"])
def test_any_words_are_overrides_or_a_sentence(folder, words):
    loads(PUBLISHED, folder, *words)


@pytest.mark.slow
@given(st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & set(b"\0/$~")).map(os.fsdecode))
@example("caf\udce9")
@example("a: b # c")
@example("\u2028\x85\ufeff\x7f")
def test_any_file_name_survives_a_config(name):
    with tempfile.TemporaryDirectory() as folder:
        exp, env = Path(folder) / "exp.yml", Path(folder) / "env.yml"
        content = {"root_dir": f"/r/{name}", "data_paths": {"stl-10": f"/d/{name}"}}
        env.write_text(yaml.safe_dump(content), encoding="utf-8")
        content = yaml.safe_load(PUBLISHED) | {"train_db_name": "folder", "val_db_name": "folder", "db_alias": "x"}
        content |= {f"{split}_db_kwargs": {"root": f"/{split}/{name}", "cache_dir": name} for split in ("train", "val")}
        exp.write_text(yaml.safe_dump(content), encoding="utf-8")
        p = load_config(env, exp)
        exp.write_text(yaml.safe_dump(to_plain(p)), encoding="utf-8")  # as a run saves it
        again = load_yaml(exp)
    for found in (p, again):
        assert found["root_dir"] == str(Path(f"/r/{name}")) and found["data_paths"]["stl-10"] == str(Path(f"/d/{name}"))
        assert found["train_db_kwargs"]["root"] == f"/train/{name}" and found["val_db_kwargs"]["cache_dir"] == name


def test_bytes_that_are_no_utf8_may_stand_in_a_word(write):
    words = ["train_db_name=folder", "train_db_kwargs.root=/d/caf\udce9", "root_dir=/r/\udcff", "val_db_name=cifar-10"]
    p = load_config(*write(PUBLISHED), words)
    assert p.scan_model == "/r/\udcff/caf\udce9/scan/model.pth.tar"


def test_paths_are_expanded(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    files = write(PUBLISHED, env="root_dir: $HOME/x\ndata_root: ~/d\ndata_paths: {stl-10: '${HOME}/s'}\n")
    p = load_config(*files)
    assert (p.root_dir, p.data_root, p.data_paths) == ("/home/me/x", "/home/me/d", {"stl-10": "/home/me/s"})
    assert load_config(*files, ["root_dir=~/y"]).root_dir == "/home/me/y"
    monkeypatch.delenv("NOPE", raising=False)
    assert "names the variable NOPE, which is not set" in error(files, "root_dir=$NOPE/x")


def test_keys_and_values_reach_no_terminal_as_they_are(write):
    for text in ("\x1b[2J", "\u202e", "x" * 100_000):
        for said in (error(write(changed(**{text: 1}))), error(write(changed(backbone=text)))):
            assert said.isprintable() and len(said) < 1000
