"""A config's bases: what overrides what, who is blamed for a key, and what does not work."""

import pytest
import yaml

from tests.utils.test_config import PUBLISHED, changed, error, write
from utils.config import load_config

__all__ = ["write"]  # a fixture


def test_later_bases_override_earlier_ones_and_the_file_overrides_all(write, tmp_path):
    first = changed(epochs=7, batch_size=64, optimizer_kwargs={"lr": 1, "weight_decay": 2, "betas": [0.1, 0.2]})
    second = "epochs: 8\nnum_heads: 2\noptimizer_kwargs: {lr: 3, weight_decay: 4}\n"
    exp = "base: [first.yml, second.yml]\nnum_heads: 5\noptimizer_kwargs: {weight_decay: 6}\n"
    files = write(exp, first=first, second=second)
    p = load_config(*files)
    assert (p.batch_size, p.epochs, p.num_heads) == (64, 8, 5)
    assert p.optimizer_kwargs == {"lr": 3, "weight_decay": 6, "betas": [0.1, 0.2]}
    assert load_config(*files, ["epochs=9"]).epochs == 9
    swapped = write(exp.replace("first.yml, second.yml", "second.yml, first.yml"))
    assert load_config(*swapped).epochs == 7
    assert load_config(*write("base: []\n" + changed(epochs=3))).epochs == 3
    assert load_config(*write(f"base: {tmp_path / 'first.yml'}\n")).epochs == 7
    # Every key is blamed on the file that gave it, also within a mapping that several files give.
    for file, key in (("first", "betas"), ("second", "lr"), ("exp", "weight_decay")):
        bad = {"first": first, "second": second, "exp": exp}
        content = yaml.safe_load(bad[file])
        content["optimizer_kwargs"][key] = "x"
        bad[file] = yaml.safe_dump(content)
        said = error(write(bad.pop("exp"), **bad))
        assert said.startswith(f"{tmp_path / file}.yml: optimizer_kwargs.{key} is x; ")
    files = write(exp, first=first, second=second)
    assert error(files, "optimizer_kwargs.lr=x").startswith("the command line: optimizer_kwargs.lr is x")
    assert error(files, "optimizer_kwargs={lr: x}").startswith("the command line: optimizer_kwargs.lr is x")
    assert error(files, "optimizer_kwargs={}", "optimizer_kwargs.eps=1").startswith("the command line: unknown key")


@pytest.mark.parametrize(
    ("exp", "words"),
    [
        ("base: nested.yml\n", "nested.yml: a base may not have a base of its own; name both in"),
        ("base: [plain.yml, nested.yml]\n", "nested.yml: a base may not have a base of its own; name both in"),
        ("base: circle.yml\n", "circle.yml: a base may not have a base of its own"),
        ("base: exp.yml\n", "exp.yml is its own base; remove it"),
        ("base: [plain.yml, ./exp.yml]\n", "exp.yml is its own base; remove it"),
        ("base: [plain.yml, ../{here}/plain.yml]\n", "exp.yml names the base ../{here}/plain.yml twice; remove it"),
        ("base: missing.yml\n", "the base of "),
        ("base: [plain.yml, missing.yml]\n", "missing.yml cannot be read: No such file"),
        ("base: [broken.yml]\n", "broken.yml names the key 'epochs' twice"),
        ("base: .\n", "cannot be read: Is a directory"),
        ("base: 3\n", "exp.yml: base must be the path of a YAML file, relative to this one, or a list of paths"),
        ("base: {a: b}\n", "exp.yml: base must be the path of a YAML file"),
        ("base: ''\n", "exp.yml: base must be the path of a YAML file"),
        ("base: [plain.yml, [plain.yml]]\n", "exp.yml: base must be the path of a YAML file"),
        ('base: "a\\0b"\n', "exp.yml: base must be the path of a YAML file"),
        ('base: "\\udc80"\n', "exp.yml: base must be the path of a YAML file"),
    ],
)
def test_bases_that_do_not_work(write, tmp_path, exp, words):
    more = {"nested": "base: plain.yml\n", "circle": "base: circle.yml\n", "broken": "epochs: 1\nepochs: 2\n"}
    files = write(exp.format(here=tmp_path.name) if "here" in exp else exp, plain=PUBLISHED, **more)
    assert words.format(here=tmp_path.name) in error(files)


def test_a_base_is_no_word_of_the_command_line(write):
    assert "the command line: base belongs in the config file" in error(write(PUBLISHED), "base=plain.yml")
    assert "unknown key 'bsae'; did you mean 'base'?" in error(write("bsae: x\n" + PUBLISHED))
