"""Columns of a manifest in Arrow's compact form, made from buffers and read without pandas. Needs no torch.

`pyarrow.array` and `pyarrow.table` are avoided, because they import pandas, which costs a second.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

ROW_GROUP = 1 << 16


class TextColumn(Sequence):
    """A column of strings that stays in Arrow's compact form; indexing gives a `str`, iterating gives all of them."""

    def __init__(self, values: Any) -> None:
        self.arrow = values

    def __len__(self) -> int:
        return len(self.arrow)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.arrow[index].to_pylist()
        return self.arrow[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROW_GROUP):
            yield from self[start : start + ROW_GROUP]

    def arrow_slice(self, start: int, stop: int) -> Any:
        """Rows `start` to `stop` as an Arrow array."""
        return self.arrow.slice(start, stop - start)


class FileColumn(TextColumn):
    """The files of images of a folder tree: their folders and names are stored, and a path is put together on demand.

    `codes` is int32 [n], the place in `files` of each image's file; a file that ends in "/" is the folder of a file
    with the last part of the image's name. A million paths of their own would take more memory than all the rest.
    """

    def __init__(self, codes: np.ndarray, files: Sequence[str], names: TextColumn) -> None:
        self._codes, self._files, self._names = codes, list(files), names

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return whole_file(self._files[self._codes[index]], self._names[index])
        files = self._files
        codes = self._codes[index].tolist()
        return [whole_file(files[code], name) for code, name in zip(codes, self._names[index], strict=True)]

    def arrow_slice(self, start: int, stop: int) -> Any:
        """Rows `start` to `stop` as an Arrow array of whole paths."""
        utf8 = [path.encode() for path in self[start:stop]]
        return text_array(b"".join(utf8), np.fromiter(accumulate(map(len, utf8), initial=0), np.int64, len(utf8) + 1))


def whole_file(file: str, name: str) -> str:
    """The file of the image `name`: `file` itself, or the file of that name in it where it ends in "/"."""
    return file + name.rpartition("/")[2] if file[-1] == "/" else file


def number_array(values: np.ndarray) -> Any:
    """An Arrow array that shares the memory of `values`."""
    import pyarrow

    values = np.ascontiguousarray(values)
    return pyarrow.Array.from_buffers(pyarrow.from_numpy_dtype(values.dtype), len(values), [None, _buffer(values)])


def text_array(utf8: bytes | bytearray, ends: np.ndarray) -> Any:
    """An Arrow array of the strings in `utf8`; string i goes from byte `ends`[i] to `ends`[i + 1]."""
    import pyarrow

    return pyarrow.LargeStringArray.from_buffers(
        len(ends) - 1, _buffer(ends.astype(np.int64, copy=False)), _buffer(utf8)
    )


def coded_array(codes: np.ndarray, words: Sequence[str]) -> Any:
    """An Arrow array of `words`[code] for each code, which holds each word once."""
    import pyarrow

    utf8 = [word.encode() for word in words]
    ends = np.concatenate([[0], np.cumsum([len(word) for word in utf8], dtype=np.int64)])
    values = pyarrow.StringArray.from_buffers(len(utf8), _buffer(ends.astype(np.int32)), _buffer(b"".join(utf8)))
    return pyarrow.DictionaryArray.from_arrays(number_array(codes.astype(np.int32, copy=False)), values)


def int64_array(column: Any) -> np.ndarray:
    """An int64 column of a Parquet file as numpy array [n]; raises ValueError if a number is missing."""
    # `to_numpy` would import pandas as well.
    values = one_array(column)
    if str(values.type) != "int64" or values.null_count:
        raise ValueError("a number is missing")
    return np.frombuffer(values.buffers()[1], np.int64, count=len(values), offset=8 * values.offset).copy()


def one_array(column: Any) -> Any:
    """A column of a Parquet file in one piece."""
    combined = column.combine_chunks()
    return combined.chunk(0) if hasattr(combined, "chunk") else combined


def _buffer(values: Any) -> Any:
    import pyarrow

    return pyarrow.py_buffer(values)
