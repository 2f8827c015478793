import csv
import json
import shutil
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import sweep
from models.weights import save_weights
from sweeps import runner, summary
from sweeps.plan import Setting, make_plan
from system import files
from system.errors import ConfigError, UserError
from tests import processes
from tests.stage import command
from tests.sweeps.plans import SCAN, SELFLABEL, plan_of
from training.comparison import to_plain
from utils import cli
from utils.bases import load_with_bases
from utils.common_config import get_model
from utils.config import REPOSITORY
from utils.setups import SETUPS

SWEEP = """
import sys
from pathlib import Path
from sweeps import runner
from tests.sweeps.plans import plan_of

plan = plan_of(sys.argv[1], "seed=0,1")
runner.Runner([{}, {}], Path(sys.argv[2]) / "logs", Path(sys.argv[2])).run(plan.jobs)
"""

HOLDER = """
import sys
from pathlib import Path
from system.lock import lock_folder
Path(sys.argv[1]).mkdir(parents=True)
lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_sweep_of_self_labeling_from_candidates_needs_their_model_and_no_other(env, tmp_path):
    plan = plan_of(env, "starts_from=candidates", "seed=0")
    with pytest.raises(UserError, match=r"candidates/model.pth.tar, which is missing; run that stage first$"):
        sweep.check_input(plan)
    model = Path(plan.jobs[0].config().candidates_model)
    model.parent.mkdir(parents=True)
    model.touch()
    sweep.check_input(plan)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    env = tmp_path / "env.yml"
    env.write_text(f"root_dir: {tmp_path / 'file' / 'results'}")
    config = str(REPOSITORY / "configs/pretext/simclr_digits.yml")
    assert cli.run(sweep.main, ["simclr", "--config_env", str(env), "--config_exp", config, "seed=0"]) == 1
    assert "cannot use the folder" in capsys.readouterr().err


@pytest.mark.slow
def test_finished_runs_are_not_repeated_and_a_failure_takes_its_followers(env, fake, tmp_path, capfd):
    plan = plan_of(env, "scan.epochs=1,2", "seed=0,1")
    failing = plan.jobs[0]
    calls = fake(plan.jobs, code=lambda job: int(job is failing))
    first = runner.Runner([{}, {}], tmp_path / "logs", tmp_path / "scripts")
    first.run(plan.jobs)
    assert len(first.failed) == 2 and {job.stage for job in first.failed} == {"scan", "selflabel"}
    said = capfd.readouterr().err
    assert "something went wrong" in said
    assert said.count(f"not run, for scan/{failing.name} failed") == 1
    assert len(calls.read_text().split()) == 7
    fake(plan.jobs)
    second = runner.Runner([{}], tmp_path / "logs", tmp_path / "scripts")
    second.run(plan.jobs)
    assert not second.failed and len(calls.read_text().split()) == 9
    assert all(runner.is_finished(job) for job in plan.jobs)


def test_a_run_with_another_config_is_not_taken_for_this_one(env, fake):
    job = plan_of(env, "seed=0").jobs[0]
    fake([job])
    job.folder().mkdir(parents=True)
    other = to_plain(job.config()) | {"epochs": 7}
    (job.folder() / "config.yml").write_text(yaml.safe_dump(other))
    (job.folder() / "run.json").write_text('{"status": "finished", "result": {}, "seconds": 1}')
    (job.folder() / "model.pth.tar").touch()
    assert not runner.is_finished(job)


@pytest.mark.slow
def test_a_signal_reaches_the_runs_and_the_sweep_goes_on_later(env, fake, tmp_path):
    plan = plan_of(env, "seed=0,1,2")
    calls = fake(plan.jobs, seconds=600)  # longer than a test may take
    made = runner.Runner([{}], tmp_path / "logs", tmp_path / "scripts")

    def stop():
        while not calls.exists():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    made.run(plan.jobs)
    assert made.stopped_by == signal.SIGTERM
    assert not made.failed and len(calls.read_text().split()) == 1
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_what_runs_ends_with_a_sweep_that_is_killed(env, fake, tmp_path):
    calls = fake(plan_of(env, "seed=0,1").jobs, seconds=600)
    sweep_process = processes.start(SWEEP, env, tmp_path / "scripts")

    def runs():
        return [pid for pid in processes.children(sweep_process.pid) if processes.alive(pid)]

    try:
        while not (calls.exists() and len(calls.read_text().split()) == 2):
            assert sweep_process.poll() is None
            time.sleep(0.05)
        started = runs()
        assert len(started) == 2
        processes.kill(sweep_process)
        assert processes.left(lambda: [pid for pid in started if processes.alive(pid)]) == []
    finally:
        processes.tidy(sweep_process.pid)
        sweep_process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("finishes", [True, False])
def test_a_run_that_another_process_is_at_is_waited_for(env, fake, tmp_path, capsys, finishes):
    """Its result is taken; where it leaves none, the sweep continues with the run itself."""
    plan = plan_of(env, "seed=0,1")
    held, other = plan.jobs
    calls = fake(plan.jobs)
    process = processes.start(HOLDER, held.folder(), stdin=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"

    def end_when_the_other_run_is_done():
        while not runner.is_finished(other):
            time.sleep(0.05)
        if finishes:
            shutil.copytree(other.folder(), held.folder(), dirs_exist_ok=True, ignore=lambda *_: [".lock"])
            (held.folder() / "config.yml").write_text(yaml.safe_dump(to_plain(held.config())))
        processes.kill(process)

    thread = threading.Thread(target=end_when_the_other_run_is_done, daemon=True)
    thread.start()
    made = runner.Runner([{}], tmp_path / "logs", tmp_path / "scripts")
    made.run(plan.jobs)
    thread.join()
    process.communicate()
    said = capsys.readouterr()
    assert f"{held.name} is running elsewhere (process {process.pid} on" in said.out
    assert said.out.count("running elsewhere") == 1 and said.err == ""
    assert not made.failed and all(runner.is_finished(job) for job in plan.jobs)
    assert calls.read_text().split() == [other.name] + ([] if finishes else [held.name])


def test_one_slot_per_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in runner.make_slots(None)] == ["4", "7"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in runner.make_slots(3)] == ["4", "7", "4"]
    slot = runner.make_slots(None)[1]
    assert runner.environment_of(slot, "cuda") == slot
    named = runner.environment_of(slot, "cuda:0")  # by its number among all
    assert named == {key: value for key, value in slot.items() if key != "CUDA_VISIBLE_DEVICES"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in runner.make_slots(2)] == ["0", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in runner.make_slots(None)] == ["0"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert len(runner.make_slots(None)) == 1 and "CUDA_VISIBLE_DEVICES" not in runner.make_slots(2)[1]


def test_the_table_is_mean_and_deviation_over_seeds(tmp_path):
    rows = [
        {"setting": Setting({"t": "0.9"}), "num_runs": 3, "scores": {"acc": [0.8, 0.9, 0.7], "val_loss": [-2.0, -1.0]}},
        {"setting": Setting({"t": "0.95"}), "num_runs": 1, "scores": {"acc": [0.5]}},
        {"setting": Setting({"t": "0.99"}), "num_runs": 0, "scores": {}},
    ]
    summary.write_csv(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert float(found[0]["acc_mean"]) == pytest.approx(0.8)
    assert float(found[0]["acc_std"]) == pytest.approx(statistics.stdev([0.8, 0.9, 0.7]))
    assert found[1]["acc_std"] == "0.0" and found[2]["acc_mean"] == "" and found[1]["val_loss_mean"] == ""
    lines = summary.markdown(rows).splitlines()
    assert lines[0] == "| t | runs | ACC % | val loss |"
    assert lines[2:] == ["| 0.9 | 3 | 80.0 ± 10.0 | -1.5 ± 0.71 |", "| 0.95 | 1 | 50.0 | – |", "| 0.99 | 0 | – | – |"]


def test_a_whole_sweep_ends_with_tables_and_pictures(env, fake, tmp_path, capsys):
    words = ["num_heads=1,2", "epochs=1", "seed=0,1"]
    plan = plan_of(env, *words, stage="scan", exp=SCAN)
    fake(plan.jobs, result=lambda job: {"acc": 0.5 + 0.1 * job.config().seed, "best_loss": -job.config().num_heads})
    pretext = Path(plan.jobs[0].config().pretext_model)
    save_weights(pretext, {"x": torch.zeros(1)})
    for job in plan.jobs:  # what the stand-in only touches
        torch.manual_seed(0)
        p = job.config()
        save_weights(p.scan_model, {"model": get_model(p).state_dict(), "head": 0})
        start = files.recorded_checksum(pretext)
        files.write_text(job.folder() / "config.yml", yaml.safe_dump(to_plain(p)), record=True, start=start)
        record = {"status": "finished", "seconds": 1.0, "result": {"acc": 0.5 + 0.1 * p.seed, "best_loss": -1.0}}
        files.write_text(job.folder() / "run.json", json.dumps(record))
    assert command("sweep", "scan", "--config_env", env, "--config_exp", SCAN, *words) == 0
    out = capsys.readouterr().out
    assert "4 runs, 4 of them finished before" in out and "| 1 | 2 | 55.0 ± 7.1 |" in out
    folder = tmp_path / "results" / "digits" / "sweeps" / "scan-num_heads-epochs=1-seed"
    for name in ("scores.png", "prototypes.png", "confusion_matrices.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert "over seed" in text and "python sweep.py scan" in text
    assert "changed since" not in capsys.readouterr().err
    save_weights(pretext, {"x": torch.ones(1)})
    assert command("sweep", "scan", "--config_env", env, "--config_exp", SCAN, *words) == 0
    assert "4 of them began with a model that has changed since" in capsys.readouterr().err


def test_a_missing_input_and_a_wrong_stage_are_sentences(env, capsys):
    assert command("sweep", "selflabel", "--config_env", env, "--config_exp", SELFLABEL, "seed=0") == 1
    assert "scan.seed=0" in capsys.readouterr().err
    assert command("sweep", "cluster", "--config_env", env, "--config_exp", SELFLABEL) == 2
    assert command("sweep", "selflabel", "--config_env", env, "--config_exp", SELFLABEL, "--jobs", 0) == 2


def test_more_neighbors_than_are_mined_are_refused_before_anything_runs(env, capsys):
    words = ["scan", "--config_env", env, "--config_exp", SCAN, "--dry_run"]
    assert command("sweep", *words, "pretext.num_mined_train=30", "num_neighbors=5,40") == 2
    assert "num_neighbors is 40, but only 30 of each image are mined" in capsys.readouterr().err
    assert command("sweep", *words, "pretext.epochs=1", "num_neighbors=5,40") == 2
    assert "only 20 of each image are mined" in capsys.readouterr().err
    assert command("sweep", *words, "num_neighbors=5,40") == 0  # nothing was mined yet
    path = Path(plan_of(env, stage="scan", exp=SCAN).jobs[0].config().topk_neighbors_train_path)
    path.parent.mkdir(parents=True)
    np.save(path, np.zeros((3, 31), dtype=np.int64))
    assert command("sweep", *words, "num_neighbors=5,30") == 0
    assert command("sweep", *words, "num_neighbors=5,31") == 2
    assert "only 30 of each image are mined" in capsys.readouterr().err


def test_a_dry_run_lists_the_runs(env, capsys):
    words = ["selflabel", "--config_env", env, "--config_exp", SELFLABEL, "scan.epochs=1,2", "--dry_run"]
    assert command("sweep", *words) == 0
    shown = capsys.readouterr()
    assert shown.out.count("run_name=") == 4
    assert "the sweep starts from" in shown.err and "which is missing" in shown.err


def test_a_methods_name_before_a_key_is_that_of_the_config(env, capsys):
    words = ["scan", "--config_env", env, "--config_exp", SCAN, "--dry_run"]
    assert command("sweep", *words, "simclr.epochs=2") == 0
    assert command("sweep", *words, "byol.epochs=2") == 2
    said = capsys.readouterr().err
    assert "'byol.epochs=2' is of byol, but the stage pretext would run" in said and "--pretext_config FILE" in said
    assert command("sweep", *words, "--scan_config", SCAN) == 2
    assert "the config of scan is --config_exp" in capsys.readouterr().err


@pytest.mark.parametrize("name", SETUPS)
def test_every_method_can_be_swept(name, env, capsys):
    """Its runs are its own, and what it starts from must be there."""
    (config,) = [*(REPOSITORY / "configs").glob(f"*/{name}_digits.yml")] or [
        REPOSITORY / "configs/pretext/moco_imagenet50.yml"
    ]
    stage = SETUPS[name].stage
    plan = make_plan(stage, None, {stage: str(config)}, ["seed=0,1"])
    assert [(job.stage, job.name, job.config().setup) for job in plan.jobs] == [
        (stage, f"seed={seed}", name) for seed in (0, 1)
    ]
    assert len({job.folder() for job in plan.jobs}) == 2
    assert command("sweep", name, "--config_env", env, "--config_exp", config, "seed=0,1", "--dry_run") == 0
    assert f"{stage}/seed=1" in capsys.readouterr().out
    if SETUPS[name].starts_from:
        assert command("sweep", name, "--config_env", env, "--config_exp", config, "seed=0,1") == 1
        assert f"let the sweep run it: {SETUPS[name].starts_from}.seed=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "score"),
    [
        ({"acc": 0.9, "last_loss": -2.0, "best_loss": -2.5, "loss": 1.0}, -2.0),
        ({"best_loss": -2.5, "loss": 1.0}, -2.5),
        ({"acc": 0.9, "loss": 1.0}, 1.0),
        ({"acc": 0.9}, float("inf")),
    ],
)
def test_the_label_free_score_of_a_run_is_the_first_that_its_stage_has(result, score):
    assert summary.label_free_score(result) == score


def test_a_folder_with_a_run_of_another_config_is_named(env, tmp_path):
    exp = tmp_path / "scan_other.yml"
    exp.write_text(yaml.safe_dump(load_with_bases(Path(SCAN))[0] | {"batch_size": 77}))
    plan, other = (make_plan("scan", env, {"scan": str(path)}, ["seed=0"]) for path in (SCAN, exp))
    folder = plan.jobs[0].folder()
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(yaml.safe_dump(to_plain(plan.jobs[0].config())))
    sweep.check_folders(other)  # a run that kept nothing has nothing to lose
    (folder / "checkpoint.pth.tar").touch()
    sweep.check_folders(plan)
    with pytest.raises(ConfigError, match="of other batch_size; move it away, or add the word batch_size=…"):
        sweep.check_folders(other)
