"""Pictures: what is handed to matplotlib, and files that open with the size they should have."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from report import plots
from system.files import write_file

TABLE = np.array([[1, 8, 0], [6, 0, 0], [3, 2, 0], [0, 0, 0]])  # clusters x classes
MATCHING = [(0, 1), (1, 0), (2, 2)]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: the arrays given to imshow, and the texts."""
    seen = {"images": [], "texts": []}
    imshow, text = Axes.imshow, Axes.text

    def spy_imshow(self, image, **kwargs):
        seen["images"].append(np.array(image))
        return imshow(self, image, **kwargs)

    def spy_text(self, x, y, s, **kwargs):
        seen["texts"].append(s)
        return text(self, x, y, s, **kwargs)

    monkeypatch.setattr(Axes, "imshow", spy_imshow)
    monkeypatch.setattr(Axes, "text", spy_text)
    return seen


def size(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def test_rows_of_the_confusion_matrix_are_classes_and_sum_to_one():
    shares, order = plots.arrange_confusion(TABLE, MATCHING)
    assert order.tolist() == [1, 0, 2, 3]  # matched to class 0, 1, 2, then the unmatched one
    assert shares.tolist() == [[0.6, 0.1, 0.3, 0.0], [0.0, 0.8, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_more_classes_than_clusters():
    shares, order = plots.arrange_confusion(np.array([[0, 4, 0], [2, 0, 2]]), [(0, 1), (1, 2)])
    assert order.tolist() == [0, 1]
    assert shares.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_few_classes_have_numbers(tmp_path, drawn):
    plots.confusion_matrix(tmp_path / "c.png", TABLE, ["ape", "bee", "cat"], MATCHING)
    np.testing.assert_array_equal(drawn["images"][0], plots.arrange_confusion(TABLE, MATCHING)[0])
    assert sorted(drawn["texts"]) == ["0.10", "0.20", "0.30", "0.60", "0.80"]
    width, height = size(tmp_path / "c.png")
    assert 300 < height < width < 1000


def test_many_classes_have_none(tmp_path, drawn):
    matching = [(i, i) for i in range(300)]
    plots.confusion_matrix(tmp_path / "c.png", np.eye(300), [str(i) for i in range(300)], matching)
    assert drawn["texts"] == []
    np.testing.assert_array_equal(drawn["images"][0], np.eye(300))
    assert max(size(tmp_path / "c.png")) < 1500


def test_neighbors_stand_beside_their_image(tmp_path, drawn):
    images = torch.randint(0, 256, (3, 5, 3, 8, 8), dtype=torch.uint8)
    plots.image_sheet(tmp_path / "n.png", images)
    expected = images.flatten(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(np.stack(drawn["images"]), expected)
    assert drawn["texts"][:6] == ["image", "neighbor 1", "neighbor 2", "neighbor 3", "neighbor 4", ""]
    width, height = size(tmp_path / "n.png")
    assert width / height == pytest.approx(5 / 3, rel=0.15)


def test_prototypes_have_labels_that_fit(tmp_path, drawn):
    images = torch.zeros(12, 3, 6, 9, dtype=torch.uint8)
    plots.prototype_sheet(tmp_path / "p.png", images, ["cluster 0", *["cluster 1: automobile"] * 11])
    assert len(drawn["images"]) == 12 and drawn["images"][0].shape == (6, 9, 3)
    assert drawn["texts"][:2] == ["cluster 0", "cluster 1:\nautomobile"]
    width, height = size(tmp_path / "p.png")
    assert width > 2 * height  # ten columns, two rows
    plots.prototype_sheet(tmp_path / "one.png", images[:1], ["cluster 0"])
    assert size(tmp_path / "one.png")[0] < width


def test_purity_curve(tmp_path, monkeypatch):
    curves = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *xy, **kw: (curves.append(xy), plot(self, *xy, **kw))[1])
    plots.purity_curve(tmp_path / "p.png", {20: 0.5, 1: 0.9, 5: 0.7}, "validation images")
    assert curves == [([1, 5, 20], [0.9, 0.7, 0.5])]
    assert min(size(tmp_path / "p.png")) > 300


HOSTILE = ["$5_to_$10", r"$\frac{$", "\x1b[31m\n", "b\udcff", "日本", "x" * 5000, "_{^}", "\u202eabc", ""]


def drawings(names):
    """Every picture that shows words from outside."""
    count = len(names)
    pictures = np.zeros((count, 3, 8, 8), dtype=np.uint8)
    matching = [(i, i) for i in range(count)]
    return [
        lambda path: plots.confusion_matrix(path, np.eye(count, dtype=int), names, matching),
        lambda path: plots.prototype_sheet(path, pictures, names),
        lambda path: plots.image_sheet(path, pictures[None], names),
        lambda path: plots.purity_curve(path, {1: 0.5, 2: 0.4}, names[0]),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_no_text_is_markup(tmp_path, monkeypatch, kind):
    def parse(*_, **__):
        raise AssertionError("a name was read as markup")

    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", parse)
    monkeypatch.setattr("matplotlib.rcParams", matplotlib.rcParams.copy())
    assert drawings(HOSTILE)[kind](tmp_path / "p.png") is True
    width, height = size(tmp_path / "p.png")
    assert max(width, height) < 4000  # names are cut
    assert matplotlib.rcParams["text.parse_math"]  # other pictures of this process are as before


@pytest.mark.parametrize("failing", ["savefig", "add_subplot"])
def test_a_picture_that_fails_is_a_warning(tmp_path, monkeypatch, capsys, failing):
    def fail(*_, **__):
        raise ValueError("no such\nfont")

    write_file(tmp_path / "p.png", lambda file: file.write(b"before"), record=False, listed=True)  # an earlier one
    monkeypatch.setattr(Figure, failing, fail)
    assert plots.purity_curve(tmp_path / "p.png", {1: 0.5}) is False
    said = capsys.readouterr().err
    assert f"the picture {tmp_path}/p.png could not be drawn" in said and "no such\\nfont" in said
    assert (tmp_path / "p.png").read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "p.png"}


def test_the_variance_that_components_hold(tmp_path, monkeypatch):
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **kwargs: (drawn.append((*x, *y)), plot(self, x, y, **kwargs)))
    assert plots.explained_variance(tmp_path / "v.png", torch.tensor([0.5, 0.75, 0.875]))
    assert drawn == [(1, 2, 3, 0.5, 0.75, 0.875)]
    size(tmp_path / "v.png")


def test_curves_of_numbers_are_drawn_over_rising_numbers(tmp_path, monkeypatch):
    drawn, plot = {}, Axes.plot

    def note(self, x, y, **kwargs):
        drawn[kwargs["label"]] = list(zip(x, y, strict=True))
        return plot(self, x, y, **kwargs)

    monkeypatch.setattr(Axes, "plot", note)
    curves = {
        "num_clusters": [2, 3, 4, 6, 9],
        "silhouette": [0.1, 0.5, 0.4, 0.3, -0.1],
        "a $b": [0.9, 0.8, 0.7, 0.6, 0.5],
    }
    assert plots.number_curves(tmp_path / "number.png", curves, 3, 3, 4)
    assert min(size(tmp_path / "number.png")) > 300
    assert list(drawn.values()) == [
        [(2, 0.1), (3, 0.5), (4, 0.4), (6, 0.3), (9, -0.1)],
        [(2, 0.9), (3, 0.8), (4, 0.7), (6, 0.6), (9, 0.5)],
    ]
