"""The page that compares numbers of clusters: whole at every width, light and dark, and asking for nothing."""

import numpy as np
import pytest
from selenium.webdriver import Chrome

from report.compare import Clustering, write_comparison

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_off_and_every_picture_shows(browser: Chrome, tmp_path, width, theme):
    scores = {"name": "vote", "neighbors": 0.5, "agreement": 0.75, "evenness": 0.25}
    members = {cluster: (1000 * cluster + 1, f"{cluster}.png") for cluster in range(12)}
    page = [Clustering(12, "k12/report.html", members, "vote", "a sentence", scores)]
    write_comparison(tmp_path / "index.html", "12 images", page, lambda path: np.full((40, 60, 3), 90, np.uint8))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    try:
        browser.get_log("browser")
        browser.get((tmp_path / "index.html").as_uri())
        boxes = "[document.documentElement, ...document.querySelectorAll('.scroll')]"
        assert browser.execute_script(f"return {boxes}.every(e => e.scrollWidth <= e.clientWidth)")
        assert browser.execute_script("return [...document.images].filter(i => i.naturalWidth == 72).length") == 12
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[theme]
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
