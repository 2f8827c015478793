import importlib
import inspect
import shutil
from pathlib import Path

import pytest

from sweeps.plan import make_plan
from system.errors import ConfigError
from tests.sweeps.plans import SCAN, SELFLABEL, plan_of
from utils.config import REPOSITORY
from utils.overrides import split_stage, split_values, words_of


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=0,1,2", ["0", "1", "2"]),
        ("epochs=50", ["50"]),
        ("optimizer_kwargs.betas=[0.9,0.99],[0.8,0.9]", ["[0.9,0.99]", "[0.8,0.9]"]),
        ("optimizer_kwargs={lr: 1, weight_decay: 0}", ["{lr: 1, weight_decay: 0}"]),
        ('db_alias="a,b",c', ['"a,b"', "c"]),
        ("seed=1,1", ["1"]),
    ],
)
def test_values_between_commas(word, values):
    assert split_values(word)[1] == values


@pytest.mark.parametrize("word", ["seed", "=1", "a..b=1", "seed=0,,1", "seed=0,"])
def test_words_that_are_none(word):
    with pytest.raises(ConfigError):
        split_values(word)


def test_words_of_a_stage():
    assert split_stage("simclr.epochs=3") == ("pretext", "epochs=3")
    assert split_stage("optimizer_kwargs.lr=1") == (None, "optimizer_kwargs.lr=1")
    assert words_of("scan", ["seed=1", "scan.epochs=2", "selflabel.epochs=3"]) == ["seed=1", "epochs=2"]


def test_every_combination_is_a_run_of_its_own(env):
    plan = plan_of(env, "confidence_threshold=0.9,0.95,0.99", "epochs=50", "seed=0,1,2")
    assert len(plan.jobs) == 9 and len({job.folder() for job in plan.jobs}) == 9
    assert [setting.label for setting in plan.settings] == [f"confidence_threshold={t}" for t in (0.9, 0.95, 0.99)]
    assert all(len(setting.runs) == 3 for setting in plan.settings)
    assert {job.config().epochs for job in plan.jobs} == {50}
    assert plan.name == "selflabel-confidence_threshold-epochs=50-seed"
    job = plan.jobs[4]
    assert (job.config().confidence_threshold, job.config().seed) == (0.95, 1)
    assert Path(job.config().scan_dir).name == "scan"  # what the config names, untouched


def test_sweeps_that_differ_in_what_they_fix_have_results_of_their_own(env):
    names = [plan_of(env, f"confidence_threshold={value}", "seed=0,1").name for value in (0.9, 0.95)]
    assert names == ["selflabel-confidence_threshold=0.9-seed", "selflabel-confidence_threshold=0.95-seed"]
    roots = ["train_db_kwargs.root=/a", "val_db_kwargs.root=/b"]
    config = {"scan": str(REPOSITORY / "configs/scan/scan_cifar10_cpu.yml")}
    assert make_plan("scan", env, config, [*roots, "seed=0"]).name == "scan"
    assert make_plan("scan", env, config, [*roots, "seed=0,1"]).name == "scan-seed"


def test_an_earlier_stage_takes_the_config_of_the_run_that_the_last_one_names(env):
    config = REPOSITORY / "configs/methods/candidates_digits.yml"
    plan = make_plan("candidates", env, {"candidates": str(config)}, ["pretext.seed=0,1"])
    assert {Path(job.exp).name for job in plan.jobs} == {"pretrained_digits.yml", "candidates_digits.yml"}
    with pytest.raises(ConfigError, match=r"config of the stage pretext is not found next to .*--pretext_config"):
        make_plan("candidates", env, {"candidates": str(_other_run(config, env))}, ["pretext.seed=0,1"])


def test_the_only_config_of_an_earlier_stage_is_taken_whatever_its_run_is_called(env, tmp_path):
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for stage, setup in (("pretext", "simclr"), ("scan", "scan")):
        config = tmp_path / "configs" / stage / f"{setup}_digits.yml"
        mine = config.with_name(f"{setup}_mine.yml")
        mine.write_text(config.read_text() + ("run_name: long\n" if stage == "pretext" else ""))
    plan = make_plan("scan", env, {"scan": str(mine)}, ["pretext.seed=0,1"])
    assert {Path(job.exp).name for job in plan.jobs} == {"simclr_mine.yml", "scan_mine.yml"}


def _other_run(config, env):
    """The same config from a run that no config has, next to copies of the pretext tasks' configs."""
    folder = Path(env).parent / "configs"
    shutil.copytree(REPOSITORY / "configs", folder)
    copy = folder / "methods" / config.name
    copy.write_text(copy.read_text().replace("pretext_run: pretrained", "pretext_run: nobodys"))
    return copy


def test_a_sweep_over_stages_shares_what_it_can_and_names_inputs(env):
    plan = plan_of(env, "scan.epochs=25,50", "confidence_threshold=0.9,0.99", "seed=0,1")
    stages = [job.stage for job in plan.jobs]
    assert stages.count("scan") == 4 and stages.count("selflabel") == 8 and stages.count("pretext") == 0
    for job in plan.jobs:
        if job.stage == "selflabel":
            p, before = job.config(), job.before.config()
            assert p.scan_model == before.scan_model and p.seed == before.seed
            assert plan.jobs.index(job.before) < plan.jobs.index(job)
            assert f"scan.epochs={before.epochs}" in job.name and p.epochs == 20


def test_a_sweep_from_the_first_stage_takes_all_of_them(env):
    plan = plan_of(env, "pretext.epochs=2,3", "seed=0,1")
    assert [job.stage for job in plan.jobs[:3]] == ["pretext", "scan", "selflabel"] and len(plan.jobs) == 12
    last = plan.jobs[2].config()
    first = plan.jobs[0].config()
    assert last.topk_neighbors_val_path == first.topk_neighbors_val_path


@pytest.mark.parametrize(
    "words",
    [
        ["run_name=x"],
        ["seed=0", "seed=1"],
        ["nothing=1"],
        ["epochs=0"],
        ["confidence_threshold=0.9,2"],
        ["scan.epochs=1,none"],
    ],
)
def test_whatever_is_wrong_is_told_before_anything_runs(env, words):
    with pytest.raises(ConfigError):
        plan_of(env, *words)


def test_a_later_stage_cannot_be_swept_for_an_earlier_one(env):
    with pytest.raises(ConfigError, match="does not come before scan"):
        plan_of(env, "selflabel.epochs=1", stage="scan", exp=SCAN)


def test_the_config_of_an_earlier_stage_must_be_found(env, tmp_path):
    lone = tmp_path / "mine.yml"
    lone.write_text(Path(SELFLABEL).read_text().replace("../datasets", str(REPOSITORY / "configs/datasets")))
    with pytest.raises(ConfigError, match="--scan_config"):
        plan_of(env, "scan.epochs=1", exp=str(lone))


def test_a_method_without_an_earlier_stage_takes_no_key_of_one():
    config = {"iic": str(REPOSITORY / "configs/methods/iic_digits.yml")}
    with pytest.raises(ConfigError, match="concerns the stage scan, which does not come before iic"):
        make_plan("iic", None, config, ["scan.epochs=1,2"])
    with pytest.raises(ConfigError, match="the stage ucc"):
        make_plan("iic", None, config, ["ucc.epochs=1,2"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["confidence_threshold=0.5"], "--scan_config is given, and this sweep does not run scan"),
        (["scan.seed=5", "seed=0,1"], r"give each stage a seed of its own, as in selflabel\.seed=0,1"),
        (["scan.epochs=1", "patience=1,2", "simclr.use_ema=true"], "use_ema has no effect on simclr"),
        (["scan.method_kwargs.x=1"], "method_kwargs"),
    ],
)
def test_what_a_run_would_refuse_is_refused_before_any_runs(env, words, said):
    with pytest.raises(ConfigError, match=said):
        make_plan("selflabel", env, {"selflabel": SELFLABEL, "scan": SCAN}, words)


def test_a_seed_of_every_stage(env):
    plan = make_plan("selflabel", env, {"selflabel": SELFLABEL}, ["scan.seed=5", "selflabel.seed=0,1"])
    assert [(job.stage, job.config().seed) for job in plan.jobs] == [("scan", 5), ("selflabel", 0), ("selflabel", 1)]


@pytest.mark.parametrize("name", ["kmeans", "candidates", "iic", "number"])
def test_runs_of_methods_are_known_by_all_their_options(name, env):
    """A run records the options that its config leaves out, too."""
    config = str(REPOSITORY / f"configs/methods/{name}_digits.yml")
    (job,) = make_plan(name, env, {name: config}, ["seed=0"]).jobs
    train = importlib.import_module(f"methods.{name}").train
    assert set(job.config().method_kwargs) == set(inspect.signature(train).parameters) - {"p", "run"}
    with pytest.raises(ConfigError, match="nonsense"):
        make_plan(name, env, {name: config}, ["method_kwargs.nonsense=1"])
