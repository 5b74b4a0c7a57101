"""The page of the ledger as a browser shows it: it fits its window, filters, and reports no error."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "results" / "reference" / "ledger.html"
STUDIES = [path for path in (PAGE.parents[1] / "studies").iterdir() if path.is_dir()]
"""Each has a picture of its own beside the three of the ledger."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

WATCH = """<script>window.errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
for (const name of ["error", "warn"]) console[name] = (...words) => errors.push(words.join(" "));</script>"""
LOOK = """<script>addEventListener("load", async () => {
  const shown = () => [...document.querySelectorAll("article")].filter((one) => one.offsetParent).map((one) => one.id);
  const choose = async (name, value) => {
    document.getElementById("by-" + name).value = value;
    document.getElementById("filters").dispatchEvent(new Event("change"));
    await 0;
    return {claims: shown(), count: document.getElementById("count").textContent,
            groups: [...document.querySelectorAll("section")].filter((one) => one.offsetParent).length};
  };
  const drawn = [...document.images].filter((one) => one.complete && one.naturalWidth > 100);
  const seen = {all: shown(), images: drawn.length, closed: innerWidth >= document.documentElement.scrollWidth};
  for (const one of document.querySelectorAll("details")) one.open = true;
  seen.open = innerWidth >= document.documentElement.scrollWidth;
  const strips = [...document.querySelectorAll("article .strip")];
  seen.marks = Math.max(...strips.map((one) => one.getBoundingClientRect().right));
  seen.width = innerWidth;
  seen.studies = await choose("class", "retrained by others");
  seen.both = await choose("verdict", "met");
  await choose("verdict", "");
  await choose("class", "");
  seen.device = await choose("device", "RTX 3090");
  document.getElementById("filters").reset();
  await new Promise((done) => setTimeout(done, 50));
  seen.again = shown();
  seen.errors = errors;
  document.body.textContent = JSON.stringify(seen);
});</script>"""


def look(folder: Path, width_px: int) -> dict:
    """What a window of `width_px` x 900 pixels holds, and what the filters leave, measured inside the page."""
    probe = folder / f"probe-{width_px}.html"
    text = PAGE.read_text(encoding="utf-8").replace("<head>", "<head>" + WATCH).replace("</head>", LOOK + "</head>")
    frame = folder / f"frame-{width_px}.html"
    probe.write_text(text, encoding="utf-8")
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
         "--virtual-time-budget=20000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=180,
    )  # fmt: skip
    return json.loads(re.search(r"<body>(\{.*\})", done.stdout)[1])


@pytest.mark.parametrize("width_px", [1280, 390])
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian and Ubuntu: apt install chromium")
def test_the_page_fits_its_window_and_filters_without_errors(tmp_path, width_px):
    seen = look(tmp_path, width_px)
    assert seen["errors"] == []
    assert seen["width"] == width_px
    assert len(seen["all"]) == 56 and seen["again"] == seen["all"]
    assert seen["images"] == 3 + len(STUDIES)
    assert seen["closed"] and seen["open"], "the page is wider than its window"
    assert seen["marks"] <= width_px
    assert set(seen["studies"]["claims"]) == {"C01", "C27", "C31", "P03"}
    assert seen["studies"]["count"] == "4 of 56 claims" and seen["studies"]["groups"] == 3
    assert set(seen["both"]["claims"]) < set(seen["studies"]["claims"])
    assert 5 < len(seen["device"]["claims"]) < 30


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian and Ubuntu: apt install chromium")
def test_the_page_prints_every_claim(tmp_path):
    pdf = tmp_path / "ledger.pdf"
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", "--no-pdf-header-footer", f"--print-to-pdf={pdf}", PAGE.as_uri()],
        capture_output=True, check=True, timeout=180,
    )  # fmt: skip
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 4 <= pages <= 20


def test_the_page_needs_nothing_from_outside():
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "@import" not in text and "fetch(" not in text
