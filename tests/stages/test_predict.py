import csv
import io
import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image

import predict
from clustering import prediction
from models.weights import save_weights
from report.sorting import Sorter, cluster_folders, copy_file
from system import files
from system.errors import ConfigError, UserError
from system.runtime import Runtime
from tests.stage import command
from training.comparison import to_plain
from utils import clusters, saved
from utils.common_config import get_embedder, get_model, get_val_dataset
from utils.config import load_config

CONFIG = {
    "setup": "scan",
    "train_db_name": "folder",
    "db_alias": "runs",
    "num_classes": 5,
    "num_heads": 2,
    "backbone": "resnet8",
    "stem": "cifar_s2",
    "width": 4,
    "transformation_kwargs": {"crop_size": 16, "normalize": {"mean": [0.4] * 3, "std": [0.3] * 3}},
    "num_workers": 0,
}


def make_run(base, **changes):
    """A scan run that was never trained: model.pth.tar and the resolved config next to it."""
    config = {**CONFIG, **changes}
    kwargs = {"root": str(base / "images"), **config.pop("train_db_kwargs", {})}
    (base / "env.yml").write_text(yaml.safe_dump({"root_dir": str(base)}))
    (base / "scan.yml").write_text(yaml.safe_dump({**config, "train_db_kwargs": kwargs}))
    p = load_config(base / "env.yml", base / "scan.yml")
    torch.manual_seed(3)
    folder = Path(p.scan_dir)
    save_weights(folder / "model.pth.tar", {"model": get_model(p).state_dict(), "head": 1})
    files.write_text(folder / "config.yml", yaml.safe_dump(to_plain(p), sort_keys=False), record=True)
    return p, folder


@pytest.fixture
def base(tmp_path):
    random = np.random.default_rng(0)
    for name in ["a.png", "sub/b.png", "sub/two words.png", "=c.png", "ü.jpg", "wide.png", "tall.png"]:
        size = {"wide.png": (20, 50), "tall.png": (60, 17)}.get(name, (24, 24))
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        low = Image.fromarray(random.integers(0, 255, (4, 4, 3)).astype(np.uint8))
        low.resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return tmp_path


def run(capfd, *words):
    code = command("predict", *words)
    shown = capfd.readouterr()
    return code, shown.out, shown.err


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def expected(p, folder):
    """What evaluation says of the folder as a data set."""
    dataset = get_val_dataset(p)
    found = prediction.predict(
        *clusters.load_clustering(p, folder / "model.pth.tar"), dataset, get_embedder(p, Runtime.start("cpu"))
    )
    return dataset.paths, found


@pytest.mark.parametrize("kwargs", [{}, {"resize": 20}, {"stream": True}, {"stream": True, "resize": 30}])
def test_predictions_are_those_of_evaluation(base, capfd, kwargs):
    p, folder = make_run(base, train_db_kwargs=kwargs)
    paths, found = expected(p, folder)
    capfd.readouterr()
    code, out, _ = run(capfd, "--model", folder, base / "images", "--embeddings", base / "e.npy", "--device", "cpu")
    assert code == 0
    rows = read(out)
    assert [row["path"] for row in rows] == [f"{base}/images/{path}" for path in paths]
    confidence, clusters = found.probabilities.max(1)
    assert [int(row["cluster"]) for row in rows] == clusters.tolist()
    assert np.allclose([float(row["confidence"]) for row in rows], confidence, atol=1e-6)
    assert np.array_equal(np.load(base / "e.npy"), found.features.numpy())


def test_blocks_give_what_one_pass_gives(base, capfd):
    """A block of images scaled to 1200 pixels, 4.3 MB each, has 64 of them."""
    _, folder = make_run(base, train_db_kwargs={"resize": 1200})
    whole = read(run(capfd, "--model", folder, base / "images")[1])
    words = 10 * [base / "images"]
    code, out, _ = run(capfd, "--model", folder, *words, "--embeddings", base / "e.npy")
    assert code == 0 and np.load(base / "e.npy").shape == (70, 16)
    for one, other in zip(10 * whole, read(out), strict=True):
        assert one["path"] == other["path"] and one["cluster"] == other["cluster"]
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=2e-6)


def test_top_k_falls_and_sums_to_one(base, capfd):
    _, folder = make_run(base)
    _, out, _ = run(capfd, "--model", folder, base / "images" / "a.png", "--top_k", 5)
    header, values = out.splitlines()
    assert header.startswith("path,cluster,confidence,cluster_2,confidence_2") and header.endswith("confidence_5")
    numbers = [float(value) for value in values.split(",")[2::2]]
    assert numbers == sorted(numbers, reverse=True) and sum(numbers) == pytest.approx(1, abs=1e-5)
    assert run(capfd, "--model", folder, base / "images", "--top_k", 6)[0] == 2
    code, _, said = run(capfd, "--model", folder, base / "images", "--top_k", 0)
    assert code == 2 and "0 is not a whole number above 0" in said


def test_unreadable_files_are_skipped_and_named(base, capfd):
    _, folder = make_run(base)
    (base / "broken.png").write_bytes(b"no image")
    words = [base / "broken.png", base / "images" / "a.png", base / "missing.png"]
    code, out, err = run(capfd, "--model", folder, *words)
    assert code == 0 and [row["path"] for row in read(out)] == [str(words[1])]
    assert "broken.png" in err and "missing.png" in err and "2 files skipped" in err


def test_no_readable_file_keeps_the_old_table(base, capfd):
    _, folder = make_run(base)
    (base / "broken.png").write_bytes(b"no image")
    (base / "table.csv").write_text("old")
    code, _, err = run(capfd, "--model", folder, base / "broken.png", "--output", base / "table.csv")
    assert code == 1 and "none of the 1 files" in err and (base / "table.csv").read_text() == "old"


def test_a_list_on_the_standard_input(base, capfd, monkeypatch):
    _, folder = make_run(base)
    names = [base / "images" / "ü.jpg", base / "images" / "a.png"]

    class Input:
        buffer = io.BytesIO(b"".join(os.fsencode(name) + b"\n" for name in names) + b"\n")

    monkeypatch.setattr("sys.stdin", Input)
    code, out, _ = run(capfd, "--model", folder, "-")
    assert code == 0 and [row["path"] for row in read(out)] == [str(name) for name in names]


def test_parquet_says_what_csv_says(base, capfd):
    _, folder = make_run(base)
    out = run(capfd, "--model", folder, base / "images", "--top_k", 2)[1]
    assert run(capfd, "--model", folder, base / "images", "--top_k", 2, "--output", base / "t.parquet")[0] == 0
    table = pyarrow.parquet.read_table(base / "t.parquet").to_pylist()
    assert [{key: str(value) for key, value in row.items()} for row in table] == [dict(row) for row in read(out)]


def test_parquet_without_pyarrow_is_a_sentence(base, capfd, monkeypatch):
    _, folder = make_run(base)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    code, _, err = run(capfd, "--model", folder, base / "images", "--output", base / "t.parquet")
    assert code == 1 and "pip install pyarrow" in err and not (base / "t.parquet").exists()


@pytest.mark.parametrize("option", ["--copy_to", "--link_to"])
def test_one_folder_a_cluster(base, capfd, option):
    _, folder = make_run(base)
    twin = base / "images" / "sub" / "a.png"
    twin.write_bytes((base / "images" / "a.png").read_bytes())
    _, out, _ = run(capfd, "--model", folder, base / "images", option, base / "sorted")
    rows = read(out)
    placed = [path for path in (base / "sorted").rglob("*") if path.is_file()]
    assert len(placed) == len(rows) == 8
    for row in rows:
        group = base / "sorted" / f"cluster-{row['cluster']}"
        assert any(path.read_bytes() == Path(row["path"]).read_bytes() for path in group.iterdir())
    assert all(path.is_symlink() == (option == "--link_to") for path in placed)
    assert any(path.name == "a-2.png" for path in placed)
    assert run(capfd, "--model", folder, base / "images", option, base / "sorted")[0] == 1


ORIGINALS = ["x/img.png", "y/img.png", "x/img-1.png", "y/img-1.png", "x/img-2.png"]


@pytest.mark.parametrize("names", list(itertools.combinations(ORIGINALS, 3)))
def test_no_order_of_names_takes_one_original_for_another(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for number, order in enumerate(itertools.permutations(names)):
        sorter = Sorter(tmp_path / f"sorted-{number}", copy_file, cluster_folders(2))
        sorter.write([str(tmp_path / name) for name in order], [0] * 3)
        placed = {path.name: path.read_text() for path in (tmp_path / f"sorted-{number}" / "cluster-0").iterdir()}
        assert sorted(placed.values()) == sorted(order)


def test_a_number_is_added_to_the_whole_name(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "img-1.png").write_text(folder)
    paths = [str(tmp_path / folder / "img-1.png") for folder in ("x", "y")]
    Sorter(tmp_path / "sorted", copy_file, cluster_folders(2)).write(paths, [0, 0])
    assert sorted(path.name for path in (tmp_path / "sorted" / "cluster-0").iterdir()) == ["img-1-2.png", "img-1.png"]


def test_names_that_a_disk_may_take_for_one_are_numbered(tmp_path):
    names = ["x/IMG.png", "y/img.png", "x/caf\u00e9.png", "y/cafe\u0301.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    sorter = Sorter(tmp_path / "sorted", copy_file, cluster_folders(2))
    sorter.write([str(tmp_path / name) for name in names], [0] * 4)
    found = {path.name: path.read_text() for path in (tmp_path / "sorted" / "cluster-0").iterdir()}
    assert found == dict(zip(["IMG.png", "img-2.png", "caf\u00e9.png", "cafe\u0301-2.png"], names, strict=True))


def test_what_was_put_there_under_another_spelling_is_removed(tmp_path):
    for name in ("x/IMG.png", "y/img.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    first = Sorter(tmp_path / "sorted", copy_file, cluster_folders(2))
    first.write([str(tmp_path / "x/IMG.png")], [0])
    first.close()
    again = Sorter(tmp_path / "sorted", copy_file, cluster_folders(2))
    again.write([str(tmp_path / "y/img.png")], [0])
    again.finish()
    left = [path for path in (tmp_path / "sorted").rglob("*") if path.is_file()]
    assert [path.read_text() for path in left] == ["y/img.png"]


def test_the_user_s_folder_and_variables_in_the_images_are_replaced(monkeypatch):
    monkeypatch.setenv("SHOTS", "/new/ones")
    assert predict.parse(["--model", "m", "$SHOTS/a.png", "-"]).images == ["/new/ones/a.png", "-"]


def test_a_run_an_output_folder_and_a_file_name_the_model(tmp_path):
    run_folder = tmp_path / "runs" / "scan"
    run_folder.mkdir(parents=True)
    (run_folder / "model.pth.tar").touch()
    for given in (tmp_path, run_folder, run_folder / "model.pth.tar"):
        assert saved.find_model(given) == run_folder / "model.pth.tar"
    with pytest.raises(UserError, match=r"holds no model\.pth\.tar"):
        saved.find_model(tmp_path / "runs")
    for name in ("k04", "k12"):
        (tmp_path / "several" / name).mkdir(parents=True)
        (tmp_path / "several" / name / "model.pth.tar").touch()
    with pytest.raises(UserError, match=r"several numbers of clusters; give one of them: \S+/several/k04 to k12$"):
        saved.find_model(tmp_path / "several")


def test_a_model_without_config_needs_one_named(base, capfd):
    p, folder = make_run(base)
    lone = base / "lone.pth.tar"
    lone.write_bytes((folder / "model.pth.tar").read_bytes())
    code, _, err = run(capfd, "--model", lone, base / "images")
    assert code == 1 and "--config_exp" in err
    words = ["--config_env", base / "env.yml", "--config_exp", base / "scan.yml"]
    code, out, _ = run(capfd, "--model", lone, base / "images", *words)
    assert code == 0 and len(read(out)) == 7
    assert p.num_classes == 5


@pytest.mark.parametrize("key", ["num_classes", "transformation_kwargs"])
def test_a_named_config_that_lacks_a_key_is_told(base, capfd, key):
    _, folder = make_run(base)
    lacking = yaml.safe_load((base / "scan.yml").read_text())
    del lacking[key]
    (base / "lacking.yml").write_text(yaml.safe_dump(lacking))
    words = ["--config_env", base / "env.yml", "--config_exp", base / "lacking.yml"]
    code, _, err = run(capfd, "--model", folder, base / "images", *words)
    assert code == 2 and f"predict.py needs the key '{key}'" in err


def test_models_and_configs_that_do_not_serve(base, capfd):
    _, folder = make_run(base)
    (folder / "config.yml").write_text("setup: simclr\n")
    code, _, err = run(capfd, "--model", folder, base / "images")
    assert code == 1 and "config.yml" in err
    code, _, err = run(capfd, "--model", base / "nothing.pth.tar", base / "images")
    assert code == 1 and "nothing.pth.tar" in err


def test_an_output_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        predict.main(["--model", "x", "y", "--output", "t.txt"])


def test_streaming_is_told_by_the_size_of_the_training_folder(base):
    p, folder = make_run(base)
    found = saved.reading(p, folder / "model.pth.tar")
    assert (found.side, found.streamed, found.values.old) == (16, False, True)
    pretext = Path(p.topk_neighbors_train_path)
    files.write_file(pretext, lambda file: np.save(file, np.zeros((1, 2))), num_images=20_000_000)
    found = saved.reading(p, folder / "model.pth.tar")
    assert (found.side, found.streamed) == (round(16 / 0.875), True)


class Notebook(io.StringIO):
    """A standard output without bytes beneath."""


def test_in_a_notebook(base, monkeypatch):
    _, folder = make_run(base)
    words = ["--model", str(folder), str(base / "images")]
    for stream in (Notebook(), None):
        monkeypatch.setattr("sys.stdout", stream)
        assert predict.main([*words, "--output", str(base / "x.csv")]) == 0
        assert len(read((base / "x.csv").read_text())) == 7
        (base / "x.csv").unlink()
    with pytest.raises(UserError, match="no standard output"):
        predict.main(words)
    monkeypatch.setattr("sys.stdout", stream := Notebook())
    assert predict.main(words) == 0
    assert len(read(stream.getvalue())) == 7


@pytest.mark.parametrize("written", ["nul", "utf-8-sig", "utf-16", "crlf"])
def test_lists_of_other_programs(base, capfd, monkeypatch, written):
    _, folder = make_run(base)
    names = [str(base / "images" / name) for name in ("ü.jpg", "a.png", "sub/two words.png")]
    data = {
        "nul": lambda: "".join(f"{name}\0" for name in names).encode(),
        "crlf": lambda: "\r\n".join(names).encode(),
    }.get(written, lambda: "\n".join(names).encode(written))()

    class Input:
        buffer = io.BytesIO(data)

    monkeypatch.setattr("sys.stdin", Input)
    code, out, _ = run(capfd, "--model", folder, "-")
    assert code == 0 and [row["path"] for row in read(out)] == names


def test_names_that_look_like_options_and_variables(base, capfd, monkeypatch):
    _, folder = make_run(base)
    monkeypatch.chdir(base)
    monkeypatch.setenv("HOME", str(base))
    names = ["-x.png", "~$draft.png", "$5_to_$10.png", "=1.png", "li\nne.png", os.fsdecode(b"b\xe9.png")]
    for name in names:
        Path(name).write_bytes(Path("images/a.png").read_bytes())
    code, out, _ = run(capfd, "--model", folder, "--output", "~/table.csv", "--copy_to=$HOME/sorted", "--", *names)
    assert code == 0 and out == f"clusters: {base}/table.csv\n6 images\n"
    table = (base / "table.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert [row["path"] for row in read(table)] == [name if name[0] not in "-=" else f"./{name}" for name in names]
    assert {path.name for path in (base / "sorted").glob("*/*")} == set(names)
    assert not (base / "~").exists()


def test_only_regular_files_are_read(base, capfd):
    _, folder = make_run(base)
    os.mkfifo(base / "pipe.png")
    (base / "link.png").symlink_to("pipe.png")
    words = [base / "pipe.png", base / "link.png", "/dev/zero", base / "images" / "a.png"]
    code, out, err = run(capfd, "--model", folder, *words)
    assert code == 0 and len(read(out)) == 1 and err.count("not a regular file") == 3


def test_names_of_files_reach_no_terminal_as_they_are(base, capfd):
    _, folder = make_run(base)
    hostile = base / "\x1b]0;title\x07\u202e.png"
    hostile.write_bytes(b"no image")
    code, _, err = run(capfd, "--model", folder, hostile, base / "images" / "a.png")
    assert code == 0 and r"\x1b]0;title\x07\u202e.png" in err
    assert all(line.isprintable() for line in err.splitlines())
    code, _, err = run(capfd, "--model", hostile.parent / "none\x1b[2J", base / "images")
    assert code == 1 and r"none\x1b[2J" in err and err.count("\n") == 1
