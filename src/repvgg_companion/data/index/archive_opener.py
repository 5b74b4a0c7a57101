"""Opening archives for the index, with progress, and comparing them with their published MD5 in the same pass."""

import sys
from collections.abc import Callable
from pathlib import Path

from repvgg_companion.data.index.digests import DigestRecord, expected_md5, require_match
from repvgg_companion.data.index.source import HashedSource, SeekSource
from repvgg_companion.data.index.verify import ByteProgress, md5_with_progress


class ArchiveOpener:
    """Opens archives; one whose digest must be checked is read once in order, hashed and indexed in the same pass.

    That pass takes as long as the digest alone. Otherwise only the headers are read, by seeking.
    """

    def __init__(self, record: DigestRecord, *, verify: bool) -> None:
        self.record, self.verify = record, verify

    def check(self, path: str) -> None:
        """Compare an archive that is not a tar of images with its published MD5."""
        expected = expected_md5(path) if self.verify and Path(path).is_file() else None
        if expected is not None:
            md5 = self.record.known(path)
            if md5 is None:
                md5, stamp = md5_with_progress(path)
                self.record.keep(path, md5, stamp)
            require_match(path, md5, expected)

    def open(self, path: str) -> SeekSource:
        """A source whose `finish` compares the digest if it must be checked."""
        if not self.verify:
            return _SoughtSource(path)
        expected = expected_md5(path)
        if expected is None:
            source = _SoughtSource(path)
            name = Path(path).name
            print(f"index: note: no MD5 is published for a file called {name}: it is not compared", file=sys.stderr)
            return source
        known = self.record.known(path)
        if known is None:
            return _CheckedSource(path, expected, self.record)
        require_match(path, known, expected)
        return _SoughtSource(path)


class _Watched(SeekSource):
    """A source with a progress bar of the bytes that were passed."""

    _bar: ByteProgress | None = None

    def _watch(self, title: str) -> Callable[[int], None]:
        self._bar = ByteProgress(f"{title} of {Path(self.path).name}", self.size)
        return self._bar.__enter__()

    def close(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.__exit__(*sys.exc_info())
        super().close()


class _SoughtSource(_Watched):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._done, self._advance = 0, self._watch("index")

    def reached(self, offset: int) -> None:
        self._advance(offset - self._done)
        self._done = offset

    def finish(self) -> None:
        self.reached(self.size)
        super().finish()


class _CheckedSource(_Watched, HashedSource):
    def __init__(self, path: str, expected: str, record: DigestRecord) -> None:
        super().__init__(path)
        self._expected, self._record = expected, record
        self._progress = self._watch("index and MD5")

    def finish(self) -> None:
        super().finish()
        self._record.keep(self.path, self.md5, self.stamp)
        require_match(self.path, self.md5, self._expected)
