"""The tar reader against the standard library's `tarfile`: on ordinary, odd, damaged and random archives."""

import io
import random
import tarfile
from pathlib import Path

import pytest
from data_layouts import tar_bytes
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from repvgg_companion.data.index.source import HashedSource, SeekSource
from repvgg_companion.data.index.tar_members import Run, tar_members, tar_parts
from repvgg_companion.errors import CompanionError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


class _Memory:
    """A source over bytes that also checks that offsets rise, as a sequential pass needs."""

    path = "memory.tar"

    def __init__(self, data: bytes) -> None:
        self.data, self.last = data, 0

    def read(self, offset: int, count: int) -> bytes:
        assert offset >= self.last, "a sequential pass cannot go back"
        self.last = offset
        return self.data[offset : offset + count]


def _ours(data: bytes) -> list[tuple]:
    """Every member, on which both readers must agree: the one that reads one by one and the one that reads runs."""
    try:
        one_by_one, error = _told(tar_members(_Memory(data), 0, len(data))), ""
    except CompanionError as raised:
        one_by_one, error = [], str(raised)
    try:
        parts = list(tar_parts(_Memory(data), 0, len(data)))
        in_runs = [member for part in parts for member in (part.members() if isinstance(part, Run) else (part,))]
        assert not error and _told(in_runs) == one_by_one
    except CompanionError as raised:
        assert str(raised) == error
        raise
    return one_by_one


def _told(members) -> list[tuple]:
    return [
        (
            member.name,
            member.type,
            member.size if member.is_file else 0,
            member.offset,
            member.link if member.is_link else "",
        )
        for member in members
    ]


def _theirs(data: bytes) -> list[tuple]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return [
            (
                "/".join(part for part in member.name.split("/") if part not in ("", ".")),
                member.type,
                member.size if member.isreg() else 0,
                member.offset_data,
                member.linkname if member.islnk() or member.issym() else "",
            )
            for member in archive
        ]


def _archive(fmt: int, members: list[tuple[tarfile.TarInfo, bytes]], **options) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=fmt, **options) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def _odd_members() -> list[tuple[tarfile.TarInfo, bytes]]:
    long = "folder/" * 20 + "n" * 120 + ".JPEG"
    return [
        (_info("./a.JPEG", 5, mtime=0), b"12345"),
        (_info("empty.JPEG"), b""),
        (_info("block.JPEG", 512), b"b" * 512),
        (_info("folder", kind=tarfile.DIRTYPE), b""),
        (_info(long, 700, mtime=1_700_000_000), b"l" * 700),
        (_info("link.JPEG", kind=tarfile.LNKTYPE, linkname=long), b""),
        (_info("soft.JPEG", kind=tarfile.SYMTYPE, linkname="../" + "t" * 150), b""),
        (_info("näme-日本.JPEG", 3, uname="ü" * 20), b"abc"),
        (_info("owner.JPEG", 3, uid=3_000_000, gid=4_000_000, mtime=1.0), b"abc"),
        (_info("fifo", kind=tarfile.FIFOTYPE), b""),
        (_info("contiguous.JPEG", 4, kind=tarfile.CONTTYPE), b"cont"),
        (_info("name-of-exactly-100-characters-" + "x" * 64 + ".JPEG", 2), b"zz"),
        (_info("._fork.JPEG", 2), b"zz"),
    ]


@pytest.mark.parametrize("fmt", ["gnu", "pax"])
def test_agrees_with_tarfile_on_odd_members(fmt):
    data = _archive(FORMATS[fmt], _odd_members())
    assert _ours(data) == _theirs(data)


def test_agrees_with_tarfile_on_ustar_prefixes_and_old_v7_folders():
    short = [
        (info, content)
        for info, content in _odd_members()
        if len(info.name) < 90 and info.name.isascii() and info.uid < 2_000_000 and len(info.linkname) < 90
    ]
    short += [(_info("p" * 90 + "/" + "q" * 90, 3), b"abc")]
    data = bytearray(_archive(tarfile.USTAR_FORMAT, short))
    assert _ours(bytes(data)) == _theirs(bytes(data))
    old = bytearray(_archive(tarfile.USTAR_FORMAT, [(_info("old/", 0), b""), (_info("f.JPEG", 1), b"x")]))
    _set_type(old, 0, b"\0")
    assert _ours(bytes(old)) == _theirs(bytes(old)) and _ours(bytes(old))[0][1] == tarfile.DIRTYPE


def _set_type(data: bytearray, header: int, kind: bytes) -> None:
    data[header + 156 : header + 157] = kind
    _mend_checksum(data, header)


def _mend_checksum(data: bytearray, header: int) -> None:
    total = sum(data[header : header + 512]) - sum(data[header + 148 : header + 156]) + 256
    data[header + 148 : header + 156] = b"%06o\0 " % total


def test_a_pax_size_beyond_the_header_field_counts():
    headers = {"size": "700", "comment": "anything = at all", "mtime": "1.5"}
    info = _info("big.JPEG", 0)
    info.pax_headers = headers
    stream = io.BytesIO()
    stream.write(info.tobuf(tarfile.PAX_FORMAT))
    stream.write(b"d" * 700 + bytes(1024 - 700))
    stream.write(tar_bytes([("next.JPEG", b"n")]))
    data = stream.getvalue()
    assert _ours(data) == _theirs(data)
    assert _ours(data)[0][2] == 700


def test_a_base_256_size_counts():
    data = bytearray(_archive(tarfile.GNU_FORMAT, [(_info("a.JPEG", 600), b"x" * 600), (_info("b.JPEG", 1), b"y")]))
    data[124:136] = b"\x80" + (600).to_bytes(11, "big")
    _mend_checksum(data, 0)
    assert _ours(bytes(data)) == _theirs(bytes(data)) and len(_ours(bytes(data))) == 2


def test_harmless_global_pax_headers_are_skipped_and_others_refused():
    info = (_info("a.JPEG", 1), b"x")
    data = _archive(tarfile.PAX_FORMAT, [info], pax_headers={"comment": "made by git archive"})
    assert _ours(data) == _theirs(data)
    with pytest.raises(CompanionError, match="global pax header"):
        _ours(_archive(tarfile.PAX_FORMAT, [info], pax_headers={"path": "b.JPEG"}))


def test_sparse_members_are_refused():
    data = bytearray(_archive(tarfile.GNU_FORMAT, [(_info("a.JPEG", 600), b"x" * 600)]))
    _set_type(data, 0, tarfile.GNUTYPE_SPARSE)
    with pytest.raises(CompanionError, match="sparse"):
        _ours(bytes(data))
    info = _info("a.JPEG", 3)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.size": "10"}
    with pytest.raises(CompanionError, match="sparse"):
        _ours(_archive(tarfile.PAX_FORMAT, [(info, b"abc")]))


@pytest.mark.parametrize("name", ["../up.JPEG", "a/../../up.JPEG", "/etc/passwd.JPEG", "..", "./../x"])
@pytest.mark.parametrize("fmt", ["gnu", "pax"])
def test_paths_out_of_the_folder_are_refused(name, fmt):
    data = _archive(FORMATS[fmt], [(_info("good.JPEG", 1), b"x"), (_info(name, 1), b"x")])
    with pytest.raises(CompanionError, match=r"absolute path|outside its folder"):
        _ours(data)
    long = _archive(FORMATS[fmt], [(_info("x" * 200 + "/../" + name.strip("/"), 1), b"x")])
    with pytest.raises(CompanionError, match="outside its folder"):
        _ours(long)


def test_every_truncation_is_noticed():
    """Cut anywhere before the end mark, tarfile often returns the members so far; here every cut is an error."""
    data = _archive(tarfile.PAX_FORMAT, _odd_members())
    end = max(offset + size for _, _, size, offset, _ in _theirs(data))
    end = -(-end // 512) * 512
    assert _ours(data[: end + 512]) == _theirs(data)
    for cut in [*range(0, end, 97), *range(0, end, 512), end - 1]:
        with pytest.raises(CompanionError, match=r"truncated|is empty|damaged"):
            _ours(data[:cut])


def test_a_hole_of_zeros_is_noticed():
    """A preallocated download: zeros from a header on look like the end of the archive."""
    members = [(_info(f"{number}.JPEG", 900), bytes([number]) * 900) for number in range(1, 9)]
    data = bytearray(_archive(tarfile.GNU_FORMAT, members))
    data[1536 * 3 : 1536 * 4] = bytes(1536)
    with pytest.raises(CompanionError, match="data follows its end mark"):
        _ours(bytes(data))
    assert len(_theirs(bytes(data))) == 3, "tarfile stops silently, which is why this is checked"
    with pytest.raises(CompanionError, match="bytes lie after its end mark"):
        _ours(_archive(tarfile.GNU_FORMAT, members) + bytes(2 << 20))


@pytest.mark.parametrize("inner", [False, True])
def test_members_of_inner_tars_have_absolute_offsets_however_the_file_is_read(tmp_path, inner):
    contents = {
        f"n{number:08d}_{image}.JPEG": random.Random(image).randbytes(image * 37)
        for number in (1, 2)
        for image in range(40)
    }
    tars = [
        (f"n{number:08d}.tar", tar_bytes([(name, data) for name, data in contents.items() if f"{number:08d}_" in name]))
        for number in (1, 2)
    ]
    path = tmp_path / "train.tar"
    path.write_bytes(tar_bytes(tars))
    raw = path.read_bytes()
    for make in (SeekSource, HashedSource):
        source = make(path)
        found = {}
        for outer in tar_members(source, 0, source.size):
            for member in tar_members(source, outer.offset, outer.offset + outer.size, outer.name):
                found[member.name] = raw[member.offset : member.offset + member.size]
        source.finish()
        assert found == contents


# --- random archives and random damage -------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30).filter(
    lambda name: name not in (".", "..") and name.strip()
)
PATHS = st.lists(NAMES, min_size=1, max_size=12).map("/".join)
MEMBERS = st.lists(
    st.tuples(
        PATHS,
        st.binary(max_size=1200),
        st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE]),
        st.integers(0, 2**33),
        st.integers(0, 2**22),
    ),
    min_size=1,
    max_size=6,
)
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("header"), st.integers(0, 40), st.integers(0, 511), st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("cut"), st.floats(0, 1)),
        st.tuples(st.just("zero"), st.integers(0, 40), st.integers(1, 3)),
        st.tuples(st.just("swap"), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("repeat"), st.integers(0, 40)),
        st.tuples(st.just("drop"), st.integers(0, 40)),
    ),
    min_size=1,
    max_size=4,
)


def _random_archive(members, fmt: str) -> bytes:
    infos = []
    for name, content, kind, mtime, uid in members:
        content = content if kind == tarfile.REGTYPE else b""
        infos.append(
            (_info(name, len(content), kind, mtime=mtime, uid=uid, linkname="target" * bool(not content)), content)
        )
    return _archive(FORMATS[fmt], infos)


def _mutated(data: bytes, mutations) -> bytes:
    """Damage blocks; a header that is damaged often gets a right checksum again, so that it is taken seriously."""
    changed = bytearray(data)
    for kind, *arguments in mutations:
        blocks = max(1, len(changed) // 512)
        if kind == "byte" and changed:
            changed[int(arguments[0] * (len(changed) - 1))] = arguments[1]
        elif kind == "header":
            block, at, content = arguments[0] % blocks * 512, *arguments[1:]
            at = min(at, 512 - len(content))
            if block + 512 <= len(changed):
                changed[block + at : block + at + len(content)] = content
                _mend_checksum(changed, block)
        elif kind == "cut":
            del changed[int(arguments[0] * len(changed)) :]
        elif kind == "zero":
            block = arguments[0] % blocks * 512
            changed[block : block + 512 * arguments[1]] = bytes(len(changed[block : block + 512 * arguments[1]]))
        elif kind == "swap":
            a, b = (place % blocks * 512 for place in arguments)
            changed[a : a + 512], changed[b : b + 512] = changed[b : b + 512], changed[a : a + 512]
        elif kind == "repeat":
            block = arguments[0] % blocks * 512
            changed[block:block] = changed[block : block + 512]
        elif kind == "drop":
            block = arguments[0] % blocks * 512
            del changed[block : block + 512]
    return bytes(changed)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(MEMBERS, st.sampled_from(["gnu", "pax"]))
def test_any_whole_archive_is_read_as_tarfile_reads_it(members, fmt):
    data = _random_archive(members, fmt)
    assert _ours(data) == _theirs(data)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(MEMBERS, st.sampled_from(["gnu", "pax"]), MUTATIONS)
@example([("a", b"x" * 10, tarfile.REGTYPE, 0, 0)], "gnu", [("header", 0, 124, b"00000001000")])
@example([("a", b"x" * 10, tarfile.REGTYPE, 0, 0)], "gnu", [("header", 0, 124, b"-0000000001")])
@example([("a" * 20, b"x" * 600, tarfile.REGTYPE, 2**40 % 2**33, 0)], "pax", [("header", 0, 156, b"x")])
def test_damage_is_either_refused_or_read_as_tarfile_reads_it(members, fmt, mutations):
    data = _mutated(_random_archive(members, fmt), mutations)
    try:
        ours = _ours(data)
    except CompanionError as error:
        assert "memory.tar" in str(error) and "byte" in str(error)
        return
    assert ours == _theirs(data)


ALIKE = st.lists(
    st.tuples(st.from_regex(r"\A[a-z][a-z0-9_]{0,60}\.JPEG\Z"), st.binary(max_size=1200)), max_size=12
).map(lambda files: [(name, content, tarfile.REGTYPE, 10**9, 0) for name, content in files])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(ALIKE, MEMBERS, ALIKE, st.sampled_from(["gnu", "pax"]), st.one_of(st.just([]), MUTATIONS))
@example([(f"n{i}.JPEG", b"x" * 600, tarfile.REGTYPE, 1, 0) for i in range(3)], [], [], "gnu",
         [("header", 4, 0, b"n\0dirt")])  # fmt: skip
@example([(f"n{i}.JPEG", b"x" * 600, tarfile.REGTYPE, 1, 0) for i in range(3)], [], [], "gnu",
         [("header", 4, 1, b"/")])  # fmt: skip
@example([(f"n{i}.JPEG", b"x" * 600, tarfile.REGTYPE, 1, 0) for i in range(3)], [], [], "gnu",
         [("byte", 0.2, 7)])  # fmt: skip
def test_runs_of_ordinary_files_end_where_something_unusual_or_damaged_stands(first, odd, last, fmt, mutations):
    data = _mutated(_random_archive([*first, *odd, *last], fmt), mutations)
    try:
        ours = _ours(data)
    except CompanionError:
        return
    assert ours == _theirs(data)


def test_a_run_is_one_part_and_is_cut_at_a_bound(monkeypatch):
    files = [(_info(f"n{i:03d}.JPEG", 600), b"x" * 600) for i in range(40)]
    data = _archive(FORMATS["gnu"], files)
    first, run = tar_parts(_Memory(data), 0, len(data))
    assert first.name == "n000.JPEG" and run.names == [f"n{i:03d}.JPEG" for i in range(1, 40)]
    monkeypatch.setattr("repvgg_companion.data.index.tar_members.MOST_IN_RUN", 16)
    assert [len(part.names) for part in tar_parts(_Memory(data), 0, len(data)) if isinstance(part, Run)] == [16, 16, 5]
    assert len(_ours(data)) == 40


def test_messages_name_archive_inner_tar_and_byte(tmp_path: Path):
    inner = tar_bytes([("n01440764_1.JPEG", b"x" * 3000)])[:2000]
    path = tmp_path / "train.tar"
    path.write_bytes(tar_bytes([("n01440764.tar", inner)]))
    source = SeekSource(path)
    (outer,) = tar_members(source, 0, source.size)
    with pytest.raises(CompanionError) as caught:
        list(tar_members(source, outer.offset, outer.offset + outer.size, outer.name))
    source.close()
    assert str(path) in str(caught.value) and "n01440764.tar" in str(caught.value) and "(byte 512)" in str(caught.value)
