"""The configs of a clustering: what is chosen once stays, whatever machine goes on."""

import torch
import yaml

from recipes.configs import Configs
from system.runtime import Runtime


def test_threads_and_precision_are_those_of_the_first_clustering_of_its_features(tmp_path):
    first, cpu = Configs(tmp_path, tmp_path), torch.device("cpu")
    first.write_env(Runtime(cpu, torch.bfloat16, torch.float32))
    text = first.env.read_text().replace(f"threads: {torch.get_num_threads()}", "threads: 77")
    first.env.write_text(text)
    other = Configs(tmp_path / "k05", tmp_path, first)
    other.write_env(Runtime(cpu, torch.float32, torch.float32))
    assert yaml.safe_load(other.env.read_text()) == {
        "root_dir": "{here}/../..",
        "threads": 77,
        "auto_precision": "bf16",
    }


def test_configs_of_an_earlier_version_may_lack_them(tmp_path):
    first = Configs(tmp_path, tmp_path)
    first.folder.mkdir()
    first.env.write_text("root_dir: '{here}/..'\n")
    other = Configs(tmp_path / "k05", tmp_path, first)
    other.write_env(Runtime(torch.device("cpu"), torch.float32, torch.float32))
    assert yaml.safe_load(other.env.read_text())["auto_precision"] == "fp32"
