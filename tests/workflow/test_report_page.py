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

WATCH = """<script>window.errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
for (const name of ["error", "warn"]) console[name] = (...words) => errors.push(words.join(" "));</script>"""
LOOK = """<script>addEventListener("load", () => {
  const images = [...document.images], banner = document.querySelector(".warning").getBoundingClientRect();
  const wide = [...document.querySelectorAll("table")].filter(
    (table) => table.offsetWidth > table.parentElement.clientWidth && table.parentElement.className !== "scroll");
  const rows = () => [...document.querySelectorAll("#tested ~ .scroll tbody tr")].filter((row) => row.offsetParent);
  const all = rows().length, untested = rows().filter((row) => row.className === "untested").length;
  document.getElementById("tested").click();
  document.body.textContent = JSON.stringify({
    width: innerWidth, page: document.documentElement.scrollWidth, errors: errors,
    images: images.length, drawn: images.filter((image) => image.complete && image.naturalWidth > 100).length,
    captions: [...document.querySelectorAll("figcaption")].filter((one) => one.textContent.length > 80).length,
    banner: banner.bottom, verdicts: document.querySelector(".verdicts").rows.length, wide: wide.length,
    rows: all, untested: untested, left: rows().length,
    panels: [...document.querySelectorAll(".panels img")].map((image) => image.getBoundingClientRect()),
    others: [...document.querySelectorAll(".figures img")].map((image) => image.offsetWidth),
    lost: [...document.querySelectorAll("nav a")].map((link) => link.hash).filter((id) => !document.querySelector(id)),
  });
});</script>"""


def seen(page: Path, folder: Path, width_px: int) -> dict:
    """What a window of `width_px` x 900 pixels holds, measured inside the page once all of it is loaded."""
    probe, frame = folder / f"probe-{width_px}.html", folder / f"frame-{width_px}.html"
    text = page.read_text(encoding="utf-8").replace("<head>", "<head>" + WATCH)
    probe.write_text(text.replace("</head>", LOOK + "</head>"), encoding="utf-8")
    # A headless window is at least 500 px wide, so the page is shown in a frame of the wanted width.
    frame.write_text(
        f'<!doctype html><body><iframe id="page" src="{probe.name}" style="width:{width_px}px;height:900px;border:0">'
        "</iframe><script>addEventListener('load', () => setTimeout(() => { document.body.textContent = "
        "document.getElementById('page').contentDocument.body.textContent; }, 1000));</script></body>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width_px, 600)},900",
         "--virtual-time-budget=10000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=180,
    )  # fmt: skip
    return json.loads(re.search(r"<body>(\{.*\})", done.stdout)[1])


@pytest.mark.parametrize("width_px", [1280, 390])
def test_the_page_fits_its_window_and_shows_every_figure_and_the_warning(micro, tmp_path, width_px):
    report = micro / "results/micro/report.html"
    assert report.stat().st_size < 3_000_000
    page = seen(report, tmp_path, width_px)
    assert page["errors"] == [] and page["width"] == width_px
    assert page["images"] == page["drawn"] == page["captions"] >= 7, "a figure is not drawn, or has no caption"
    assert page["banner"] < 500, "the warning about demo data is not on the first screen"
    assert page["page"] <= width_px and page["wide"] == 0, "the page is wider than its window"
    assert page["verdicts"] == 3 and page["lost"] == []
    assert len(page["panels"]) == 3 and all(panel["width"] > 300 for panel in page["panels"])
    first, second, third = page["panels"]
    if width_px == 1280:
        assert first["top"] == second["top"] and second["right"] - first["left"] > 1100, (
            "Figure 1 is as wide as the page"
        )
    else:
        assert first["left"] == second["left"] and first["bottom"] < second["top"] < third["top"]
    assert len(page["others"]) > 5 and min(page["others"]) > 300
    assert page["untested"] > 0 and page["left"] == page["rows"] - page["untested"] > 0
