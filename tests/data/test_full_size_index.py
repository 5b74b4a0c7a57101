"""The index of an archive with as many members as ImageNet's: right to the last offset, in less than 300 MB."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repvgg_companion.data.manifest import Manifest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_index_of_1281167_members_needs_less_than_300_megabytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("index_archive", ROOT / "benchmarks" / "index_archive.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    archive, val = tmp_path / "train.tar", tmp_path / "val.tar"
    benchmark.write_full_archive(archive)
    benchmark.write_full_validation(val)
    words = [
        "index",
        "--dataset",
        "full",
        "--train-archive",
        archive,
        "--val-archive",
        val,
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(
        [sys.executable, "-c", benchmark.FULL_CODE, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    peak = int(re.search(r"peak memory (\d+) MiB", done.stdout)[1])
    assert peak * 1024**2 < 300e6, done.stdout
    assert len(list((tmp_path / "out").iterdir())) <= 5
    manifest = Manifest.read(tmp_path / "out" / "train.parquet")
    assert len(manifest) == 1_281_167 and manifest.num_classes == 1000
    assert set(manifest.lengths.tolist()) == {1}
    # Every member is a header of 512 bytes and one block, so neighbours of one class lie 1 024 bytes apart.
    gaps = np.diff(np.sort(manifest.offsets))
    assert (gaps[gaps < 5000] == 1024).all() and (gaps != 1024).sum() == 999
    with archive.open("rb") as stream:
        for place in range(0, len(manifest), 99_991):
            stream.seek(int(manifest.offsets[place]) - 512)
            block = stream.read(513)
            assert block.startswith(manifest.names[place].encode() + b"\0") and block.endswith(b"x")
