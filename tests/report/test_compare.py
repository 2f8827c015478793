import re

import numpy as np

from report.compare import MOST_SHOWN, Clustering, render
from system.errors import UserError

HOSTILE = "<img src=x onerror=alert(1)>.png"


def thumbnail(path):
    if path == "gone.png":
        raise UserError("it is gone")
    return np.full((90, 60, 3), 200, np.uint8)


def clusterings():
    few = {0: (5, HOSTILE), 2: (1, "gone.png")}
    many = {cluster: (cluster + 1, f"{cluster}.png") for cluster in range(MOST_SHOWN + 10)}
    scores = {"name": "vote", "neighbors": 0.5, "evenness": 0.25, "used": 2}
    return [
        Clustering(3, "k03/report.html", few, "vote", "do not", scores, 0.75),
        Clustering(MOST_SHOWN + 10, "k70/report.html", many),
    ]


def test_the_page_says_what_each_number_came_to():
    page = render("6 images of <b>", clusterings(), thumbnail)
    text = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))
    assert "3 2 vote 0.500 0.250 75.0 % open" in text
    assert "How far to trust it: do not." in text and "2 in use" in text
    assert "cluster 0 5 images cluster 2 1 image " in text
    assert f"The {MOST_SHOWN} largest of {MOST_SHOWN + 10} clusters" in text
    assert page.index("cluster 69<br>") < page.index("cluster 68<br>")


def test_no_name_is_markup_and_what_is_gone_has_no_picture():
    page = render("6 images of <b>", clusterings(), thumbnail)
    assert "<img src=x" not in page and "<b>" not in page
    assert page.count('src="data:image/webp;base64,') == 1 + MOST_SHOWN and page.count('class="none"') == 1
    assert "default-src 'none'" in page and "<script" not in page


def test_numbers_that_were_only_tried_have_no_report_and_a_way_to_the_next():
    scores = {"agreement": 0.5, "silhouette": 0.25, "generalisation": 0.9}
    tried = [Clustering(number, "", {0: (4, "a.png"), 1: (2, "b.png")}, scores=scores) for number in (2, 3, 5)]
    page = render("tried", tried, thumbnail, "not sure: between 2 and 5")
    text = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))
    assert "not sure: between 2 and 5" in text and "3 2 0.500 0.250 0.900" in text
    assert "report" not in text.lower() and "how far apart the groups are" in text
    many = Clustering(120, "", dict.fromkeys(range(MOST_SHOWN), (4, "a.png")), num_used=100)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render("tried", [many], thumbnail)))
    assert "100 in use" in text and "The 60 largest of 100 clusters. Each" in text
    assert page.count('href="#k3">← 3') == page.count('href="#k3">3 →') == 1
