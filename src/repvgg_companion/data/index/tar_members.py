"""Where the members of a tar lie: headers only, without extraction; a tar inside a tar is read at its place.

The ordinary header is read here, fast; everything else is left to `tarfile.TarInfo`; extended headers follow POSIX pax
and GNU tar. Where `tarfile` stops silently (a damaged header), this reader raises, because a shorter list would go
unnoticed.
"""

import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np

from repvgg_companion.data.index.source import SeekSource, compression_of, option_for, option_for_cifar
from repvgg_companion.errors import CompanionError

BLOCK = tarfile.BLOCKSIZE
ADLER_MODULUS = 65521
MOST_EXTENDED_BYTES = 1 << 20
MOST_PADDING_BYTES = 1 << 20
MOST_IN_RUN = 4096
_REGULAR = frozenset(tarfile.REGULAR_TYPES)
_KNOWN = frozenset(tarfile.SUPPORTED_TYPES)
_EXTENDED = frozenset(
    (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
)


class Member(NamedTuple):
    """A member: name without `.` parts, tar type flag, size and offset of its content in bytes, link target."""

    name: str
    type: bytes
    size: int
    offset: int
    link: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the member has content of its own."""
        return self.type in _REGULAR

    @property
    def is_link(self) -> bool:
        """Whether the member stands for another one of the same archive."""
        return self.type in (tarfile.LNKTYPE, tarfile.SYMTYPE)


class Run(NamedTuple):
    """Ordinary files that follow each other: plain names without folders, offsets and sizes of their content."""

    names: list[str]
    offsets: list[int]
    sizes: list[int]

    def members(self) -> Iterator[Member]:
        """The same files one by one."""
        for name, offset, size in zip(self.names, self.offsets, self.sizes, strict=True):
            yield Member(name, tarfile.REGTYPE, size, offset)


def tar_members(source: SeekSource, start: int, end: int, inside: str = "") -> Iterator[Member]:
    """All members of the tar that fills bytes `start` to `end` of the source, in archive order.

    `inside` names the member that holds an inner tar, for messages. Raises CompanionError, naming archive, member and
    byte, for a truncated, damaged or compressed archive, a member with an absolute or `..` path, and sparse members.
    """
    for part in _Walk(source, start, end, inside).parts(runs=False):
        assert isinstance(part, Member)
        yield part


def tar_parts(source: SeekSource, start: int, end: int, inside: str = "") -> Iterator[Member | Run]:
    """Like `tar_members`, but with runs of ordinary files as one `Run`, which takes about half the time.

    The headers of a run are all read before its files are handed out, so the caller cannot read from the files in
    between.
    """
    return _Walk(source, start, end, inside).parts(runs=True)


class _Walk:
    def __init__(self, source: SeekSource, start: int, end: int, inside: str) -> None:
        self.source, self.start, self.end = source, start, end
        self.where = f"{source.path}, inner tar {inside}" if inside else source.path
        # Fields that seldom differ from one member to the next (mode, owner, type, device), as TarInfo accepted them.
        self._usual_owner, self._usual_end, self._usual_time = b"", b"", b""
        self._ahead: dict[int, bytes] = {}  # headers that a run read and did not take; a source cannot go back

    def parts(self, *, runs: bool) -> Iterator[Member | Run]:  # noqa: PLR0912 - one pass over the kinds of members
        offset, end = self.start, self.end
        read, quick, ahead = self._header, self._quick, self._ahead
        overrides: dict[str, str] = {}
        is_extended = False
        while True:
            if runs and self._usual_end and not is_extended and offset not in ahead:
                run, offset = self._run(offset)
                if run is not None:
                    yield run
                else:
                    runs = len(ahead) <= 1  # not taken although they looked ordinary: one by one from here on
            header = read(offset)
            if len(header) < BLOCK:
                self._fail_short(offset, header)
            content = offset + BLOCK
            ordinary = None if is_extended else quick(header)
            if ordinary is not None:
                name, size = ordinary
                if content + size > end:
                    self._fail_member(offset, name)
                if "/" in name or name[0] == ".":
                    name = self._clean(name, offset)
                yield Member(name, tarfile.REGTYPE, size, content)
                offset = content + ((size + BLOCK - 1) & -BLOCK)
                continue
            if header[0] == 0 and not header.strip(b"\0"):
                if is_extended:
                    self._fail(offset, "ends after an extended header that describes no member")
                self._check_end(offset)
                return
            name, kind, size, link = self._parsed(header, offset)
            if kind in _EXTENDED:
                self._extended(kind, content, size, overrides)
                is_extended = True
                offset = content + _padded(size)
                continue
            if overrides:
                name, link = overrides.get("path", name), overrides.get("linkpath", link)
                size = int(overrides.get("size", size))
                overrides = {}
            is_extended = False
            # Links, folders and devices have no content, whatever their size says.
            length = size if kind in _REGULAR or kind not in _KNOWN else 0
            if content + length > self.end:
                self._fail_member(offset, name)
            yield Member(self._clean(name, offset), kind, length, content, link)
            offset = content + _padded(length)

    def _header(self, offset: int) -> bytes:
        header = self._ahead.pop(offset, None)
        return self.source.read(offset, max(0, min(BLOCK, self.end - offset))) if header is None else header

    def _run(self, offset: int) -> tuple[Run | None, int]:
        """The ordinary files from `offset` on, and where the next header stands.

        An unusual header ends the run and is left in `_ahead` for the walk; so is the whole run if a check of all its
        headers fails.
        """
        read, end, usual_end, usual_owner = self.source.read, self.end, self._usual_end, self._usual_owner
        headers: list[bytes] = []
        offsets: list[int] = []
        sizes: list[int] = []
        begin, last = offset, end - BLOCK
        for _ in range(MOST_IN_RUN):
            header = read(offset, BLOCK if offset <= last else max(0, end - offset))
            if header[156:] != usual_end or header[100:124] != usual_owner:
                break
            try:
                size = int(header[124:135], 8)
            except ValueError:
                break
            content = offset + BLOCK
            if size < 0 or content + size > end:
                break
            headers.append(header)
            offsets.append(content)
            sizes.append(size)
            offset = content + ((size + BLOCK - 1) & -BLOCK)
        else:
            header = None
        if header is not None:
            self._ahead[offset] = header
        if not headers:
            return None, offset
        names = _plain_names(headers)
        if names is None:
            self._ahead.update((content - BLOCK, taken) for content, taken in zip(offsets, headers, strict=True))
            return None, begin
        return Run(names, offsets, sizes), offset

    def _quick(self, header: bytes) -> tuple[str, int] | None:
        """Name and size of an ordinary file, or None if anything in its header is unusual."""
        if header[156:] != self._usual_end or header[100:124] != self._usual_owner:
            return None
        name_end = header.find(b"\0", 0, 100)
        blanked = header[:148] + b"        " + header[156:]  # the checksum counts its own field as spaces
        try:
            # The sum of all bytes stays below Adler-32's modulus (see `_parsed`), so that its low half is that sum
            # plus 1. A base-256 number is not octal text and ends in the except clause.
            if int(header[148:155].rstrip(b"\0"), 8) != (zlib.adler32(blanked) & 0xFFFF) - 1:
                return None
            size = int(header[124:135], 8)
            if header[135] or size < 0:
                return None
            if header[136:148] != self._usual_time:
                int(header[136:147], 8)
                if header[147]:
                    return None
                self._usual_time = header[136:148]
            return (header[: 100 if name_end < 0 else name_end].decode(), size) if name_end else None
        except ValueError:
            return None

    def _parsed(self, header: bytes, offset: int) -> tuple[str, bytes, int, str]:
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError):
            self._fail_header(offset, header)
        if info.type == tarfile.GNUTYPE_SPARSE:
            self._fail(offset, f"stores member {info.name!r} as a sparse file; pack it again without --sparse")
        if info.size < 0:
            self._fail(offset, f"is damaged: member {info.name!r} has a negative size")
        rest = header[100:124] + header[156:]
        few_bytes = sum(rest) + 255 * (BLOCK - len(rest)) < ADLER_MODULUS
        if info.type == tarfile.REGTYPE and not header[345:500].strip(b"\0") and few_bytes:
            self._usual_owner, self._usual_end = header[100:124], header[156:]
        return info.name, info.type, info.size, info.linkname

    def _extended(self, kind: bytes, offset: int, size: int, overrides: dict[str, str]) -> None:
        """Read a GNU long name or pax header; of several, the one that stands first counts, as in `tarfile`."""
        if size > MOST_EXTENDED_BYTES:
            self._fail(offset, f"has an extended header of {size} bytes, more than any tool writes")
        if offset + _padded(size) > self.end:
            self._fail(offset, "is truncated inside an extended header")
        data = self.source.read(offset, _padded(size))
        if data[size:].strip(b"\0"):
            self._fail(offset, "is damaged: an extended header is longer than it says")
        data = data[:size]
        if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
            overrides.setdefault(key, data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"))
            return
        records = self._pax_records(data, offset)
        if sparse := [key for key in records if key.startswith("GNU.sparse.")]:
            self._fail(offset, f"stores a member as a sparse file ({sparse[0]}); pack it again without --sparse")
        kept = {key: records[key] for key in ("path", "linkpath", "size") if key in records}
        if kept and kind == tarfile.XGLTYPE:
            self._fail(offset, f"gives all its members one {next(iter(kept))} in a global pax header; pack it again")
        if not kept.get("size", "0").isascii() or not kept.get("size", "0").isdigit():
            self._fail(offset, f"is damaged: a pax header gives the size {kept['size']!r}")
        for key, value in kept.items():
            overrides.setdefault(key, value)

    def _pax_records(self, data: bytes, offset: int) -> dict[str, str]:
        r"""The `LENGTH KEY=VALUE\n` records of a pax header (POSIX.1-2001, section "pax Header Block")."""
        records, at = {}, 0
        data = data.rstrip(b"\0")
        while at < len(data):
            digits, blank, _ = data[at : at + 20].partition(b" ")
            length = int(digits) if blank and digits.isdigit() else 0
            key, equals, value = data[at + len(digits) + 1 : at + length - 1].partition(b"=")
            if length < 5 or at + length > len(data) or data[at + length - 1 : at + length] != b"\n" or not equals:
                self._fail(offset, "is damaged: a pax header does not consist of whole records")
            if not key or b"\0" in key or (key in (b"path", b"linkpath") and b"\0" in value):
                self._fail(offset, "is damaged: a pax header holds a NUL byte or an empty key")
            records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            at += length
        return records

    def _clean(self, name: str, offset: int) -> str:
        if name.startswith("/"):
            self._fail(offset, f"holds a member with an absolute path, {name!r}; pack it again with relative paths")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            self._fail(offset, f"holds a member outside its folder, {name!r}; pack it again without '..'")
        return "/".join(parts)

    def _check_end(self, offset: int) -> None:
        rest = self.end - offset
        if rest > MOST_PADDING_BYTES:
            self._fail(
                offset, f"is damaged: {rest:,} bytes lie after its end mark; compare digests, and name an intact copy"
            )
        if self.source.read(offset, rest).strip(b"\0"):
            what = "is damaged, or several archives in one: data follows its end mark"
            self._fail(offset, f"{what}; compare digests, and name an intact copy, or pack its images into one archive")

    def _fail_member(self, offset: int, name: str) -> NoReturn:
        self._fail(offset, f"is truncated: member {name!r} ends after the archive's last byte; name an intact copy")

    def _fail_short(self, offset: int, header: bytes) -> NoReturn:
        if self.end == self.start:
            self._fail(offset, "is empty; name an intact copy, or leave it out")
        if offset == self.start and (packed := compression_of(header)):
            self._fail_compressed(offset, packed)
        self._fail(offset, "is truncated: it ends without the end mark of a tar; name an intact copy")

    def _fail_header(self, offset: int, header: bytes) -> NoReturn:
        if offset != self.start:
            self._fail(offset, "is damaged: a header is not valid; compare digests, and name an intact copy")
        if packed := compression_of(header):
            self._fail_compressed(offset, packed)
        way = option_for(header) or "check what was downloaded"
        self._fail(offset, f"is not a tar archive (it begins with {header[:16]!r}); {way}")

    def _fail_compressed(self, offset: int, packed: str) -> NoReturn:
        way = option_for_cifar(self.where) or "decompress it first"
        self._fail(offset, f"is compressed with {packed}, so its images are not byte ranges; {way}")

    def _fail(self, offset: int, what: str) -> NoReturn:
        raise CompanionError(f"{self.where} {what} (byte {offset})")


_OCTAL_FIELDS = np.r_[124:135, 136:147, 148:154]  # size, time of change, checksum
_NUL_FIELDS = np.array([135, 147, 154])
_CHECKSUM_POWERS = 8 ** np.arange(5, -1, -1)


def _plain_names(headers: list[bytes]) -> list[str] | None:
    """The names in headers whose rest is known to be ordinary, or None unless each of them is beyond doubt.

    Beyond doubt: octal fields of digits alone, a right checksum, an ASCII name without folder or leading dot.
    """
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK)
    octal = table[:, _OCTAL_FIELDS]
    if ((octal < ord("0")) | (octal > ord("7"))).any() or table[:, _NUL_FIELDS].any():
        return None
    # The checksum counts its own field of eight bytes as spaces.
    sums = table.sum(axis=1, dtype=np.uint32) - table[:, 148:156].sum(axis=1, dtype=np.uint32) + 8 * ord(" ")
    if (sums != (table[:, 148:154].astype(np.int64) - ord("0")) @ _CHECKSUM_POWERS).any():
        return None
    names = np.ascontiguousarray(table[:, :100])
    present = names != 0
    cut = (present[:, 1:] & ~present[:, :-1]).any() or not present[:, 0].all()
    if cut or (names > 127).any() or (names == ord("/")).any() or (names[:, 0] == ord(".")).any():
        return None
    return b"\0".join(names.view("S100").ravel().tolist()).decode("ascii").split("\0")


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK
