"""Fixtures of the data layer's tests."""

import warnings
from pathlib import Path

import data_layouts
import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.reader import ImageReader


@pytest.fixture(scope="session")
def images() -> data_layouts.Images:
    """Three classes of ILSVRC2012 with four training images each and nine validation images."""
    return data_layouts.small_images()


@pytest.fixture
def archives(tmp_path: Path, images: data_layouts.Images) -> dict[str, Path]:
    """The three ILSVRC2012 archives of the small set."""
    return data_layouts.write_archives(tmp_path / "archives", images)


@pytest.fixture
def index(tmp_path: Path):
    """Run the verb `index` in this process with options; returns the folder of manifests."""

    def run(*options: object, output: Path | None = None) -> Path:
        output = tmp_path / "index" if output is None else output
        assert main(["index", "--dataset", "small", "--output", str(output), *map(str, options)]) == 0
        return output

    return run


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Run a verb that must fail: exit status 2, one sentence, no file left behind; returns the sentence."""

    def run(*words: object, output: Path | None = None) -> str:
        output = tmp_path / "index" if output is None else output
        before = _files(output)
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            status = main([*map(str, words), "--output", str(output)])
        streams = capsys.readouterr()
        lines = [line for line in streams.err.splitlines() if "error:" in line]
        assert status == 2, streams
        assert len(lines) == 1 and "Traceback" not in streams.err, streams.err
        assert _files(output) == before, "something was left behind"
        return lines[0]

    return run


def _files(folder: Path) -> list[Path]:
    # The record of digests that were computed is kept also when one of them is wrong.
    return sorted(path for path in folder.rglob("*") if path.name != "digests.json")


def content(manifest: Manifest) -> list[tuple[str, str, int, bytes]]:
    """(name, wnid, label, bytes) of every image, in manifest order."""
    reader = ImageReader(manifest)
    rows = zip(manifest.names, manifest.wnids, manifest.labels.tolist())
    return [(*row, reader.read(place)) for place, row in enumerate(rows)]


@pytest.fixture
def content_of():
    """The function `content`."""
    return content
