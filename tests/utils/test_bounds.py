"""Keys that are far too large, paths that are none, full memories and missing models: one sentence each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from system.errors import ConfigError, UserError
from system.files import may_write, nothing_written, write_text
from training.folder import is_run
from training.record import read_finished, read_record
from utils import cli, clusters, saved
from utils.common_config import get_criterion, get_model
from utils.config import REPOSITORY, load_config
from utils.setups import SETUPS, how_to_run

CONFIGS = REPOSITORY / "configs"
ENV = CONFIGS / "env.yml"
SCAN, SIMCLR = CONFIGS / "scan/scan_cifar10.yml", CONFIGS / "pretext/simclr_cifar10.yml"
LARGE = {
    "width": 1024, "model_kwargs.features_dim": 2**14, "num_classes": 100_000, "num_heads": 1000,
    "batch_size": 2**16, "eval_batch_size": 2**16, "num_neighbors": 10_000, "num_mined_train": 10_000,
    "epochs": 100_000, "num_workers": 1024,
}  # fmt: skip


@pytest.mark.parametrize("key", LARGE)
def test_numbers_have_upper_bounds(key):
    path = SIMCLR if "model_kwargs" in key else SCAN
    assert load_config(ENV, path, [f"{key}={LARGE[key]}"])
    for value in (LARGE[key] + 1, 10**9, 10**30):
        with pytest.raises(ConfigError, match=f"{key} is {value}.*less than or equal to {LARGE[key]}"):
            load_config(ENV, path, [f"{key}={value}"])


def test_a_side_has_an_upper_bound():
    words = ["train_db_name=folder", "val_db_name=null", "train_db_kwargs.root=x"]
    assert load_config(ENV, SCAN, [*words, "train_db_kwargs.resize=8192"])
    with pytest.raises(ConfigError, match=r"train_db_kwargs\.resize is 8193"):
        load_config(ENV, SCAN, [*words, "train_db_kwargs.resize=8193"])


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        ("[0.5,0.5]", "the command line: cluster_prior has 2 shares, but num_classes is 10; give a share for each"),
        ("[0.5,0.4]", r"cluster_prior is \[0.5, 0.4\]; shares should sum to 1, and these sum to 0.9"),
        ("power:3", "cluster_prior is power:3; the power should be a number from 0 to 1"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused(prior, words):
    with pytest.raises(ConfigError, match=words):
        load_config(ENV, SCAN, [f"cluster_prior={prior}"])
    shares = [0.55, *[0.05] * 9]
    p = load_config(ENV, SCAN, [f"cluster_prior={shares}"])
    assert p.cluster_prior == shares and get_criterion(p).cluster_prior == shares


@pytest.mark.parametrize("key", ["root_dir", "data_root", "train_db_kwargs.root"])
def test_a_path_with_a_nul_byte(key):
    with pytest.raises(ConfigError, match=rf"{key}.*NUL") as error:
        load_config(ENV, SCAN, [f'{key}="a\\0b"'])
    assert "\0" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "the machine's memory is full;"),
        (lambda: torch.empty(2**46), "the machine's memory is full (2.81e+05 GB more were needed);"),
        (lambda: np.empty(2**46), "the machine's memory is full (512. TiB more were needed);"),
        (RuntimeError("std::bad_alloc"), "the machine's memory is full;"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "the device's memory is full (2.00 GiB more were needed);",
        ),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 24.00 MB on a pool."),
            "the device's memory is full (24.00 MB more were needed);",
        ),
        (RuntimeError("CUDA error: out of memory"), "the device's memory is full;"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "the device's memory is"),
    ],
)
def test_a_full_memory_is_a_sentence(error, words, capsys):
    def main(argv):
        if callable(error):
            error()
        raise error

    assert cli.run(main) == 1
    shown = capsys.readouterr().err
    assert words in shown and "use a smaller batch_size" in shown


def test_another_runtime_error_is_no_full_memory():
    def main(argv):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        cli.run(main)


def test_what_is_missing_is_named_with_its_command(tmp_path):
    p = load_config(ENV, SCAN, [f"root_dir={tmp_path}"])
    with pytest.raises(
        UserError, match=r"pretext/model.pth.tar does not exist; .*python simclr.py --config_exp FILE \(or"
    ):
        get_model(p, p.pretext_model)
    p = load_config(ENV, CONFIGS / "selflabel/selflabel_cifar10.yml", [f"root_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"run the scan stage first: python scan.py --config_exp FILE; .*scan_run=NAME"):
        get_model(p, p.scan_model)
    assert "moco.py" in how_to_run("pretext")


def test_a_folder_that_does_not_exist_is_said_to_be_that(tmp_path):
    with pytest.raises(UserError, match=rf"results/none does not exist \({tmp_path} does\)"):
        saved.find_model(tmp_path / "results" / "none")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"run holds no model\.pth\.tar; give a run folder"):
        saved.find_model(tmp_path / "run")
    (tmp_path / "run" / "config.yml").touch()
    with pytest.raises(UserError, match="its training has begun"):
        saved.find_model(tmp_path / "run")
    assert saved.find_model(tmp_path / "run" / "config.yml") == tmp_path / "run" / "config.yml"


@pytest.mark.parametrize(
    "content", ["[]", '{"status": 1}', '{"status": "finished", "seconds": 1, "result": {"acc": "x"}}']
)
def test_a_damaged_record_is_no_finished_run(tmp_path, capsys, content):
    (tmp_path / "run.json").write_text(content)
    assert read_record(tmp_path) == {} and read_finished(tmp_path) is None
    assert "run.json is damaged" in capsys.readouterr().err


def test_a_result_without_losses_is_reported(tmp_path, capsys):
    p = load_config(ENV, SCAN, [f"root_dir={tmp_path}"])
    (Path(tmp_path) / "run.json").write_text(json.dumps({"status": "finished", "seconds": 1, "result": {"acc": 0.5}}))
    result = read_finished(tmp_path)
    assert result is not None and clusters.report(p, result, again=True) == 0
    assert "ACC 50.00 %" in capsys.readouterr().out


@pytest.mark.parametrize(("num_clusters", "shown"), [(2, False), (5, False), (6, True)])
def test_top_5_is_shown_above_five_clusters(num_clusters, shown):
    words = clusters.words({"acc": 0.5, "top5": 1.0}, num_clusters)
    assert "ACC 50.00 %" in words and ("Top-5 100.00 %" in words) == shown


def test_nothing_is_written_where_that_is_forbidden(tmp_path):
    with nothing_written():
        assert not may_write()
        with pytest.raises(UserError, match="a dry run writes nothing"):
            write_text(tmp_path / "x", "x")
    assert may_write() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.yml", "run.json"])
def test_a_run_folder_of_bombs_is_no_run(tmp_path, name):
    """Aliases that stand for two to the fortieth values, and brackets in brackets."""
    aliases = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    text = {"config.yml": f"setup: scan\nroot_dir: x\n{aliases}", "run.json": '{"status": ' + "[" * 100_000}[name]
    (tmp_path / name).write_text(text)
    assert not is_run(tmp_path)


@pytest.mark.parametrize("name", ["byol", "iic"])
def test_an_average_that_a_method_would_not_save_is_refused(name):
    folder = {"byol": "pretext", "iic": "methods"}[name]
    with pytest.raises(ConfigError, match=f"the command line: average_decay has no effect on {name}, but on simclr, "):
        load_config(ENV, CONFIGS / folder / f"{name}_digits.yml", ["average_decay=0.9"])


@pytest.mark.parametrize("word", ["reliable_share=0.25", "reliable_neighbors=7", "reliable_batch_size=3"])
def test_what_would_have_no_effect_is_refused(word):
    config = CONFIGS / "selflabel" / "selflabel_digits.yml"
    with pytest.raises(
        ConfigError, match=f"the command line: {word.partition('=')[0]} has no effect without criterion: fix"
    ):
        load_config(ENV, config, [word])
    load_config(ENV, config.with_name("fixmatch_digits.yml"), [word])


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("scan/scan_digits.yml", "patience=3"),
        ("scan/scan_digits.yml", "use_ema=true"),
        ("pretext/simclr_digits.yml", "update_cluster_head_only=true"),
        ("selflabel/selflabel_digits.yml", "update_cluster_head_only=true"),
        ("methods/iic_digits.yml", "trained_layers=2"),
    ],
)
def test_a_key_of_another_stage_is_refused_on_the_command_line_alone(config, word):
    """A config may be the base of several stages, and what cluster.py is told is for all of its."""
    key, setup = word.partition("=")[0], config.rpartition("/")[2].partition("_")[0]
    given = ["--config_env", str(ENV), "--config_exp", str(CONFIGS / config), word]
    with pytest.raises(ConfigError, match=f"the command line: {key} has no effect on {setup}, but on [a-z]"):
        cli.configure(cli.parser("."), given, *SETUPS)
    load_config(ENV, CONFIGS / config, [word])


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("scan", "the validation loss rose, as it often does while clusters get better"),
        ("candidates", "warning: self-labeling ends"),
    ],
)
def test_a_validation_loss_that_rose_is_a_warning_only_where_features_stay(start, words, tmp_path, capsys):
    words_given = [f"root_dir={tmp_path}", f"starts_from={start}"]
    p = load_config(None, CONFIGS / "selflabel/selflabel_digits.yml", words_given)
    losses = {"scan_loss": -2.0, "best_loss": -1.9, "best_epoch": 1, "last_loss": -1.5}
    assert clusters.report(p, losses) == 0
    captured = capsys.readouterr()
    told = captured.out + captured.err
    assert words in told and f"{start} -2.0000, best -1.9000 (epoch 1), last -1.5000" in told
    assert clusters.report(p, losses | {"emptied": 2}) == 0
    assert "warning: self-labeling emptied 2 clusters; model-best.pth.tar or the model" in capsys.readouterr().err
    assert clusters.report(p, losses | {"last_loss": -2.1, "emptied": 0}) == 0
    captured = capsys.readouterr()
    assert words not in captured.out + captured.err
