"""The report as a browser shows it, not as its text reads."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian and Ubuntu: apt install chromium"),
]

LOOK = """<script>addEventListener("load", () => {
  const images = [...document.images], banner = document.querySelector(".demo").getBoundingClientRect();
  const wide = [...document.querySelectorAll("table")].filter(
    (table) => table.offsetWidth > table.parentElement.clientWidth && table.parentElement.className !== "scroll");
  document.body.textContent = JSON.stringify({
    images: images.length, drawn: images.filter((image) => image.complete && image.naturalWidth > 100).length,
    banner: banner.bottom, overflow: document.documentElement.scrollWidth - innerWidth, wide: wide.length,
    lost: [...document.querySelectorAll("nav a")].map((link) => link.hash).filter((id) => !document.querySelector(id)),
  });
});</script>"""


def seen(page: Path, folder: Path, width_px: int) -> dict:
    """What a window of `width_px` x 900 pixels holds, measured inside the page once all of it is loaded."""
    probe = folder / f"probe-{width_px}.html"
    probe.write_text(page.read_text(encoding="utf-8").replace("</head>", LOOK + "</head>"), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         f"--window-size={width_px},900", "--virtual-time-budget=10000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return json.loads(re.search(r"<body>(\{.*\})", done.stdout)[1])


@pytest.mark.parametrize("width_px", [1280, 600])
def test_the_page_fits_its_window_and_shows_every_figure_and_the_warning(micro, tmp_path, width_px):
    page = seen(micro / "results/micro/report.html", tmp_path, width_px)
    assert page["images"] == page["drawn"] >= 7, "a figure is not drawn"
    assert page["banner"] < 450, "the warning about demo data is not on the first screen"
    assert page["overflow"] <= 0 and page["wide"] == 0, "the page is wider than its window"
    assert page["lost"] == []
