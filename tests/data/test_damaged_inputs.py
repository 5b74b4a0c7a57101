"""Random damage to zips, devkits, shards, lists and manifests: refused in one sentence, or read as it stands."""

import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import data_layouts
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from repvgg_companion.__main__ import main
from repvgg_companion.data.index.devkit import read_devkit
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.errors import CompanionError

RANDOM_DAMAGE = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def _damaged(data: bytes, seed: int) -> bytes:
    """A few bytes changed, cut out or put in, more often near the end, where zip and Parquet keep their directories."""
    changed, draw = bytearray(data), random.Random(seed)
    for _ in range(draw.choice([1, 1, 2, 4])):
        if not changed:  # a short file may have lost all its bytes
            break
        at = draw.randrange(len(changed))
        if draw.random() < 0.6:
            at = max(0, len(changed) - 1 - int(draw.random() ** 2 * min(len(changed), 6000)))
        kind = draw.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = draw.choice([b"\xff", b"\0", b"\x7f", b"\x80"]) * 4
        elif kind == 2:
            del changed[at : at + draw.choice([1, 4, 100])]
        else:
            changed[at:at] = draw.randbytes(draw.choice([1, 4, 30]))
    return bytes(changed)


def _index(folder: Path, *options: object) -> str | None:
    """Run `index` into an empty folder; returns None, or the one sentence of an error that left nothing behind."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    shutil.rmtree(folder, ignore_errors=True)
    streams = StringIO()
    with redirect_stderr(streams), redirect_stdout(streams):
        status = main(["index", "--dataset", "small", "--output", str(folder), "--no-verify", *map(str, options)])
    if status == 0:
        return None
    (sentence,) = (line for line in streams.getvalue().splitlines() if ": error:" in line)
    assert status == 2 and streams.getvalue().rstrip().endswith(sentence), streams.getvalue()
    assert not folder.exists() or not list(folder.iterdir())
    return sentence


def _read(manifest: Path) -> dict[str, bytes]:
    found = Manifest.read(manifest)
    reader = ImageReader(found)
    return {name: reader.read(place) for place, name in enumerate(found.names)}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zips(tmp_path, images, compression):
    whole = data_layouts.write_zip(tmp_path / "z.zip", images, compression=compression).read_bytes()

    @RANDOM_DAMAGE
    @given(st.integers(0, 2**32))
    def check(seed):
        (tmp_path / "z.zip").write_bytes(_damaged(whole, seed))
        if _index(tmp_path / "out", "--zip", tmp_path / "z.zip") is not None:
            return
        with zipfile.ZipFile(tmp_path / "z.zip") as archive:
            members = {name.rpartition("/")[2]: name for name in archive.namelist()}
            for split in ("train", "val"):
                for name, content in _read(tmp_path / "out" / f"{split}.parquet").items():
                    try:
                        assert content == archive.read(members[name])
                    except zipfile.BadZipFile as error:
                        assert "CRC" in str(error), "only pixels may be damaged unseen; decoding reports them"

    check()


def test_damaged_manifests_never_point_elsewhere(tmp_path, archives, index):
    folder = index(
        "--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]
    )
    whole, expected = (folder / "train.parquet").read_bytes(), _read(folder / "train.parquet")

    @settings(RANDOM_DAMAGE, max_examples=300)
    @given(st.integers(0, 2**32))
    def check(seed):
        (tmp_path / "m.parquet").write_bytes(_damaged(whole, seed))
        try:
            assert _read(tmp_path / "m.parquet") == expected
        except CompanionError as error:
            assert "\n" not in str(error)

    check()


def _index_with_random_damage(path: Path, examples: int, index: Callable[[], object]) -> None:
    """`index` after each of so many random damages to the file, which is whole again afterwards."""
    whole = path.read_bytes()

    @settings(RANDOM_DAMAGE, max_examples=examples)
    @example(222645)  # cuts all bytes of a short file away
    @given(st.integers(0, 2**32))
    def check(seed):
        path.write_bytes(_damaged(whole, seed))
        index()

    check()
    path.write_bytes(whole)


def test_damaged_shards(tmp_path, images):
    shard = data_layouts.write_shards(tmp_path / "s", images) / "train-00000-of-00002.parquet"
    _index_with_random_damage(shard, 30, lambda: _index(tmp_path / "out", "--parquet-folder", tmp_path / "s"))


@pytest.mark.parametrize("name", ["LOC_val_solution.csv", "LOC_synset_mapping.txt"])
def test_damaged_lists_of_kaggle(tmp_path, images, name):
    path = data_layouts.write_kaggle(tmp_path / "k", images) / name

    def index() -> str | None:
        return _index(tmp_path / "out", "--kaggle-folder", tmp_path / "k")

    _index_with_random_damage(path, 40, index)
    whole = path.read_bytes()
    path.write_bytes(b"\xff\xfe" + whole)
    assert f"{path} is not UTF-8 text" in index()
    path.write_bytes(b"\xef\xbb\xbf" + whole)  # the mark that spreadsheets put in front
    assert index() is None


def test_a_meta_mat_that_crashes_its_reader_is_one_sentence(tmp_path, images):
    """scipy's compiled reader ends the process on some of these; the three bytes were found by random damage."""
    kit = tmp_path / "kit" / "data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_bytes(data_layouts.ground_truth(images))
    content = bytearray(data_layouts.meta_mat(data_layouts.IDS, data_layouts.WORDS))
    for at, value in ((1096, 48), (2364, 206), (2415, 71)):
        content[at] = value
    for damaged in (bytes(content), bytes(content[:700]), b"MATLAB 5.0 MAT-file" + bytes(200)):
        (kit / "meta.mat").write_bytes(damaged)
        with pytest.raises(CompanionError, match=r"meta\.mat is not the table of synsets"):
            read_devkit(tmp_path / "kit")


def test_a_devkit_without_its_table_is_not_called_one_of_another_year(tmp_path, images):
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_bytes(data_layouts.ground_truth(images))
    with pytest.raises(CompanionError, match=r"holds no meta\.mat; ILSVRC2012_devkit_t12.tar.gz is needed"):
        read_devkit(tmp_path)
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").rename(tmp_path / "ILSVRC2010_validation_ground_truth.txt")
    with pytest.raises(CompanionError, match="of another year"):
        read_devkit(tmp_path)


@pytest.mark.parametrize(
    "columns", [{"image": [b"x"], "label": [0]}, {"image": [{"bytes": b"x", "path": "p"}], "label": ["a"]}]
)
def test_shards_with_other_kinds_of_columns(tmp_path, images, columns):
    import pyarrow
    from pyarrow import parquet

    folder = data_layouts.write_shards(tmp_path / "s", images)
    parquet.write_table(pyarrow.table(columns), folder / "train-00000-of-00002.parquet")
    assert "name imagenet-1k's shards" in _index(tmp_path / "out", "--parquet-folder", folder)
