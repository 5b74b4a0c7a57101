"""The predictions per image that evaluation keeps, written and read in one place.

A file of classification has the columns index, label, top5 (classes, best first) and margin; a file of segmentation
has index, name and the pixel counts of `COUNTS`. Both hold their row of the results table in the metadata.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path
from repvgg_companion.identity import predictions_of

if TYPE_CHECKING:
    import pyarrow

COUNTS = ("agreed", "answered", "labelled")
"""Pixels of each class in an image: answered and labelled as it, answered as it, labelled as it."""


@dataclass(frozen=True)
class Predictions:
    """What a network answered for n images: `labels` [n], `top` [n, k] classes best first, `margin` [n] in logits.

    k is 5, or the number of classes if there are fewer. The margin is the best logit less the second best. An image
    that could not be decoded has the classes -1.
    """

    labels: np.ndarray
    top: np.ndarray
    margin: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the label of each image is in first place, bool [n]."""
        return self.top[:, 0] == self.labels

    @property
    def top1_correct(self) -> int:
        """The number of images whose label is in first place."""
        return int(self.correct.sum())

    @property
    def top5_correct(self) -> int:
        """The number of images whose label is among the best five."""
        return int((self.top == self.labels[:, None]).any(axis=1).sum())

    def table(self) -> "pyarrow.Table":
        """The columns of a predictions file."""
        import pyarrow

        return pyarrow.table(
            {
                "index": pyarrow.array(range(len(self.labels)), pyarrow.int32()),
                "label": pyarrow.array(self.labels, pyarrow.int32()),
                "top5": pyarrow.array(self.top.tolist(), pyarrow.list_(pyarrow.int32())),
                "margin": pyarrow.array(self.margin, pyarrow.float32()),
            }
        )


def counts_table(counts: np.ndarray, names: Sequence[str]) -> "pyarrow.Table":
    """The columns of a predictions file of segmentation, from counts [n, 3, classes] and the names of the images."""
    import pyarrow

    columns = {
        "index": pyarrow.array(range(len(counts)), pyarrow.int32()),
        "name": pyarrow.array(names, pyarrow.string()),
    }
    for place, name in enumerate(COUNTS):
        columns[name] = pyarrow.array(counts[:, place].tolist(), pyarrow.list_(pyarrow.int64()))
    return pyarrow.table(columns)


def write_predictions(folder: Path, table: "pyarrow.Table", row: Mapping[str, Any]) -> None:
    """Write the predictions behind a row of `accuracy.csv` or `segmentation.csv`, under the row's name."""
    from pyarrow import parquet

    metadata = {"row": json.dumps(row, sort_keys=True), "run_id": row["run_id"]}
    with atomic_path(folder / predictions_of(row)) as temporary:
        parquet.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """The predictions of a file of classification, in the order of the manifest."""
    table = _read(path)
    labels = table["label"].to_numpy()
    top = table["top5"].combine_chunks().flatten().to_numpy().reshape(len(labels), -1)
    return Predictions(labels, top, table["margin"].to_numpy())


def read_counts(path: Path) -> np.ndarray:
    """The counts per image of a file of segmentation, int64 [n, 3, classes], in the order of the manifest."""
    table = _read(path)
    return np.stack([np.array(table[name].to_pylist(), np.int64) for name in COUNTS], axis=1)


def _read(path: Path) -> "pyarrow.Table":
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path).sort_by("index")
    except (ArrowException, OSError) as error:
        raise CompanionError(
            f"{path} is not readable as predictions ({error}); evaluate again, or copy it again"
        ) from None
