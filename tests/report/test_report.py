"""The report: its numbers are the data's, hostile text stays text, and no shape of data breaks or bloats it."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from data import DATASETS
from report import build, charts, edits, projection, summary, thumbnails
from report.build import write_report
from report.collect import Thumbnails
from report.contents import ReportData
from system.errors import UserError

HOSTILE = "<img src=x onerror=alert(1)>\"'.png"


class Page(HTMLParser):
    """The elements of a page, the text of each element that has an id, and the data blocks."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "link", "input"):
            self._open.append((tag, attributes.get("id")))
        self.texts.setdefault(attributes.get("id"), "")

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, name in self._open:
            if name:
                self.texts[name] += data

    def json(self, name):
        return json.loads(self.texts[name])

    def having(self, **wanted):
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in wanted.items()}
        return [a for _, a in self.elements if all(a.get(key) == value for key, value in wanted.items())]


def words(text):
    return " ".join(text.split())


def make_data(num_images=40, num_clusters=4, side=8, seed=0, **changes):
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(num_images, num_clusters))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    images = generator.integers(0, 256, (num_images, side, side, 3), dtype=np.uint8)
    defaults = {
        "title": "A title",
        "paths": [f"pictures/{i:05d}.png" for i in range(num_images)],
        "thumbnail": lambda i: images[i],
        "probabilities": probabilities.astype(np.float32),
        "features": generator.normal(size=(num_images, 6)).astype(np.float32),
    }
    return ReportData(**(defaults | changes))


@pytest.fixture(autouse=True)
def quick_projection(monkeypatch):
    """Two features for a map: t-SNE has its own tests."""
    monkeypatch.setattr(projection, "project", lambda features, seed: features[:, :2].astype(np.float64))


def test_numbers_in_the_page_are_the_datas():
    data = make_data(60, 4)
    page = Page(build.render(data))
    assigned, confidence = data.probabilities.argmax(1), data.probabilities.max(1)
    assert page.texts["num-images"] == "60"
    assert page.texts["mean-confidence"] == f"{100 * confidence.astype(float).mean():.1f} %"
    for cluster in range(4):
        members = [i for i in range(60) if assigned[i] == cluster]
        mean = sum(float(confidence[i]) for i in members) / len(members)
        card = words(page.texts[f"cluster-{cluster}"])
        assert f"{len(members)} images ({100 * len(members) / 60:.1f} %), mean confidence {100 * mean:.1f} %" in card
    facts = page.json("facts")
    assert facts["paths"] == data.paths
    assert facts["clusters"] == assigned.tolist()
    assert np.allclose(np.array(facts["confidence"]) / 1e4, confidence, atol=5.1e-5)
    assert facts["map"] == list(range(60))
    sizes = page.json("figures")["sizes"]["data"][0]["y"]
    assert sizes == [int((assigned == cluster).sum()) for cluster in range(4)]


def test_sheets_hold_the_most_and_the_least_confident():
    confidence = np.linspace(0.5, 0.99, 50)
    clusters = np.array([0] * 45 + [1] * 5)
    found = summary.summarize_clusters(clusters, confidence, np.eye(2), {0: 44, 1: 49}, seed=0)
    sheets = dict(found[0].sheets)
    assert sheets["Most confident"] == list(range(44, 32, -1))
    assert sheets["Least confident"] == list(range(12))
    assert len(set(sheets["Random"])) == 12
    assert set(sheets["Random"]) <= set(range(45))
    assert found[1].sheets == [("All members, most confident first", [49, 48, 47, 46, 45])]
    assert found[0].images()[0] == 44


def test_nearest_clusters_by_the_cosine_of_mean_directions():
    features = np.array([[1, 0], [2, 0], [1, 0.1], [0, 1], [0, 3.0]])
    clusters = np.array([0, 0, 1, 3, 3])
    found = summary.summarize_clusters(clusters, np.ones(5), summary.mean_directions(clusters, features, 4), {}, seed=0)
    near = 1 / np.hypot(1, 0.1)
    assert found[0].nearest == [(1, pytest.approx(near)), (3, pytest.approx(0))]
    assert found[3].nearest == [(1, pytest.approx(0.1 * near)), (0, pytest.approx(0))]
    assert found[2].nearest == [] and found[2].size == 0 and found[2].sheets == []


def test_labels_section_by_hand():
    clusters = np.array([0, 0, 0, 1, 1, 2, 2, 0])
    targets = np.array([1, 1, 0, 0, 0, 0, 1, -1])
    confidence = np.array([0.9, 0.8, 0.7, 0.9, 0.6, 0.95, 0.5, 0.99])
    labels = summary.summarize_labels(clusters, confidence, targets, ["cat", "dog"], 3)
    assert labels.names() == {0: "dog", 1: "cat"}
    assert (labels.accuracy, labels.num_labeled) == (4 / 7, 7)
    assert labels.columns == [1, 0, 2]  # those of cat and dog, then the one of no class
    assert labels.table.tolist() == [[2, 1, 1], [0, 2, 1]]
    assert labels.per_class == [("cat", 4, 2 / 4), ("dog", 3, 2 / 3)]
    assert labels.pairs == [
        ("cat", "dog", 1, 1 / 4),
        ("cat", "cluster 2 (no class)", 1, 1 / 4),
        ("dog", "cluster 2 (no class)", 1, 1 / 3),
    ]
    assert labels.mistakes == [5, 2, 6]
    given = summary.summarize_labels(clusters, confidence, targets, ["cat", "dog"], 3, matching=[(2, 1), (1, 0)])
    assert given.accuracy == 3 / 7


def test_page_with_labels():
    targets = np.arange(60) % 3
    targets[:10] = -1
    data = make_data(60, 3, targets=targets, classes=["cat", "dog"], scores={"acc": 0.4321})
    html = build.render(data)
    page = Page(html)
    labels = summary.summarize_labels(
        data.probabilities.argmax(1), data.probabilities.max(1), targets, ["cat", "dog", "2"], 3
    )
    assert page.texts["accuracy"] == f"{100 * labels.accuracy:.1f} %"
    table = html[html.index('id="confusion-table"') : html.index('id="accuracy-table"')]
    assert [int(text) for text in re.findall(r"<td>(\d+)</td>", table)] == labels.table.ravel().tolist()
    assert [int(text) for text in re.findall(r'<th scope="col">(\d+)</th>', table)] == labels.columns
    assert "43.2 %" in page.texts["overview"]
    assert page.json("facts")["targets"] == targets.tolist()
    assert {"confusion", "accuracy"} <= set(page.json("figures"))
    assert all(f"{100 * share:.1f} %" in page.texts["pairs"] for _, _, _, share in labels.pairs)
    stacked = page.json("figures")["confidence"]["data"]
    assert [trace["name"] for trace in stacked] == ["right", "wrong", "no label"]


@pytest.mark.parametrize("targets", [None, np.full(40, -1)])
def test_without_labels_there_is_no_section_of_labels(targets):
    html = build.render(make_data(targets=targets, classes=["cat"]))
    page = Page(html)
    assert "labels" not in page.texts and page.having(href="#labels") == []
    assert page.json("facts")["targets"] is None
    assert set(page.json("figures")) == {"sizes", "confidence", "map"}


def test_hostile_text_is_escaped_everywhere():
    names = [HOSTILE, "</script><script>alert(2)</script>", "a & b <!--", "bytes \udcff.png", "back\\slash\u2028line"]
    data = make_data(
        30,
        2,
        title=HOSTILE,
        paths=[*names, *(f"{i}.png" for i in range(25))],
        targets=np.arange(30) % 2,
        classes=["<script>alert(3)</script>", "</script>"],
        facts={HOSTILE: {"<b>": "</td><script>alert(4)</script>"}},
        metrics={HOSTILE: [{"epoch": 1, "loss": 1.0}]},
    )
    html = build.render(data)
    page = Page(html)
    scripts = [a for tag, a in page.elements if tag == "script" and a.get("type") is None]
    assert len(scripts) == 1 + len(build.SCRIPTS)  # Plotly's and the page's own
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object")]
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert page.json("facts")["paths"][:5] == [*names[:3], "bytes \ufffd.png", names[4]]
    assert page.json("facts")["classes"] == data.classes
    assert [a for _, a in page.elements if a.get("aria-label", "").startswith(HOSTILE)]
    assert HOSTILE in page.texts["made"] and HOSTILE in page.texts["training"]
    assert "<" not in page.texts["facts"] and "<" not in page.texts["figures"]


def test_policy_lets_only_the_pages_own_scripts_run():
    html = build.render(make_data())
    policy = next(a["content"] for tag, a in Page(html).elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src" not in policy and "http" not in policy and "unsafe-eval" not in policy
    for text in re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    for tag, attributes in Page(html).elements:
        assert "src" not in attributes, tag
        assert re.match(r"#|data:,$", attributes.get("href") or "#"), tag


def test_same_data_and_seed_give_the_same_page(tmp_path):
    data = make_data(200, 3, targets=np.arange(200) % 3)  # so many that random ones of a cluster are shown
    write_report(tmp_path / "a.html", data, seed=1)
    write_report(tmp_path / "b.html", data, seed=1)
    write_report(tmp_path / "c.html", data, seed=2)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_bytes() != (tmp_path / "c.html").read_bytes()


@pytest.mark.parametrize(("num_images", "num_clusters"), [(1, 1), (2, 1), (2, 5), (40, 1), (300, 200)])
def test_any_number_of_images_and_clusters(num_images, num_clusters):
    data = make_data(num_images, num_clusters, targets=np.zeros(num_images, dtype=int))
    page = Page(build.render(data))
    filled = len(set(data.probabilities.argmax(1).tolist()))
    assert len(page.having(class_="card")) == filled
    assert page.texts.get("empty", "").count("Cluster ") == num_clusters - filled
    assert (" empty. By itself" in page.texts["overview"]) == (filled < num_clusters)
    assert len(page.having(aria_label="Prototype")) == filled


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        build.render(make_data(4, 2, paths=[]))
    with pytest.raises(ValueError, match=r"4 images needs .* not \(\(4, 2\), \(3, 6\)\)"):
        build.render(make_data(4, 2, features=np.zeros((3, 6))))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_report(tmp_path / "file" / "report.html", make_data(4, 2))


def test_links_are_relative_and_quoted(tmp_path):
    (tmp_path / "out").mkdir()
    write_report(tmp_path / "out" / "report.html", make_data(4, 2, image_root=tmp_path / "a b#c"))
    assert Page((tmp_path / "out" / "report.html").read_text()).json("facts")["links"] == "./../a%20b%23c/"


def test_thumbnails_come_back_out_of_the_page():
    pixels = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 12, dtype=np.uint8)
    page = Page(build.render(make_data(20, 2, thumbnail=lambda i: pixels[i].transpose(2, 0, 1))))
    seen = {}
    for number, sprite in enumerate(page.json("facts")["sprites"]):
        picture = Image.open(io.BytesIO(base64.b64decode(page.texts[f"sprite-{number}"]))).convert("RGB")
        cell = sprite["side"] + 2
        assert picture.size == (sprite["columns"] * cell, sprite["rows"] * cell)
        for position, image in enumerate(sprite["images"]):
            row, column = divmod(position, sprite["columns"])
            box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
            seen[image] = np.asarray(picture.crop(box))
    assert set(seen) == set(range(20))
    assert all((tile == 12 * image).all() for image, tile in seen.items())  # the gutter repeats the border


def test_thumbnails_of_any_shape_keep_their_aspect():
    pictures = {0: Image.new("RGB", (400, 100), "red"), 1: Image.new("RGB", (1, 5000), "red")}
    small, num_failed = thumbnails.read_pictures(pictures.__getitem__, [0, 1], 128)
    assert [small[0].size, small[1].size, num_failed] == [(128, 32), (1, 128), 0]
    (sprite,) = thumbnails.make_sprites(small, [[0]], 128, 10**6)
    alpha = np.asarray(Image.open(io.BytesIO(sprite.data)))[1:-1, 1:-1, 3]
    assert (alpha[48:80] == 255).all() and (alpha[:48] == 0).all() and (alpha[80:] == 0).all()
    modes = [Image.new(mode, (4, 4)) for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16")]
    assert {thumbnails.to_picture(image).mode for image in modes} == {"RGB"}
    assert thumbnails.to_picture(np.zeros((5, 7), dtype=np.uint8)).size == (7, 5)
    assert thumbnails.to_picture(np.zeros((1, 5, 7), dtype=np.uint8)).size == (7, 5)


def test_images_that_are_gone_leave_a_word():
    def read(index):
        if index % 2:
            raise UserError(f"the image {index} is gone")
        return np.zeros((8, 8, 3), dtype=np.uint8)

    page = Page(build.render(make_data(20, 2, thumbnail=read)))
    assert "10 images could not be read" in page.texts["overview"]
    assert {i for sprite in page.json("facts")["sprites"] for i in sprite["images"]} == set(range(0, 20, 2))


def test_a_streamed_image_that_is_gone_leaves_the_others(tmp_path):
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    dataset = DATASETS["folder"](tmp_path, "val", 8, stream=True)
    (tmp_path / "b.png").unlink()
    pictures, num_failed = thumbnails.read_pictures(Thumbnails(dataset), range(3), 64)
    assert sorted(pictures) == [0, 2] and num_failed == 1


def test_sprites_stay_within_their_bound():
    generator = np.random.default_rng(0)
    noise = {i: Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for i in range(200)}
    for bound in (3_000_000, 300_000, 100_000):
        sprites = thumbnails.make_sprites(noise, thumbnails.split(list(noise)), 64, bound)
        assert sum(len(sprite.data) for sprite in sprites) <= bound


@pytest.mark.slow
def test_fifty_thousand_noisy_images_stay_under_the_bound():
    tiles = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    paths = [f"photos/{i % 40:02d} a folder with a long name/IMG_{i:06d}.jpg" for i in range(50_000)]
    near = (np.arange(50_000)[:, None] + np.arange(9)) % 50_000
    data = make_data(50_000, 100, paths=paths, side=1, neighbors=near, thumbnail=lambda i: tiles[i % 64])
    html = build.render(data)
    assert len(html.encode()) < 30_000_000
    facts = Page(html[: html.index('id="figures"')] + "></script>").json("facts")
    assert len(facts["paths"]) == 50_000 and len(facts["map"]) == projection.MAX_POINTS
    assert {i for sprite in facts["sprites"] for i in sprite["images"]} == set(range(50_000))


def test_ticks_are_at_whole_epochs_a_round_number_apart():
    for last, apart in [(1, 1), (8, 1), (9, 2), (20, 5), (500, 100)]:
        lines = [{"epoch": epoch, "loss": 1.0} for epoch in (0, last)]
        axis = charts.training_curves(lines)["losses"]["layout"]["xaxis"]
        assert (axis["tick0"], axis["dtick"]) == (0, apart)


def test_distances_are_one_minus_the_cosine_with_the_cluster_s_mean():
    features = np.array([[2.0, 0], [0, 3], [0, -1], [0, -5]])
    clusters = np.array([0, 0, 2, 2])
    found = summary.distances(clusters, features, summary.mean_directions(clusters, features, 3))
    assert np.allclose(found, [1 - 0.5**0.5, 1 - 0.5**0.5, 0, 0])


def test_exact_duplicates_have_equal_pixels_and_near_ones_only_their_cosine():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    pixels[4] = pixels[1]
    pixels[3] = pixels[1]
    pixels[5] = pixels[0]
    features = np.eye(6)[[0, 1, 2, 1, 1, 0]] + 0.01
    features[2] = features[0] + [0, 0.05, 0, 0, 0, 0]  # near the first, and another picture
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    neighbors = np.argsort(-cosines - 10 * np.eye(6), axis=1, kind="stable")[:, :4]
    facts = make_data(6, 2, features=features, neighbors=neighbors, thumbnail=lambda i: pixels[i])
    page = Page(build.render(facts))
    assert page.json("facts")["duplicates"] == [[0, 5], [1, 3, 4]]
    nearest = np.frombuffer(base64.b64decode(page.texts["neighbors"]), "<u2").reshape(6, 3)
    assert np.array_equal(nearest, neighbors[:, 1:])
    told = np.frombuffer(base64.b64decode(page.texts["cosines"]), "<u2").reshape(6, 3) / 65535
    assert np.allclose(told, np.take_along_axis(cosines, neighbors[:, 1:], axis=1).clip(0, 1), atol=1e-5)


def test_images_that_differ_only_at_their_full_size_or_cannot_be_read_there_are_no_duplicates(tmp_path):
    pixels = np.full((8, 8, 3), 200, dtype=np.uint8)
    for i in range(5):
        pixels[0, 0] = 100 if i == 1 else 200  # lost where the middle is cropped
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    shown = Thumbnails(DATASETS["folder"](tmp_path, "val", 4, resize=8))
    (tmp_path / "3.png").unlink()
    neighbors = np.array([[i, (i + 1) % 5] for i in range(5)])
    data = make_data(5, 2, features=np.ones((5, 3)), neighbors=neighbors, tile=lambda i: pixels, whole=shown.whole)
    assert Page(build.render(data)).json("facts")["duplicates"] == [[0, 2, 4]]


def test_the_page_has_a_small_picture_of_every_image_and_its_clustering_s_fingerprint():
    data = make_data(400, 3)
    facts = Page(build.render(data)).json("facts")
    assert {i for sprite in facts["sprites"] for i in sprite["images"]} == set(range(400))
    assert facts["fingerprint"] == edits.fingerprint(data.paths, data.probabilities.argmax(1).tolist())


def test_files_that_could_not_be_read_are_listed():
    page = Page(build.render(make_data(6, 2, unreadable=["<b>bad.png", "\udce9.png"])))
    assert "2 files could not be read" in page.texts["seen"] and "<b>bad.png" in page.texts["seen"]
    assert page.json("facts")["unreadable"] == ["<b>bad.png", "\ufffd.png"]
    assert "Every file could be read" in Page(build.render(make_data(6, 2, unreadable=[]))).texts["seen"]
    assert "could" not in Page(build.render(make_data(6, 2))).texts["seen"]  # nobody looked


def test_label_py_is_named_where_the_table_that_it_needs_is(tmp_path):
    write_report(tmp_path / "report.html", make_data(6, 2))
    assert "label.py" not in Page((tmp_path / "report.html").read_text()).texts["label"]
    (tmp_path / "clusters.csv").write_text("")
    write_report(tmp_path / "report.html", make_data(6, 2))
    assert "label.py" in Page((tmp_path / "report.html").read_text()).texts["label"]


def test_training_curves_are_grouped_and_keep_the_values():
    lines = [{"epoch": e, "loss": -1.5 - e, "lr": 0.1, "note": "x"} for e in (1, 2, 3)]
    lines[1]["loss"] = float("nan")
    lines[0]["knn_acc"], lines[2]["knn_acc"] = 0.25, 0.75  # monitored every other epoch
    figures = charts.training_curves(lines)
    curves = {group: {t["name"]: (t["x"], t["y"]) for t in figure["data"]} for group, figure in figures.items()}
    assert curves == {
        "losses": {"loss": ([1, 2, 3], [-2.5, None, -4.5])},
        "scores": {"k-NN accuracy (labels only score)": ([1, 3], [0.25, 0.75])},
        "learning rate": {"learning rate": ([1, 2, 3], [0.1] * 3)},
    }
    assert charts.training_curves([]) == {}
    lines = [{"epoch": 1, "loss": -110.0, "val_loss": -2.2, "entropy": 2.3, "head": 3}]
    lines[0] |= {"confident": 9, "confident_per_cluster": [4, 5], "skipped_batches": 0}
    figures = charts.training_curves(lines)
    assert {group: [t["name"] for t in figure["data"]] for group, figure in figures.items()} == {
        "losses": ["loss"],
        "consistency and entropy": ["entropy"],
        "validation loss": ["validation loss"],
        "confident images": ["confident images"],
        "confident images of each cluster": ["0", "1"],
        "skipped batches": ["skipped batches"],
    }
    assert [t["y"] for t in figures["confident images of each cluster"]["data"]] == [[4], [5]]
    many = [{"epoch": 1, "confident_per_cluster": [0] * 1000}]
    assert len(charts.training_curves(many)["confident images of each cluster"]["data"]) == charts.MAX_LINES
    page = Page(build.render(make_data(metrics={"scan": lines, "empty": []})))
    assert "loss may be negative" in page.texts["training"] and "empty" not in page.texts["training"]


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_colors_have_the_contrast_that_accessibility_asks_for(scheme):
    style = (build.FOLDER / "report.css").read_text()
    block = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[scheme]
    color = dict(re.findall(r"--(\w+): (#\w{6});", block))
    for background in (color["page"], color["raised"]):
        for name in ("text", "soft", "accent"):
            assert contrast(color[name], background) >= 4.5, name
        for mark in (*charts.cluster_colors(300), charts.RIGHT, charts.WRONG, charts.UNKNOWN):
            assert contrast(mark, background) >= 3, mark
    assert contrast(color["text"], color["heat"]) >= 4.5


def test_what_is_left_out_has_a_card_of_its_own_and_is_in_no_cluster():
    data = make_data(num_images=40, num_clusters=4)
    left = np.arange(40) < 3
    data.left_out = left
    page = Page(build.render(data))
    facts = page.json("facts")
    assert [cluster == -1 for cluster in facts["clusters"]] == left.tolist()
    assert facts["confidence"][:3] == [0, 0, 0] and len(facts["names"]) == 4
    kept = data.probabilities[3:]
    assert page.json("figures")["sizes"]["data"][0]["y"] == np.bincount(kept.argmax(1), minlength=4).tolist()
    assert "3 images are far from all clusters" in words(page.texts["left-out"])
    assert words(page.texts["name--1"]).startswith("Other")
    assert words(page.texts["mean-confidence"]) == f"{100 * kept.max(1).mean():.1f} %"
    tiles = [int(a["data-image"]) for a in page.having(class_="tile") if "aria-label" in a]
    assert {0, 1, 2} <= set(tiles)
    assert facts["fingerprint"] == edits.fingerprint(data.paths, facts["clusters"])
    means = [data.features[3:][kept.argmax(1) == cluster] for cluster in range(4)]
    unit = summary.unit_rows(np.stack([summary.unit_rows(own).mean(0) for own in means]))
    nearest = 1 - (summary.unit_rows(data.features[:3]) @ unit.T).max(1)
    assert np.allclose(facts["distance"][:3], 10_000 * nearest, atol=1)


def test_a_tree_of_clusters_is_lists_that_fold():
    page = Page(build.render(make_data(num_images=60, num_clusters=6)))
    assert "Tree of similar clusters" in page.texts["tree"]
    assert all(f"Cluster {cluster}" in page.texts["tree"] for cluster in range(6))
    assert "tree" not in Page(build.render(make_data(num_images=10, num_clusters=3))).texts


def test_numbers_that_no_chart_is_made_for_are_in_one_of_their_own():
    lines = [{"epoch": epoch, "lr": 0.1, "head": 0, "turn_acc": epoch / 4, "over_loss": -epoch} for epoch in (1, 2)]
    drawn = charts.training_curves(lines)
    assert list(drawn) == ["learning rate", "other numbers"]
    assert [trace["name"] for trace in drawn["other numbers"]["data"]] == ["turn_acc", "over_loss"]
    assert list(drawn["other numbers"]["data"][0]["y"]) == [0.25, 0.5]
