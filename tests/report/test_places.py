import pytest

from report.places import Places


@pytest.mark.parametrize(
    ("model", "split", "out", "path"),
    [
        ("model.pth.tar", "val", None, "confusion_matrix.png"),
        ("model-best.pth.tar", "val", None, "confusion_matrix-model-best.png"),
        ("scan_cifar-10.pth.tar", "val", None, "confusion_matrix-scan_cifar-10.png"),
        ("model.pth.tar", "train", None, "confusion_matrix-train.png"),
        ("best.pt", "train", "out", "out/confusion_matrix-best-train.png"),
    ],
)
def test_pictures_of_other_models_and_splits_have_names_of_their_own(tmp_path, model, split, out, path):
    places = Places(tmp_path / model, split, out and tmp_path / out)
    assert places("confusion_matrix.png") == tmp_path / path
