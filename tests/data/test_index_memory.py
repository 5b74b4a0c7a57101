"""What an index holds in memory while it reads: little for each image, in every layout that may have a million."""

import os
import tarfile
import tracemalloc
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from repvgg_companion.data import manifest
from repvgg_companion.data.index.image_tar import ImageTar

PER_CLASS, FEW, MANY = 25, 40, 240
MOST_BYTES = 190
"""For each image; with the 100 MB of the interpreter and its libraries, 1 281 167 images then stay under 300 MB."""


def _tree(root: Path, classes: int, per_class: int = PER_CLASS) -> Path:
    root.mkdir(parents=True)
    one = root.with_suffix(".one")
    one.write_bytes(b"x")
    for place in range(classes):
        wnid = f"n{10_000_000 + place:08d}"
        (root / wnid).mkdir()
        for number in range(per_class):
            os.link(one, root / wnid / f"{wnid}_{number}.JPEG")
    return root


def _folders(root: Path, classes: int) -> list[object]:
    return ["--train-folder", _tree(root / "train", classes), "--val-folder", _tree(root / "val", classes, 1)]


def _kaggle(root: Path, classes: int) -> list[object]:
    data = root / "ILSVRC/Data/CLS-LOC"
    _tree(data / "train", classes)
    (data / "val").mkdir()
    lines = ["ImageId,PredictionString"]
    for place in range(classes):
        (data / "val" / f"ILSVRC2012_val_{place + 1:08d}.JPEG").write_bytes(b"x")
        lines.append(f"ILSVRC2012_val_{place + 1:08d},n{10_000_000 + place:08d} 1 2 3 4")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines))
    return ["--kaggle-folder", root]


def _tars_of_folders(root: Path, classes: int) -> list[object]:
    options = _folders(root, classes)
    for split, place in (("train", 1), ("val", 3)):
        with tarfile.open(root / f"{split}.tar", "w", dereference=True) as archive:
            for path in sorted(options[place].rglob("*.JPEG")):
                info = tarfile.TarInfo(str(path.relative_to(root)))
                info.size = 1
                with path.open("rb") as stream:
                    archive.addfile(info, stream)
    return ["--train-archive", root / "train.tar", "--val-archive", root / "val.tar", "--no-verify"]


def _peak(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", [_folders, _kaggle, _tars_of_folders], ids=lambda layout: layout.__name__.strip("_"))
def test_an_image_takes_few_bytes_while_it_is_indexed(layout, tmp_path, index, monkeypatch):
    monkeypatch.setattr(manifest, "ROW_GROUP", 256)
    index(*layout(tmp_path / "warm", 3), output=tmp_path / "out-warm")
    peaks = []
    for classes in (FEW, MANY):
        options = layout(tmp_path / str(classes), classes)
        peaks.append(_peak(partial(index, *options, output=tmp_path / f"out{classes}")))
    assert (peaks[1] - peaks[0]) / ((MANY - FEW) * PER_CLASS) < MOST_BYTES


def test_a_tar_that_images_are_copied_into_keeps_nothing_of_them_in_memory(tmp_path):
    def write() -> None:
        with ExitStack() as naming, ImageTar(tmp_path / "copy.tar", naming) as tar:
            for number in range(2000):
                tar.add("n01440764", f"n01440764_{number}.JPEG", b"x")

    write()
    assert _peak(write) < 200_000
    with tarfile.open(tmp_path / "copy.tar") as archive:
        assert len(archive.getnames()) == 2000
