"""K-means as a method: its model is its own assignment, on features from anywhere; what does not fit is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans
from torch.nn import functional

import eval as evaluation
import predict
from data import digits
from methods import kmeans
from models import build_backbone
from system.errors import ConfigError
from system.files import REPOSITORY
from system.runtime import Runtime
from tests.benchmarks.test_ablations import write_mnist
from tests.stage import few_digits, stage
from utils import cli
from utils.clusters import load_clustering
from utils.common_config import get_embedder
from utils.config import load_config

pytestmark = [pytest.mark.usefixtures("signals", "empty_pictures"), pytest.mark.slow]
FEW = few_digits(200, 144)
CONFIG = str(REPOSITORY / "configs/methods/kmeans_digits.yml")
RESNET = ["backbone=resnet8", "stem=cifar_s2", "width=4", "method_kwargs={features: pretext}"]


def words(root, *more):
    return ["--config_exp", CONFIG, f"root_dir={root}", *FEW, *more]


def run(root, *more):
    return cli.run(kmeans.main, words(root, *more))


def result(root, name=""):
    return json.loads((root / "digits/kmeans" / name / "run.json").read_text())["result"]


def clusters_of(root, *more):
    """What the model that a run left makes of the training images."""
    p = load_config(None, CONFIG, words(root, *more)[2:])
    model, head = load_clustering(p, p.kmeans_model)
    features = get_embedder(p, Runtime.of(p)).embed(model.backbone, digits.build(root, "train", 16, num_images=200))
    return model.cluster_head[head](features).argmax(1), features


@pytest.mark.parametrize("options", ["num_dims: null", "num_dims: 12", "num_dims: 12, whiten: true"])
def test_the_model_is_k_means_on_pixels_exactly(options, tmp_path):
    assert run(tmp_path, f"method_kwargs={{{options}}}") == 0
    found, features = clusters_of(tmp_path)
    pixels = digits.build(tmp_path, "train", 16, num_images=200).images.flatten(1).double() / 255
    torch.testing.assert_close(features.double(), (pixels - 0.305) / 0.35, atol=1e-5, rtol=0)
    points = functional.normalize(features, dim=1).double().numpy()
    if "12" in options:  # components by NumPy's own decomposition
        points = points - points.mean(0)
        _, values, directions = np.linalg.svd(points, full_matrices=False)
        points = points @ directions[:12].T / (values[:12] / len(points) ** 0.5 if "whiten" in options else 1)
    centroids = np.stack([points[found.numpy() == cluster].mean(0) for cluster in range(10)])
    distances = ((points[:, None] - centroids) ** 2).sum(2)
    assert distances.argmin(1).tolist() == found.tolist(), "every image is with its nearest mean"
    assert distances.min(1).sum() == pytest.approx(result(tmp_path)["inertia"], rel=1e-3)
    best = KMeans(10, n_init=10, random_state=0).fit(points).inertia_
    assert result(tmp_path)["inertia"] == pytest.approx(best, rel=0.03)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("kmeans")
    assert run(root) == 0
    return root


def test_eval_and_predict_read_what_it_left(root, tmp_path):
    assert torch.load(root / "digits/kmeans/model.pth.tar").keys() == {"model", "head"}
    assert cli.run(evaluation.main, words(root, "--json", str(tmp_path / "x.json"))) == 0
    assert json.loads((tmp_path / "x.json").read_text())["acc"] == result(root)["acc"]
    image = digits.build(root, "train", 16, num_images=200).images[7].permute(1, 2, 0).numpy()
    Image.fromarray(image).save(tmp_path / "a.png")
    output = tmp_path / "out.csv"
    call = ["--model", str(root / "digits/kmeans"), str(tmp_path / "a.png"), "--output", str(output)]
    assert cli.run(predict.main, call) == 0
    assert int(output.read_text().splitlines()[1].split(",")[1]) == int(clusters_of(root)[0][7])


def test_components_are_drawn_and_their_share_told(root):
    assert (root / "digits/kmeans/explained_variance.png").exists()
    unit = functional.normalize(clusters_of(root)[1], dim=1).double()
    values = torch.linalg.svdvals(unit - unit.mean(0)).square()
    found = result(root)
    assert found["num_dims"] == 50
    assert found["explained_variance"] == pytest.approx(float(values[:50].sum() / values.sum()), abs=1e-4)


def test_features_of_a_pretext_run(tmp_path):
    assert stage("simclr", tmp_path, *FEW, "epochs=1") == 0
    assert run(tmp_path, *RESNET) == 0
    _, features = clusters_of(tmp_path, *RESNET)
    pretext = torch.load(tmp_path / "digits/pretext/model.pth.tar")
    network = build_backbone("resnet8", "cifar_s2", 4)["backbone"].eval()
    network.load_state_dict(
        {key.removeprefix("backbone."): value for key, value in pretext.items() if key.startswith("backbone.")}
    )
    images = (digits.build(tmp_path, "train", 16, num_images=200).images[:9].float() / 255 - 0.305) / 0.35
    with torch.no_grad():
        torch.testing.assert_close(network(images), features[:9], atol=1e-4, rtol=1e-4)


def test_features_of_a_file_leave_a_table_and_a_model_that_is_scored_by_them(tmp_path, capsys):
    draws = np.random.default_rng(0)
    truth = digits.build(tmp_path, "train", 16, num_images=200).targets.numpy()
    groups = truth % 3
    np.save(
        tmp_path / "x.npy", np.eye(3, 8, dtype=np.float32)[groups] + 0.01 * draws.normal(size=(200, 8)).astype("f4")
    )
    given = ["backbone=given/8", "num_classes=3", f"method_kwargs={{features: {tmp_path / 'x.npy'}}}"]
    assert run(tmp_path, *given) == 0
    rows = (tmp_path / "digits/kmeans/clusters.csv").read_text().splitlines()
    found = [int(row.split(",")[1]) for row in rows[1:]]
    assert len(found) == 200
    assert len(set(zip(groups.tolist(), found, strict=True))) == 3
    scored = [*words(tmp_path, *given), "--split", "train", "--json", str(tmp_path / "scores.json")]
    assert cli.run(evaluation.main, scored) == 0
    largest = sum(np.bincount(truth[groups == group]).max() for group in range(3))  # of each cluster, one class counts
    assert json.loads((tmp_path / "scores.json").read_text())["acc"] == pytest.approx(largest / 200, abs=1e-6)
    capsys.readouterr()
    assert cli.run(evaluation.main, words(tmp_path, *given)) == 1
    assert "are those of the training split; score it with --split train" in capsys.readouterr().err
    assert cli.run(evaluation.main, [*words(tmp_path, *given), "--split", "train", "--kmeans"]) == 2
    assert "this model has features of a file" in capsys.readouterr().err


def test_features_of_a_pretrained_network(tmp_path):
    views = "transformation_kwargs={crop_size: 32, normalize: {mean: [.5, .5, .5], std: [.5, .5, .5]}}"
    more = ["backbone=efficientnet_lite0", views, "method_kwargs={features: pretrained, num_dims: 5}"]
    assert run(tmp_path, *more) == 0
    assert len(clusters_of(tmp_path, *more)[0].unique()) == 10


@pytest.mark.parametrize("features", ["pixels", "pretext"])
def test_a_dry_run_writes_nothing(features, tmp_path, capsys):
    assert run(tmp_path, "--dry_run", *(RESNET if features == "pretext" else [])) == (0 if features == "pixels" else 1)
    assert ("minutes for 200 images" if features == "pixels" else "run the pretext stage first") in str(
        capsys.readouterr()
    )
    assert not list(tmp_path.iterdir())


def test_both_splits_are_clustered_and_scored_together(tmp_path):
    """As IIC is published, by an option of the data set."""
    write_mnist(tmp_path)
    words = ["--config_exp", str(REPOSITORY / "configs/methods/kmeans_mnist.yml"), f"root_dir={tmp_path}"]
    words += [f"data_paths.mnist={tmp_path}", "train_db_kwargs.split=train+test", "val_db_name=null"]
    assert cli.run(kmeans.main, words) == 0
    assert json.loads((tmp_path / "mnist/kmeans/run.json").read_text())["result"]["num_samples"] == 120 + 40
    assert cli.run(evaluation.main, [*words, "--json", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["num_samples"] == 120 + 40


REFUSED = {
    "another network than pixels": (["backbone=resnet8"], 2, "set backbone=pixels/16, or"),
    "pixels of another side": (["backbone=pixels/8"], 2, "set backbone=pixels/16"),
    "pixels for a pretext run": (["method_kwargs.features=pretext"], 2, "set backbone, stem and width to those"),
    "pixels for a pretrained network": (["method_kwargs.features=pretrained"], 2, "such as efficientnet_lite0"),
    "a word": (["method_kwargs.features=pixel"], 2, "it is pixels, pretext, pretrained, or a .npy or"),
    "a file without a length": (["method_kwargs.features=x.npy"], 2, "set backbone=given/D"),
    "a file that is missing": (["method_kwargs.features=x.npy", "backbone=given/3"], 1, "x.npy"),
    "whitening of nothing": (["method_kwargs={whiten: true}"], 2, "say how many: method_kwargs.num_dims=20"),
    "more clusters than images": (["num_classes=201"], 1, "cannot make 201 clusters of 200 images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case, tmp_path, capsys):
    more, code, told = REFUSED[case]
    assert run(tmp_path, *more) == code
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_file_of_other_features_is_refused(tmp_path, capsys):
    others = {(199, 8, "f4"): "of 199 images", (200, 8, "i8"): "holds int64", (200, 7, "f4"): "7 numbers an image"}
    for (rows, dim, kind), told in others.items():
        np.save(tmp_path / "x.npy", np.zeros((rows, dim), kind))
        assert run(tmp_path, "backbone=given/8", f"method_kwargs.features={tmp_path / 'x.npy'}") == 1
        assert told in capsys.readouterr().err


def test_a_picture_of_the_users_stops_it(tmp_path, capsys):
    (tmp_path / "digits/kmeans").mkdir(parents=True)
    (tmp_path / "digits/kmeans/explained_variance.png").write_bytes(b"mine")
    assert run(tmp_path) == 1
    assert "was not written by this program" in capsys.readouterr().err
    assert (tmp_path / "digits/kmeans/explained_variance.png").read_bytes() == b"mine"


@pytest.mark.parametrize("number", ["0", "-1", "x", "99999999"])
def test_a_side_or_length_that_cannot_be_is_refused(number):
    for kind, told in (("given", "features' length"), ("pixels", "side of the views")):
        with pytest.raises(ConfigError, match=told):
            build_backbone(f"{kind}/{number}")
