"""Several processes on the CPU (gloo) do what one does: gradients, training, neighbors, whole stages, failures."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

import scan
import selflabel
import simclr
from clustering.features import Embedder
from clustering.mining import mine_neighbors
from data.augment import Evaluation
from data.dataset import ImageDataset
from losses import CRITERIA
from models import build_backbone
from models.models import ClusteringModel, ContrastiveModel
from system import distributed
from system.errors import ConfigError, UserError
from system.runtime import Runtime
from tests import processes
from tests import stage as stages
from tests.ranks import run_ranks
from training.batchnorm import synchronize_batchnorm
from utils import cli

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
BATCH, CLUSTERS = 12, 5
KINDS = ("float64", "float32")
HEADS = {"scan": 2, "selflabel": 1}
THRESHOLDED = 4  # confident samples of a batch; they are put first, so that the last of 2 or 3 ranks has none


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def images(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)


def build(name, dtype):
    torch.manual_seed(3)
    backbone = build_backbone("resnet8", "cifar", width=4)
    if name == "simclr":
        return ContrastiveModel(backbone, "mlp", 6).to(dtype)
    return ClusteringModel(backbone, CLUSTERS, HEADS[name]).to(dtype)


def simclr_loss(forward, views):
    return simclr.step(forward, CRITERIA["simclr"](temperature=0.3), *views)


def scan_loss(forward, views):
    return scan.step(forward, CRITERIA["scan"](entropy_weight=3.0), *views)[0]


def selflabel_loss(forward, views):
    with torch.no_grad():
        plain = distributed.gather(forward(views[0])[0])
    highest = plain.softmax(1).max(1).values.sort(descending=True).values
    threshold = float(highest[THRESHOLDED - 1 : THRESHOLDED + 1].mean())
    criterion = CRITERIA["confidence-cross-entropy"](threshold=threshold, apply_class_balancing=True)
    return selflabel.step(forward, criterion, *views)[0]


LOSSES = {"simclr": simclr_loss, "scan": scan_loss, "selflabel": selflabel_loss}


def own_share(views):
    return [view[distributed.slice_of(BATCH)] for view in views]


def confident_first(model, views):
    """The batch in falling confidence of its plain views; BatchNorm in training mode does not mind the order."""
    with torch.no_grad():
        order = model(views[0])[0].softmax(1).max(1).values.argsort(descending=True)
    return [view[order] for view in views]


def train(name, dtype, num_steps):
    """Gradients of the first step, and the state after `num_steps` of them with momentum."""
    model = build(name, dtype)
    views = [images(0, dtype), images(1, dtype)]
    if name == "selflabel":
        views = confident_first(model, views)
        model = build(name, dtype)
    if distributed.world_size() > 1:
        model = synchronize_batchnorm(model)
    network = distributed.data_parallel(model, CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    gradients = {}
    for step in range(num_steps):
        optimizer.zero_grad()
        shown = [view + 0.1 * step for view in views]
        LOSSES[name](network, own_share(shown)).backward()
        gradients = gradients or {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return gradients, model.state_dict()


def features(num=101):
    made = torch.randn(num, 16, generator=torch.Generator().manual_seed(5))
    made[40] = made[7]  # a duplicate, and so a tie
    return made


def mine():
    """What the pretext stage does: each rank embeds and mines its own rows, and all are put together."""
    own = distributed.slice_of(len(features()))
    gathered = distributed.gather_rows(features()[own])
    found = mine_neighbors(gathered, 9, "torch", rows=range(own.start, own.stop))
    return distributed.gather_rows(torch.from_numpy(found))


def embedding():
    pixels = torch.randint(256, (23, 3, 8, 8), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    dataset = ImageDataset("tiny", pixels, torch.zeros(23), ["one"], [str(i) for i in range(23)])
    model = build("simclr", torch.float32)
    strategy = Evaluation(8, {"mean": [0.5] * 3, "std": [0.25] * 3})
    return Embedder(strategy, Runtime.start("cpu", "fp32"), 4).embed(model, dataset)


def refuse():
    """Only rank 0 is asked, and all of them hear its refusal."""

    def open_folder():
        raise ConfigError(f"rank {distributed.rank()} says no")

    try:
        distributed.on_main(open_folder)
    except UserError as error:
        return str(error), error.exit_code, distributed.on_main(distributed.rank)


def answers():
    found = {f"gradients of {name}": train(name, torch.float64, 1)[0] for name in LOSSES}
    for name in LOSSES:
        found |= {f"ten steps of {name}, {kind}": train(name, getattr(torch, kind), 10)[1] for kind in KINDS}
    return found | {"neighbors": mine(), "embedding": embedding(), "refusal": refuse()}


def join(rank, world_size, port):
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}


def answer(rank, world_size, port, folder):
    join(rank, world_size, port)
    distributed.start(CPU)
    torch.save(answers(), f"{folder}/{rank}.pt")
    distributed.stop()


@pytest.fixture(scope="module", params=[2, 3])
def pool(request, tmp_path_factory):
    """What every rank of a pool answers, and what one process does."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    run_ranks(answer, request.param, request.param, free_port(), str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)], answers()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_one_process(pool, name):
    ranks, alone = pool
    expected = alone[f"gradients of {name}"]
    assert expected
    for found in ranks:
        assert found[f"gradients of {name}"].keys() == expected.keys()
        for key, gradient in expected.items():
            difference = (found[f"gradients of {name}"][key] - gradient).norm()
            assert difference <= 1e-12 * gradient.norm(), key


def test_the_last_rank_had_no_confident_sample():
    model = build("selflabel", torch.float64)
    views = confident_first(model, [images(0, torch.float64), images(1, torch.float64)])
    confidence = build("selflabel", torch.float64)(views[0])[0].softmax(1).max(1).values
    assert bool((confidence[:THRESHOLDED].min() > confidence[THRESHOLDED:]).all())
    assert THRESHOLDED <= BATCH // 3


def relative_difference(found, expected):
    """Of two state_dicts, all tensors together."""
    a, b = (torch.cat([value.double().flatten() for value in state.values()]) for state in (found, expected))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", LOSSES)
def test_ten_steps_lead_to_the_same_weights(pool, name):
    ranks, alone = pool
    for kind, tolerance in (("float64", 1e-9), ("float32", 1e-3)):  # ten steps amplify rounding by about 1,000
        expected = alone[f"ten steps of {name}, {kind}"]
        for found in ranks:
            weights = found[f"ten steps of {name}, {kind}"]
            torch.testing.assert_close(weights, ranks[0][f"ten steps of {name}, {kind}"], rtol=0, atol=0)
            assert relative_difference(weights, expected) < tolerance


def test_neighbors_and_features_do_not_depend_on_the_ranks(pool):
    ranks, alone = pool
    for found in ranks:
        assert torch.equal(found["neighbors"], alone["neighbors"])
        torch.testing.assert_close(found["embedding"], alone["embedding"], rtol=1e-5, atol=1e-6)
    similarity = nn.functional.normalize(features().double(), dim=1)
    similarity = similarity @ similarity.T
    for i, row in enumerate(alone["neighbors"].tolist()):
        assert row == sorted(range(101), key=lambda j, i=i: (j != i, -round(float(similarity[i, j]), 11), j))[:10]


def test_what_rank_0_is_refused_ends_every_rank(pool):
    ranks, alone = pool
    assert [found["refusal"] for found in [*ranks, alone]] == [("rank 0 says no", 2, 0)] * (len(ranks) + 1)


# Whole stages

ALIKE = ["device=cpu", "precision=fp32", "batch_size=360"]
# Adam makes of a gradient near zero, rounding and all, a step like any other.
ALIKE += ["optimizer=sgd", "optimizer_kwargs={lr: 0.02, momentum: 0.9}"]
OWN = {
    "simclr": ["knn_every=2", "num_mined_train=20"],
    "scan": ["num_heads=2", "num_neighbors=10"],
    "selflabel": ["confidence_threshold=0.05", "average_decay=0.5"],
}


def words_of(script, root, *more):
    """The words of a stage whose numbers several processes can repeat."""
    return stages.words_of(script, root, *ALIKE, *OWN[script], *more)


def torchrun(script, *arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    whole = [*launcher, "--master_port", str(free_port()), str(script), *arguments]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=240)


def outcome(root, stage):
    """Weights and metrics of a finished stage."""
    folder = Path(root) / "digits" / stages.FOLDERS[stage]
    model = torch.load(folder / "model.pth.tar")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return model.get("model", model), [line.get("loss") for line in lines]


def same_outcome(root, other, stage):
    (weights, losses), (expected, expected_losses) = outcome(root, stage), outcome(other, stage)
    assert weights.keys() == expected.keys()
    assert relative_difference(weights, expected) < 1e-3
    # A prediction that rounding tips over is another label for self-labeling.
    assert losses == pytest.approx(expected_losses, abs=5e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """All stages in one process."""
    root = tmp_path_factory.mktemp("alone")
    for script in stages.FOLDERS:
        assert stages.command(script, *words_of(script, root)) == 0
    return root


def test_torchrun_does_what_one_process_does(alone, tmp_path):
    done = torchrun(ROOT / "simclr.py", *words_of("simclr", tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1  # only rank 0 speaks
    same_outcome(tmp_path, alone, "simclr")
    assert json.loads((tmp_path / "digits/pretext/run.json").read_text())["ranks"] == 2


def run_stages(rank, world_size, ports, root):
    """Go on with a scan run of one process, self-label, and refuse a batch that ranks cannot share."""
    told = io.StringIO()
    commands = [("scan", [], 0), ("selflabel", [], 0), ("simclr", ["batch_size=361", "run_name=odd"], 2)]
    for port, (script, more, expected) in zip(ports, commands, strict=True):
        join(rank, world_size, port)
        with contextlib.redirect_stderr(told):
            code = stages.command(script, *words_of(script, root, *more))
        assert code == expected, told.getvalue()  # a rank that went on alone would wait forever
    Path(f"{root}/rank{rank}.txt").write_text(told.getvalue())


def interrupt(rank, root):
    """A scan run that a signal stops at the end of its first epoch."""
    from training.run import Run

    end_epoch = Run.end_epoch

    def end(run, **scores):
        signal.raise_signal(signal.SIGTERM)
        end_epoch(run, **scores)

    Run.end_epoch = end
    assert stages.command("scan", *words_of("scan", root)) == 143


def test_ranks_may_change_on_resume_and_every_stage_runs_on_several(alone, tmp_path):
    shutil.copytree(alone / "digits" / "pretext", tmp_path / "digits" / "pretext")
    run_ranks(interrupt, 1, str(tmp_path))
    assert len((tmp_path / "digits/scan/metrics.jsonl").read_text().splitlines()) == 1

    run_ranks(run_stages, 2, 2, [free_port() for _ in range(3)], str(tmp_path))
    same_outcome(tmp_path, alone, "scan")
    same_outcome(tmp_path, alone, "selflabel")
    told = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert any("batch_size is 361, which 2 ranks cannot share equally" in words for words in told)
    assert not any("Traceback" in words for words in told)


FAILING = """
import os, sys
import simclr
from losses import SimCLRLoss
from utils import cli
from system.errors import UserError

compute = SimCLRLoss.forward

def fail(self, features):
    if os.environ["RANK"] == "1":
        raise UserError("the second rank has a bad day")
    return compute(self, features)

SimCLRLoss.forward = fail
sys.exit(cli.run(simclr.main))
"""


def test_a_failed_rank_ends_the_job_with_its_error(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = torchrun(script, *words_of("simclr", tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("the second rank has a bad day") == 1
    assert "another rank has ended" in done.stderr or "SIGTERM" in done.stderr


# Ranks that never meet

MEETING = """
import os, sys, time
from pathlib import Path
from system import distributed
from utils import cli

def main(argv):
    (Path(sys.argv[1]) / f"{os.environ['RANK']}.txt").write_text(str(os.getpid()))
    if os.environ["RANK"] == "1":
        time.sleep(600)  # it is still at its imports, say
    distributed.start(distributed.torch.device("cpu"))
    return 0

sys.exit(cli.run(main))
"""


def test_ranks_end_with_a_launcher_that_is_killed_before_they_meet(tmp_path):
    (tmp_path / "meeting.py").write_text(MEETING)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    whole = [*launcher, "--master_port", str(free_port()), str(tmp_path / "meeting.py"), str(tmp_path)]
    process = subprocess.Popen(whole, env=environment, start_new_session=True)
    told = [tmp_path / f"{rank}.txt" for rank in (0, 1)]
    try:
        while not all(path.exists() and path.read_text() for path in told):
            assert process.poll() is None
            time.sleep(0.05)
        ranks = [int(path.read_text()) for path in told]
        processes.kill(process)
        assert processes.left(lambda: [pid for pid in ranks if processes.alive(pid)]) == []
    finally:
        process.kill()


def test_a_rank_whose_launcher_is_gone_says_so(monkeypatch, capsys):
    """It was killed while the rank was at its imports, so that the rank has another parent by now."""
    elastic = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for key, value in (elastic | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(key, value)
    assert cli.run(lambda argv: distributed.start(CPU) or 0) == 1
    assert "torchrun, which started this rank, is gone; start all ranks again" in capsys.readouterr().err


def test_a_rank_that_waits_for_the_others_in_vain_says_so(monkeypatch, capsys):
    elastic = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for key, value in elastic.items():
        monkeypatch.setenv(key, value)
    assert cli.run(lambda argv: distributed.start(CPU, timedelta(seconds=0.5)) or 0) == 1
    said = capsys.readouterr().err
    assert "error: the ranks did not meet in 0.00833333 minutes (" in said and "); look at what the others say" in said
