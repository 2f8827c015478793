"""The house stays in order: complete tables, published names, nothing in the wrong place."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from docs import configs
from losses import CRITERIA, METHOD_LOSSES
from system.files import REPOSITORY
from utils.config import load_config
from utils.schema import Config
from utils.setups import SETUPS
from utils.tables import TABLES

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
LINT = PROJECT["tool"]["importlinter"]
FOLDERS = [REPOSITORY / name for name in (*LINT["root_packages"], "docs")]
CODE = sorted([*REPOSITORY.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))])
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
CONFIGS = sorted(
    path for path in (REPOSITORY / "configs").glob("*/*.yml") if path.parent.name not in ("datasets", "shared")
)


def lines_of(paths):
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def test_every_loss_file_is_in_its_table():
    files = {path.stem for path in (REPOSITORY / "losses").glob("*.py")} - {"__init__"}
    assert {entry.__module__.removeprefix("losses.") for entry in (CRITERIA | METHOD_LOSSES).values()} == files


@pytest.mark.parametrize("name", SETUPS)
def test_every_setup_has_a_script_and_a_config(name):
    setup = SETUPS[name]
    module = importlib.import_module(setup.module)
    assert Path(module.__file__).is_relative_to(REPOSITORY)
    assert callable(module.main)
    assert name == "moco" or callable(module.train)  # moco only mines
    shipped = [path for path in CONFIGS if load_config(None, path, words_for(path)).setup == name]
    assert any(f"python {setup.script} " in path.read_text(encoding="utf-8") for path in shipped)


def words_for(path):
    return [] if "digits" in path.stem else ["train_db_kwargs.root=x"]


def test_every_entry_of_every_table_is_used_by_a_config_or_a_test():
    paths = [*TESTS, *(REPOSITORY / "configs").rglob("*.yml")]
    texts = [path.read_text(encoding="utf-8") for path in paths if path != Path(__file__)]
    for table in (table for table in TABLES if table.key in Config.model_fields):
        for name in table.entries:
            word = re.compile(rf"(?<![\w-]){re.escape(name)}" + ("" if name.endswith("/") else r"(?![\w-])"))
            assert any(word.search(text) for text in texts), f"{table.key}: {name}"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("utils.config", ["create_config"]),
        (
            "utils.common_config",
            [
                *("get_model", "get_train_dataset", "get_val_dataset", "get_train_dataloader", "get_val_dataloader"),
                *("get_train_transformations", "get_val_transformations", "get_criterion", "get_optimizer"),
            ],
        ),
        ("models.models", ["ContrastiveModel", "ClusteringModel"]),
        ("models.resnet_cifar", ["resnet18"]),
        ("models.resnet_stl", ["resnet18"]),
    ],
)
def test_published_names_are_importable_and_no_facade(module, names):
    found = importlib.import_module(module)
    for name in names:
        assert getattr(found, name).__module__ == module


@pytest.mark.parametrize("word", [".cuda(", "autocast("])
def test_devices_and_precision_live_in_system(word):
    """Words of docstrings and comments do not count: a call does."""
    outside = [path for path in CODE if path.relative_to(REPOSITORY).parts[0] != "system"]
    assert len(outside) > 50
    found = [str(path.relative_to(REPOSITORY)) for path in outside if word in path.read_text(encoding="utf-8")]
    assert found == []


def test_utils_is_no_attic():
    utils = [path for path in CODE if path.relative_to(REPOSITORY).parts[0] == "utils"]
    assert 0 < lines_of(utils) <= 0.2 * lines_of(CODE)


def test_an_install_has_every_script_and_every_package():
    setuptools = PROJECT["tool"]["setuptools"]
    scripts = {path.stem for path in REPOSITORY.glob("*.py")}
    assert len(scripts) > 5
    assert set(setuptools["py-modules"]) == scripts
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests", "benchmarks", "docs"}
    assert {name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]} == packages
    assert set(LINT["root_packages"]) == packages
    (scripts_stay_above,) = (one for one in LINT["contracts"] if one["name"] == "No package imports a script")
    assert set(scripts_stay_above["forbidden_modules"]) == scripts
    for name, target in PROJECT["project"]["scripts"].items():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_every_package_says_what_it_holds():
    inits = [path for path in CODE if path.name == "__init__.py"]
    assert len(inits) > 10
    for path in inits:
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_no_option_is_swallowed():
    """A part that takes `**_` would accept what nothing reads."""
    swallowing = re.compile(r"\*\*_+\b")
    assert [path for path in CODE if swallowing.search(path.read_text(encoding="utf-8"))] == []
    for table in TABLES:
        for name in table.entries:
            if table.kwargs and not name.endswith("/"):
                assert table.section(name).model_config["extra"] == "forbid"


def test_the_page_of_keys_is_what_the_schema_says():
    """`python -m docs.configs` writes it."""
    page = configs.PATH.read_text(encoding="utf-8")
    assert page == configs.render()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == [], "every key has a meaning"
    for word in ("`confidence_threshold` | number from 0 to 1 | `0.99`", "`cutout_kwargs.length`", "### `cifar-20`"):
        assert word in page


def patched_names(path):
    """What a test file patches by name, as `module.name`: by setattr or mock, given as an object and a name or a text.

    Objects are named by what the file imports them as, or by the text of their expression.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(("setattr", "patch", "patch.object")):
            continue
        words = [arg.value if isinstance(arg, ast.Constant) else ast.unparse(arg) for arg in node.args[:2]]
        if isinstance(node.args[0], ast.Constant):  # "module.name"
            yield words[0]
        elif isinstance(node.args[1], ast.Constant):
            first, dot, rest = words[0].partition(".")
            yield f"{imported.get(first, first)}{dot}{rest}.{words[1]}"


def test_no_test_patches_a_private_name_or_a_constant_of_ours():
    """What a test must change is passed in, or it arranges the real condition."""
    ours = {*LINT["root_packages"], *(path.stem for path in REPOSITORY.glob("*.py")), "benchmarks", "docs"}
    hidden = re.compile(r"_\w+|[A-Z][A-Z0-9_]+")
    patched = {(path.name, name) for path in TESTS for name in patched_names(path)}
    assert len(patched) > 40
    assert [
        (file, name)
        for file, name in sorted(patched)
        if name.split(".")[0] in ours and hidden.fullmatch(name.rpartition(".")[2])
    ] == []
