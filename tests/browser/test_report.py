"""The report opened in Chromium: no error, no outside request, and everything works by mouse and by keyboard.

python -m pytest tests.browser                          needs Debian's chromium and chromium-driver, and selenium
SCREENSHOTS=folder python -m pytest tests.browser       also leaves pictures of the page there
"""

import base64
import json
import os
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from sklearn.datasets import load_digits

from report import build
from report.build import write_report
from report.contents import ReportData

pytestmark = pytest.mark.browser
NUM_IMAGES = 600
HOSTILE = "digits/<img src=x onerror=alert(1)>\"'&amp;</script>.png"
CHARTS = "document.querySelectorAll('.chart')"


def digits_data() -> ReportData:
    digits = load_digits()
    images, targets = digits.images[:NUM_IMAGES], digits.target[:NUM_IMAGES]
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(NUM_IMAGES, 10)) + 4 * np.eye(10)[(targets + 3) % 10]
    lines = [{"epoch": e, "loss": -1.0 - e / 10, "lr": 0.1, "acc": e / 20} for e in range(10)]
    return ReportData(
        title="Digits <b>& more</b>",
        paths=[HOSTILE, *(f"digits/{i:04d}.png" for i in range(1, NUM_IMAGES))],
        thumbnail=lambda i: np.repeat((images[i] * 15.9).astype(np.uint8)[:, :, None], 3, axis=2),
        probabilities=(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32),
        features=digits.data[:NUM_IMAGES].astype(np.float32),
        targets=targets,
        classes=[f"<i>{k}</i>" for k in range(10)],
        metrics={"pretext": lines, "scan": lines},
        facts={"command": "python cluster.py <folder>", "config": {"epochs": 10}},
        scores={"acc": 0.9, "nmi": 0.8},
        image_root=Path("/nowhere/a folder"),
    )


@pytest.fixture(scope="module")
def data() -> ReportData:
    return digits_data()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, data: ReportData) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, data)
    return path.as_uri()


def open_page(browser: Chrome, page: str, width: int = 1400, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page)
    wait(browser, lambda: browser.execute_script("return performance.getEntriesByName('ready').length") == 1)


def wait(browser: Chrome, condition) -> None:
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: condition())


def one(browser: Chrome, selector: str):
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser: Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
    return browser.execute_script(script, selector)


def count(browser: Chrome) -> int:
    return int(one(browser, "#count").text.split(" of ")[0].replace(",", ""))


def draw_all(browser: Chrome) -> None:
    for index in range(browser.execute_script(f"return {CHARTS}.length")):
        browser.execute_script(f"{CHARTS}[{index}].scrollIntoView({{block: 'center'}})")
        drawn = f"return {CHARTS}[{index}].querySelector('.main-svg') !== null"
        wait(browser, lambda script=drawn: browser.execute_script(script))


def requests(browser: Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def screenshot(browser: Chrome, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {})
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_opens_without_an_error_or_an_outside_request(browser, page, width, scheme):
    open_page(browser, page, width, scheme)
    draw_all(browser)
    for section in ("overview", "clusters", "images", "labels", "training", "made"):
        browser.execute_script(f"document.getElementById('{section}').scrollIntoView()")
        screenshot(browser, f"{width}-{scheme}-{section}")
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    addresses = requests(browser)
    assert page in addresses
    assert {address.split(":")[0] for address in addresses} <= {"file", "data", "blob"}
    assert [address for address in addresses if address.startswith("file:")] == [page]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]


def test_colors_of_charts_follow_the_scheme_while_open(browser, page):
    open_page(browser, page)
    draw_all(browser)
    color = "return document.querySelector('[data-chart=accuracy]').layout.font.color"
    assert browser.execute_script(color) == "#1b1f26"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    wait(browser, lambda: browser.execute_script(color) == "#e8eaee")


def test_hostile_names_are_text(browser, page):
    open_page(browser, page)
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    one(browser, "#filter [name=text]").send_keys("onerror")
    wait(browser, lambda: count(browser) == 1)
    assert texts(browser, "#list tbody td:nth-child(2)") == [HOSTILE]
    one(browser, "#list tbody .tile").click()
    assert one(browser, "#viewer-path").text == HOSTILE
    link = one(browser, "#viewer-link a").get_attribute("href")
    assert link.startswith("file:///nowhere/a%20folder/digits/%3Cimg%20src")
    assert browser.execute_script("return document.querySelectorAll('#list img, #viewer img, h1 b').length") == 0


def test_filters_agree_with_the_data(browser, page, data):
    open_page(browser, page)
    clusters, confidence = data.probabilities.argmax(axis=1), data.probabilities.max(axis=1).astype(np.float64)
    assert count(browser) == NUM_IMAGES
    Select(one(browser, "#filter [name=cluster]")).select_by_value("4")
    wait(browser, lambda: count(browser) == int((clusters == 4).sum()))
    one(browser, "#filter [name=low]").clear()
    one(browser, "#filter [name=low]").send_keys("90")
    wait(browser, lambda: count(browser) == int(((clusters == 4) & (np.round(1e4 * confidence) >= 9000)).sum()))
    browser.execute_script(f"{CHARTS}; document.querySelector('#map').scrollIntoView()")
    wait(browser, lambda: browser.execute_script("return document.querySelector('#map .main-svg') !== null"))
    opacity = "return document.querySelector('#map .chart').data[0].marker.opacity"
    wait(browser, lambda: isinstance(browser.execute_script(opacity), list))
    assert sum(value > 0.5 for value in browser.execute_script(opacity)) == count(browser)
    one(browser, "#filter [type=reset]").click()
    wait(browser, lambda: count(browser) == NUM_IMAGES)
    Select(one(browser, "#filter [name=target]")).select_by_value("7")
    wait(browser, lambda: count(browser) == int((data.targets == 7).sum()))


def test_the_list_sorts_and_turns_pages(browser, page, data):
    open_page(browser, page)
    clusters, confidence = data.probabilities.argmax(axis=1), data.probabilities.max(axis=1).astype(np.float64)
    one(browser, "[data-sort=confidence]").click()
    shown = texts(browser, "#list tbody td:nth-child(4)")
    assert shown == [f"{value / 100:.1f} %" for value in np.sort(np.round(1e4 * confidence))[::-1][:50]]
    one(browser, "[data-sort=cluster]").click()
    one(browser, "[data-sort=cluster]").click()
    assert {text.split(" ")[0] for text in texts(browser, "#list tbody td:nth-child(3)")} == {str(clusters.max())}
    one(browser, "[data-sort=path]").click()
    one(browser, "[data-page=last]").click()
    assert texts(browser, "#list tbody td:nth-child(2)")[-1] == data.paths[-1]
    assert not one(browser, "[data-page=next]").is_enabled()
    one(browser, "[data-page=previous]").click()
    assert one(browser, "#page").get_attribute("value") == str(NUM_IMAGES // 50 - 1)


def test_cards_sort_and_lead_to_the_list(browser, page, data):
    open_page(browser, page)
    sizes = np.bincount(data.probabilities.argmax(axis=1), minlength=10)
    Select(one(browser, "#sort-clusters")).select_by_value("size")
    order = browser.execute_script("return [...document.querySelectorAll('.card')].map((c) => +c.dataset.size)")
    assert order == sorted(sizes.tolist(), reverse=True)
    browser.execute_script("document.querySelector('.show[data-cluster=\"3\"]').click()")
    wait(browser, lambda: count(browser) == sizes[3])


def test_a_picture_opens_larger_and_steps_to_the_next(browser, page):
    open_page(browser, page)
    tile = one(browser, "#cluster-0 .sheet .tile:nth-child(2)")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", tile)
    wait(browser, lambda: "blob:" in tile.value_of_css_property("background-image"))
    tile.click()
    assert one(browser, "#viewer-path").text in tile.get_attribute("aria-label")
    assert "blob:" in one(browser, "#viewer .picture").value_of_css_property("background-image")
    screenshot(browser, "viewer")
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    third = one(browser, "#cluster-0 .sheet .tile:nth-child(3)").get_attribute("aria-label")
    assert one(browser, "#viewer-path").text in third
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not one(browser, "#viewer").is_displayed()
    assert browser.switch_to.active_element == tile


def test_the_map_shows_thumbnails_on_hover_and_on_focus(browser, page, data):
    open_page(browser, page)
    browser.execute_script("document.querySelector('#map').scrollIntoView({block: 'center'})")
    wait(browser, lambda: browser.execute_script("return document.querySelector('#map .points path') !== null"))
    tip = one(browser, "#tip")
    ActionChains(browser).move_to_element(browser.find_elements(By.CSS_SELECTOR, "#map .points path")[7]).perform()
    wait(browser, tip.is_displayed)
    assert any(path in tip.text for path in data.paths)
    assert "blob:" in one(browser, "#tip .picture").value_of_css_property("background-image")

    one(browser, "[data-zoom='0']").click()
    ActionChains(browser).send_keys(Keys.TAB * 3).perform()  # past the frame and the colors
    assert browser.switch_to.active_element.get_attribute("id") == "map"
    wait(browser, tip.is_displayed)
    seen = set()
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_LEFT):
        ActionChains(browser).send_keys(key).perform()
        wait(browser, lambda: one(browser, "#map-status").get_attribute("textContent").split(", ")[0] in tip.text)
        seen.add(tip.text)
    assert len(seen) >= 3
    screenshot(browser, "map-focus")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert one(browser, "#viewer").is_displayed()
    assert one(browser, "#viewer-path").text in tip.get_attribute("textContent")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser, page):
    open_page(browser, page)
    script = """
        const element = document.activeElement;
        const style = getComputedStyle(element);
        const stop = element.closest('.sheet, .prototype, #list tbody') || element;
        window.stops ??= new Map();
        if (!window.stops.has(stop)) window.stops.set(stop, window.stops.size);
        return [element.tagName, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
    """
    for _ in range(1000):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        tag, outlined = browser.execute_script(script)
        if tag == "BODY":
            break
        assert outlined, tag
    missed = browser.execute_script("""
        const stops = window.stops;
        const all = document.querySelectorAll('a[href], button, input, select, summary, #map');
        return [...all].filter((one) => !one.disabled && one.checkVisibility() && !one.closest('dialog'))
          .map((one) => one.closest('.sheet, .prototype, #list tbody') || one)
          .filter((stop) => !stops.has(stop)).map((stop) => stop.outerHTML.slice(0, 200));
    """)
    assert missed == []


def test_fifty_thousand_images_open(browser, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    monkeypatch.setattr(build.projection, "project", lambda features, seed: features[:, :2].astype(np.float64))
    num_images, num_clusters = 50_000, 50
    data = ReportData(
        title="Many",
        paths=[f"photos/{i % 40:02d} a folder with a long name/IMG_{i:06d}.jpg" for i in range(num_images)],
        thumbnail=lambda i: generator.integers(0, 256, (96, 96, 3), dtype=np.uint8),
        probabilities=generator.dirichlet(np.full(num_clusters, 0.1), num_images).astype(np.float32),
        features=generator.uniform(-1, 1, (num_images, 8)).astype(np.float32),
    )
    path = tmp_path / "report.html"
    write_report(path, data)
    assert path.stat().st_size < 30_000_000
    open_page(browser, path.as_uri())
    seconds = browser.execute_script("return performance.getEntriesByName('ready')[0].startTime") / 1000
    print(f"\n50,000 images: {path.stat().st_size / 1e6:.1f} MB, usable after {seconds:.2f} s")
    assert count(browser) == num_images
    size = int(Select(one(browser, "#group")).first_selected_option.text.split("(")[1].rstrip(")").replace(",", ""))
    cells = "return [...document.querySelectorAll('.cell')].map((cell) => +cell.getAttribute('aria-posinset'))"
    assert 0 < len(browser.execute_script(cells)) < 500 < size
    browser.execute_script("document.querySelector('#sheet').scrollTop = 1e9")
    wait(browser, lambda: max(browser.execute_script(cells)) == size and len(browser.execute_script(cells)) < 500)
    assert browser.execute_script("return document.querySelectorAll('.cell.missing').length") == 0
    one(browser, "#filter [name=text]").send_keys("IMG_012345")
    wait(browser, lambda: count(browser) == 1)
