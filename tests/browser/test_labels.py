"""From clusters to labels in Chromium: name, merge, move, undo, reload, export; then label.py and predict.py.

SCREENSHOTS=folder also leaves pictures, as for the other pages.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from report.build import write_report
from report.contents import ReportData
from report.edits import read_clusters
from report.round import BEGIN
from system.files import add_to_list
from system.text import csv_path
from tests.browser.test_report import one, open_page, screenshot, wait
from tests.stage import command
from tests.stages.test_label import make_clustering

pytestmark = pytest.mark.browser
EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A clustering of 60 images, cluster 0, 1 and 2 of 20 each, and its page."""
    base = make_clustering(tmp_path)
    clustering = read_clusters(base / "out" / "clusters.csv")
    generator = np.random.default_rng(0)
    features = np.eye(3)[clustering.clusters] + 0.1 * generator.normal(size=(60, 3))
    cosines = features @ features.T / np.outer(*2 * [np.linalg.norm(features, axis=1)])
    data = ReportData(
        title="Colors",
        paths=clustering.paths,
        thumbnail=lambda i: np.full((24, 24, 3), 4 * i, dtype=np.uint8),
        probabilities=(0.25 * np.eye(3)[clustering.clusters] + 0.25).astype(np.float32),
        features=features.astype(np.float32),
        neighbors=np.argsort(-cosines, axis=1)[:, :9],
        image_root=base / "images",
        unreadable=["=bad.png", "b,ad.png"],
    )
    write_report(base / "out" / "report.html", data)
    return base


@pytest.fixture
def page(browser: Chrome, base: Path) -> Path:
    browser.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(base)})
    open_page(browser, (base / "out" / "report.html").as_uri())
    browser.execute_script("localStorage.clear()")
    open_page(browser, (base / "out" / "report.html").as_uri())
    browser.execute_script("document.querySelector('#label').scrollIntoView()")
    return base


def name(browser: Chrome, group: int | str, text: str) -> None:
    Select(one(browser, "#group")).select_by_value(str(group))
    field = one(browser, "#group-name")
    field.clear()
    field.send_keys(text + Keys.TAB)


def cells(browser: Chrome) -> list:
    return sorted(browser.find_elements(By.CSS_SELECTOR, ".cell"), key=lambda c: int(c.get_attribute("data-position")))


def num_images(browser: Chrome) -> int:
    return int(browser.execute_script("return document.querySelector('.cell')?.getAttribute('aria-setsize') ?? 0"))


def select_first(browser: Chrome, num: int) -> None:
    first, last = cells(browser)[0], cells(browser)[num - 1]
    ActionChains(browser).click(first).key_down(Keys.SHIFT).click(last).key_up(Keys.SHIFT).perform()
    assert one(browser, "#num-selected").text == f"{num} selected"


def press(browser: Chrome, *ids: str) -> None:
    for button in ids:
        one(browser, f"#{button}").click()


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


def test_from_clusters_to_names_for_new_images(browser, page):
    name(browser, 0, "  red   one ")
    Select(one(browser, "#group")).select_by_value("2")
    Select(one(browser, "#merge-into")).select_by_value("1")
    press(browser, "merge")
    assert num_images(browser) == 40
    name(browser, 1, EVIL)
    select_first(browser, 30)
    press(browser, "new-group")
    assert num_images(browser) == 30
    name(browser, 3, "third")
    assert one(browser, "#named").text == "3 of 3 groups are named or set aside; 60 of 60 images have a label."
    screenshot(browser, "label-named")
    press(browser, "undo", "undo")
    Select(one(browser, "#group")).select_by_value("1")
    assert num_images(browser) == 40 and not [o for o in Select(one(browser, "#group")).options if "third" in o.text]
    press(browser, "redo", "redo")
    assert not one(browser, "#redo").is_enabled()

    open_page(browser, (page / "out" / "report.html").as_uri())
    assert one(browser, "#named").text.startswith("3 of 3 groups")
    assert browser.execute_script("return document.querySelectorAll('img, #label b b').length") == 0
    press(browser, "export-edits", "export-labels")
    wait(browser, lambda: (page / "edits.json").exists() and (page / "labels.csv").exists())
    told = rows(page / "labels.csv")
    assert sorted(row["label"] for row in told) == sorted(["red one"] * 20 + [EVIL] * 10 + ["third"] * 30)
    assert sum(row["by_hand"] == "true" for row in told) == 30

    assert command("label", page / "out", page / "edits.json", "--device", "cpu") == 0
    for row, other in zip(rows(page / "out" / "labels.csv"), told, strict=True):
        assert {**row, "confidence": ""} == {**other, "confidence": ""}
        assert float(row["confidence"]) == float(other["confidence"])
    out = page / "new.csv"
    assert command("predict", "--model", page / "out", page / "new", "--output", out) == 0
    assert {row["label"] for row in rows(out) if "/new/0/" in row["path"]} == {"red one"}
    assert {row["label"] for row in rows(out) if "/new/0/" not in row["path"]} <= {EVIL, "third"}


def test_edits_come_in_again_and_others_do_not(browser, page):
    name(browser, 0, "cat")
    press(browser, "reject")
    name(browser, 1, "dog")
    press(browser, "export-edits")
    wait(browser, lambda: (page / "edits.json").exists())
    edits = json.loads((page / "edits.json").read_text())
    assert (edits["names"], edits["rejected"]) == ({"0": "cat", "1": "dog"}, [0])
    press(browser, "undo", "undo", "undo")
    assert not one(browser, "#undo").is_enabled()
    for changes, said in [
        ({"fingerprint": "0"}, "the edits of another clustering"),
        ({"merged": {"0": 1, "1": 0}}, "damaged"),
        ({"moved": {"60": 0}}, "damaged"),
        ({"moved": {"1": 900_000_000}}, "damaged"),
        ({"names": {"900000000": "x"}}, "damaged"),
        ({"format": "x"}, "not an edits.json file"),
        ({"rejected": [0, 5]}, "Imported"),
    ]:
        path = page / "given.json"
        path.write_text(json.dumps(edits | changes))
        one(browser, "#import-edits").send_keys(str(path))
        wait(browser, lambda said=said: said in one(browser, "#import-note").text)
    assert one(browser, "#named").text == "2 of 3 groups are named or set aside; 20 of 60 images have a label."
    cells(browser)[0].click()
    press(browser, "new-group")  # which is none of those that are set aside
    assert Select(one(browser, "#group")).first_selected_option.get_attribute("value") == "6"
    press(browser, "undo", "undo")
    assert one(browser, "#named").text.startswith("0 of 3")
    damage = (
        """for (const key of Object.keys(localStorage)) localStorage.setItem(key, '{"steps": [["x"]], "done": 1}')"""
    )
    browser.execute_script(damage)
    open_page(browser, (page / "out" / "report.html").as_uri())
    assert one(browser, "#named").text.startswith("0 of 3")
    name(browser, 1, "dog")
    assert one(browser, "#named").text.startswith("1 of 3")


def test_two_tabs_keep_the_edits_of_both(browser, page):
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    open_page(browser, (page / "out" / "report.html").as_uri())
    name(browser, 0, "cat")
    browser.switch_to.window(first)
    wait(browser, lambda: one(browser, "#named").text.startswith("1 of 3"))
    name(browser, 1, "dog")
    browser.switch_to.window(browser.window_handles[-1])
    press(browser, "undo")
    assert one(browser, "#named").text.startswith("1 of 3")
    browser.close()
    browser.switch_to.window(first)
    name(browser, 2, "cow")
    open_page(browser, (page / "out" / "report.html").as_uri())
    assert one(browser, "#named").text.startswith("2 of 3")


def test_edits_that_cannot_be_stored_stay_in_the_page(browser, page):
    name(browser, 0, "cat")
    browser.execute_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
    name(browser, 1, "dog")
    name(browser, 2, "cow")
    assert one(browser, "#named").text.startswith("3 of 3")
    press(browser, "undo")
    assert one(browser, "#named").text.startswith("2 of 3")


def test_two_tabs_that_merge_crosswise(browser, page):
    stored = {"steps": [["merge", 0, 1], ["merge", 1, 0], ["merge", 2, 2]], "done": 3, "begun": ""}
    name(browser, 0, "cat")
    fill = "for (const key of Object.keys(localStorage)) localStorage.setItem(key, JSON.stringify(arguments[0]))"
    browser.execute_script(fill, stored)
    open_page(browser, (page / "out" / "report.html").as_uri())
    assert one(browser, "#named").text.startswith("0 of 2")


def test_a_card_leads_to_its_group_and_leaves_the_filter(browser, page):
    browser.execute_script("document.querySelector('.label-it[data-cluster=\"2\"]').click()")
    assert Select(one(browser, "#group")).first_selected_option.get_attribute("value") == "2"
    assert browser.execute_script("return document.querySelector('#filter').elements.cluster.value") == ""
    top = "return Math.abs(document.querySelector('#label').getBoundingClientRect().top)"
    wait(browser, lambda: browser.execute_script(top) < 50)


def test_what_was_moved_from_a_list_is_not_moved_again(browser, page):
    browser.execute_script("document.querySelector('[data-list=near][data-act=show]').click()")
    chosen = Select(one(browser, "#group")).first_selected_option
    assert chosen.text == "– Near duplicates –"
    assert not any(one(browser, f"#{part}").is_enabled() for part in ("group-name", "merge-into", "merge", "reject"))
    first, second = (cell.get_attribute("title").partition(":")[0] for cell in cells(browser)[:2])
    for position, group in enumerate(("1", "2")):
        cells(browser)[position].click()
        Select(one(browser, "#move-to")).select_by_value(group)
        press(browser, "move")
        assert one(browser, "#num-selected").text == "0 selected"
        assert browser.switch_to.active_element == one(browser, "#sheet")
    said = {path: said for path, _, said in (cell.get_attribute("title").partition(": ") for cell in cells(browser))}
    assert (said[first], said[second]) == ("Cluster 1", "Cluster 2")
    Select(one(browser, "#group")).select_by_value("1")
    assert one(browser, "#group-name").is_enabled() and one(browser, "#shown-from").text == ""
    press(browser, "similar", "next-group")  # back to where one was
    assert Select(one(browser, "#group")).first_selected_option.get_attribute("value") == "1"
    press(browser, "next-group")
    assert Select(one(browser, "#group")).first_selected_option.get_attribute("value") == "2"


def test_merging_waits_for_its_button_and_keeps_a_name(browser, page):
    name(browser, 1, "cat")
    into = one(browser, "#merge-into")
    into.send_keys(Keys.ARROW_DOWN)
    assert len(Select(one(browser, "#group")).options) == 3
    Select(into).select_by_value("2")
    press(browser, "merge")
    assert num_images(browser) == 40 and one(browser, "#group-name").get_attribute("value") == "cat"
    into.send_keys(Keys.CONTROL + "z")  # one step back, from wherever it is pressed but a field of text
    assert len(Select(one(browser, "#group")).options) == 3
    assert one(browser, "#named").text == "1 of 3 groups are named or set aside; 20 of 60 images have a label."


def test_a_name_that_is_typed_is_kept_when_the_page_is_left(browser, page):
    one(browser, "#group-name").send_keys("cat")
    open_page(browser, (page / "out" / "report.html").as_uri())
    assert one(browser, "#named").text.startswith("1 of 3")


def test_the_sheet_by_keyboard(browser, page):
    Select(one(browser, "#group")).select_by_value("1")
    sheet = one(browser, "#sheet")
    sheet.send_keys(" ")
    sheet.send_keys(Keys.ARROW_RIGHT, Keys.SHIFT + Keys.ARROW_RIGHT + Keys.ARROW_RIGHT)
    assert one(browser, "#num-selected").text == "4 selected"
    assert one(browser, f"#{sheet.get_attribute('aria-activedescendant')}").get_attribute("aria-posinset") == "4"
    press(browser, "take-out")
    assert num_images(browser) == 16
    Select(one(browser, "#group")).select_by_value("-1")
    assert num_images(browser) == 4 and not one(browser, "#group-name").is_enabled()
    sheet.send_keys(Keys.CONTROL + "z")
    Select(one(browser, "#group")).select_by_value("1")
    assert num_images(browser) == 20
    sheet.send_keys(Keys.CONTROL + "a")
    assert one(browser, "#num-selected").text == "20 selected"
    sheet.send_keys(Keys.ESCAPE)
    assert one(browser, "#num-selected").text == "0 selected"
    sheet.send_keys(Keys.HOME + Keys.ENTER)
    assert one(browser, "#viewer").is_displayed()


def test_similar_images_and_clusters_of_one_name(browser, page):
    press(browser, "similar")
    assert num_images(browser) == 9 and one(browser, "#shown-from").text.startswith("Similar to ")
    offered = [option.get_attribute("value") for option in Select(one(browser, "#move-to")).options]
    assert offered == ["", "0", "1", "2"]  # they may belong in the group that was open, too
    name(browser, 0, "cat")
    name(browser, 2, "cat")
    assert one(browser, "#shared").text == "Several groups are called cat: they are one class."


def test_the_card_of_a_cluster_whose_images_were_all_moved_away_opens_no_other(browser, page):
    Select(one(browser, "#group")).select_by_value("1")
    press(browser, "select-all", "take-out")
    usable = "return [...document.querySelectorAll('.label-it')].map((one) => [one.dataset.cluster, one.disabled])"
    assert dict(browser.execute_script(usable)) == {"0": False, "1": True, "2": False}
    press(browser, "undo")
    assert not any(dict(browser.execute_script(usable)).values())


def test_the_file_is_opened_where_it_lies_beside_the_page(browser, page):
    cell = cells(browser)[3]
    path = cell.get_attribute("title")
    ActionChains(browser).double_click(cell).perform()
    note = one(browser, "#viewer-note")
    wait(browser, lambda: note.text == "24 × 24 pixels")
    link = one(browser, "#viewer-link a").get_attribute("href")
    assert link == (page / "images" / path).as_uri()
    one(browser, "[data-step='0']").click()
    (page / "images").rename(page / "elsewhere")
    ActionChains(browser).double_click(cells(browser)[4]).perform()
    wait(browser, lambda: "is not where this page expects it" in note.text)
    assert not one(browser, "#viewer-link").is_displayed()


def test_the_map_is_colored_by_names_and_framed_images_go_to_the_sheet(browser, page):
    name(browser, 0, EVIL)
    browser.execute_script("document.querySelector('#map').scrollIntoView({block: 'center'})")
    wait(browser, lambda: browser.execute_script("return document.querySelector('#map .points path') !== null"))
    colors = "return document.querySelector('#map .chart').data[0].marker.color"
    wait(browser, lambda: len(set(browser.execute_script(colors))) == 3)
    legend = "return [...document.querySelectorAll('#legend li')].map((one) => one.textContent)"
    assert browser.execute_script(legend) == ["Cluster 0 (20)", "Cluster 1 (20)", "Cluster 2 (20)"]
    Select(one(browser, "#color-by")).select_by_value("name")
    wait(browser, lambda: browser.execute_script(legend) == [f"{EVIL} (20)", "none (40)"])
    clusters = read_clusters(page / "out" / "clusters.csv").clusters
    found = browser.execute_script(colors)
    assert {color for color, cluster in zip(found, clusters, strict=True) if cluster} == {"#7b828c"}
    assert found.count("#7b828c") == 40
    press(browser, "frame")
    chart = one(browser, "#map .nsewdrag")
    width, height = (chart.size[key] // 2 - 3 for key in ("width", "height"))
    mode = "return document.querySelector('#map .chart').layout.dragmode"
    wait(browser, lambda: browser.execute_script(mode) == "select")
    actions = ActionChains(browser).move_to_element_with_offset(chart, -width, -height).click_and_hold()
    actions.move_by_offset(width, height).move_by_offset(width, height).release().perform()
    wait(browser, lambda: num_images(browser) == 60)
    assert one(browser, "#shown-from").text == "Selected on the map"
    assert one(browser, "#frame").get_attribute("aria-pressed") == "false"


def test_duplicates_and_outliers_open_in_the_sheet_and_are_exported(browser, page):
    def in_groups() -> int:
        return int(one(browser, "#near-count").text.split()[0])

    move = "const range = document.querySelector('#near-threshold'); range.value = arguments[0];"
    for threshold, enough in [(100, lambda: in_groups() < 60), (80, lambda: in_groups() == 60)]:
        browser.execute_script(move + "range.dispatchEvent(new Event('input'))", threshold)
        wait(browser, enough)
    assert one(browser, "#near-value").text == "0.800"
    one(browser, "[data-list=near][data-act=show]").click()
    assert num_images(browser) == 60
    one(browser, "[data-list=near][data-act=export]").click()
    wait(browser, lambda: (page / "near.csv").exists())
    told = rows(page / "near.csv")
    paths = read_clusters(page / "out" / "clusters.csv").paths
    assert sorted(row["path"].removeprefix("./") for row in told) == sorted(paths)
    groups = {row["path"].removeprefix("./"): row["group"] for row in told}
    shown = {cell.get_attribute("title").partition(":")[0]: cell.get_attribute("class") for cell in cells(browser)}
    framed = {path: "framed" in words for path, words in shown.items()}
    assert framed == {path: int(group) % 2 == 1 for path, group in groups.items() if path in framed}
    assert set(framed.values()) == {False, True}
    clusters = dict(zip(paths, read_clusters(page / "out" / "clusters.csv").clusters, strict=True))
    assert len({(group, clusters[path]) for path, group in groups.items()}) == 3
    assert not one(browser, "[data-list=exact][data-act=show]").is_enabled()
    browser.execute_script("document.querySelector('#export-unreadable').click()")
    wait(browser, lambda: (page / "unreadable.csv").exists())
    assert [row["path"] for row in rows(page / "unreadable.csv")] == ["./=bad.png", "b,ad.png"]
    one(browser, "[data-list=outliers][data-act=show]").click()
    assert one(browser, "#shown-from").text == "Outliers"


def test_another_round_begins_with_what_the_classifier_doubts(browser, page):
    clustering = read_clusters(page / "out" / "clusters.csv")
    labels = ["cat" if i in (4, 7) else "" if i in (0, 9) else ("cat", "dog", "")[i % 3] for i in range(60)]
    lines = [f"{csv_path(path)},{name},false" for path, name in zip(clustering.paths, labels, strict=True)]
    (page / "given.csv").write_text("\n".join(["path,label,by_hand", *lines, ""]))
    report = page / "out" / "report.html"
    add_to_list(page / "out", ["report.html"])
    assert command("label", page / "out", page / "given.csv", "--device", "cpu") == 0
    text = report.read_text()
    found = json.loads(text[text.index(BEGIN) + len(BEGIN) :].partition("</script>")[0])
    likely = [found["classes"][number] for number in found["likely"]]
    assert found["edits"]["moved"] == {"0": 3, "4": 0, "7": 0, "9": 3}
    moved = {4, 7}  # the page takes what is in another group of a name for moved by hand; 0 and 9 wait for a name

    open_page(browser, report.as_uri())
    assert one(browser, "#named").text == "2 of 4 groups are named or set aside; 38 of 60 images have a label."
    assert one(browser, "#shown-from").text == "Doubtful ones first" and num_images(browser) == 60
    order = sorted(range(60), key=lambda i: (i in moved, found["sure"][i], i))
    own = [labels[i] or "no name" for i in order]
    expected = [a if a == likely[i] else f"{a} → {likely[i]}?" for a, i in zip(own, order, strict=True)]
    assert [cell.get_attribute("data-said") for cell in cells(browser)] == expected
    num = sum("→" in text for text in expected)
    assert f"another name for {num} images" in one(browser, "#round-count").text
    assert not one(browser, "#take-likely").is_enabled()
    screenshot(browser, "label-round")
    select_first(browser, 4)
    press(browser, "take-likely")
    left = num - sum("→" in text for text in expected[:4])
    assert f"another name for {left} images" in one(browser, "#round-count").text
    press(browser, "export-edits")
    wait(browser, lambda: (page / "edits.json").exists())
    name(browser, 2, "bird")  # after the export
    assert command("label", page / "out", page / "edits.json", "--device", "cpu") == 0
    told = rows(page / "out" / "labels.csv")
    assert [row["label"] for row in told] == [likely[i] if i in order[:4] else labels[i] for i in range(60)]
    by_hand = {i for i, row in enumerate(told) if row["by_hand"] == "true"}
    assert by_hand == moved | set(order[:4])

    open_page(browser, report.as_uri())
    other_names = int(one(browser, "#round-count").text.split("another name for ")[1].split()[0])
    name(browser, Select(one(browser, "#group")).options[1].get_attribute("value"), "kitten")
    assert f"another name for {other_names} image" in one(browser, "#round-count").text  # a name that is spelled anew
    press(browser, "undo", "undo")  # the field was emptied first

    # Edits accumulate: the page goes on from what it was given, and from what was done in it since.
    waiting = len({0, 9} - set(order[:4])) > 0
    for _ in range(2):
        open_page(browser, report.as_uri())
        assert one(browser, "#named").text.startswith(f"3 of {3 + waiting} groups")
        assert not one(browser, "#had-others").is_displayed()
    given = (page / "given.csv").read_text().replace("cat", "lion")
    (page / "given.csv").write_text(given)
    assert command("label", page / "out", page / "given.csv", "--device", "cpu") == 0
    open_page(browser, report.as_uri())  # what came from elsewhere is shown, and Undo brings back what was here
    assert one(browser, "#named").text.startswith("2 of 4 groups")
    assert "Undo brings back yours" in one(browser, "#had-others").text
    press(browser, "undo")
    assert one(browser, "#named").text.startswith(f"3 of {3 + waiting} groups")
    assert not one(browser, "#had-others").is_displayed()
