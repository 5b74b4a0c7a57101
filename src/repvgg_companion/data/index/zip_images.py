"""The images of a zip: path, byte offset and length of each, stored or compressed."""

import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.data.images import Image
from repvgg_companion.data.index.findings import Findings
from repvgg_companion.data.index.links import Link, add_latest, resolve_links, symbolic
from repvgg_companion.data.index.source import TAR_WAY, SeekSource
from repvgg_companion.errors import CompanionError, one_line

LOCAL_HEADER_BYTES = 30
ENCRYPTED_FLAGS = 0x1 | 0x40
PATCH_FLAG = 0x20
UTF8_FLAG = 0x800
# What `zipfile` and its decompressors raise on damaged, foreign or encrypted content.
UNREADABLE_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class ZipContent:
    """A zip: its images and its text files.

    An image that is compressed inside the zip has the offset -1 - h, where h is the offset of its local header: it is
    no byte range, and `read_images` reads it.
    """

    path: str
    stamp: tuple[int, int]
    images: list[Image]
    texts: dict[str, str]


def images_of_zip(path: str | Path, texts: tuple[str, ...], findings: Findings) -> ZipContent:
    """Read a zip's directory; `texts` are the base names of files whose content is wanted.

    Raises CompanionError if it is damaged, encrypted, or names a path outside its folder.
    """
    source = SeekSource(path)
    images: dict[str, Image] = {}
    others: dict[str, zipfile.ZipInfo] = {}
    links: list[Link] = []
    contents: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # Some Windows programs separate folders by backslashes, against the standard.
            separator = "/" if any("/" in info.filename for info in members) else "\\"
            for info in members:
                name = _clean_name(path, info, separator)
                if info.filename.endswith(separator):
                    findings.see(name)
                elif stat.S_ISLNK(info.external_attr >> 16):
                    links.append(symbolic(name, archive.read(info).decode()))
                elif name.rpartition("/")[2] in texts:
                    contents[name] = archive.read(info).decode("utf-8", "replace")
                elif findings.takes(name):
                    add_latest(images, _located(source, info, name), findings)
                else:
                    others[name] = info
            if links:
                found = {name: _located(source, info, name) for name, info in others.items()}
                resolve_links(links, images, found, findings, source.path)
    except UNREADABLE_ZIP as error:
        if tarfile.is_tarfile(path):
            raise CompanionError(f"{path} is a tar, not a zip; {TAR_WAY}") from None
        raise CompanionError(f"{path} is not readable as a zip ({one_line(error)}); name an intact copy") from None
    finally:
        source.close()
    return ZipContent(source.path, source.stamp, list(images.values()), contents)


def read_images(archive: zipfile.ZipFile, images: list[Image]) -> Iterator[tuple[Image, bytes]]:
    """Images of a zip, stored or compressed, with their bytes; raises CompanionError if one cannot be read."""
    members = {info.header_offset: info for info in archive.infolist()}
    assert archive.fp is not None
    for image in images:
        try:
            if image.offset < 0:
                content = archive.read(members[-1 - image.offset])
            else:
                content = os.pread(archive.fp.fileno(), image.length, image.offset)
        except (*UNREADABLE_ZIP, KeyError) as error:
            raise CompanionError(
                f"{image.file}: {image.path} cannot be read ({one_line(error)}); name an intact copy"
            ) from None
        yield image, content


def _clean_name(path: str | Path, info: zipfile.ZipInfo, separator: str) -> str:
    if not info.filename:
        raise zipfile.BadZipFile(f"the member at byte {info.header_offset} has no name")
    parts = [part for part in info.filename.split(separator) if part not in ("", ".")]
    if info.filename.startswith(separator) or ".." in parts:
        raise CompanionError(f"{path} holds a member outside its folder, {info.filename!r}; pack it again without it")
    if info.flag_bits & ENCRYPTED_FLAGS:
        raise CompanionError(f"{path} is encrypted (member {info.filename!r}); unpack it and name the folders instead")
    if info.flag_bits & PATCH_FLAG:
        raise zipfile.BadZipFile(f"member {info.filename!r} is a patch of another file")
    return "/".join(parts)


def _located(source: SeekSource, info: zipfile.ZipInfo, name: str) -> Image:
    """The image's byte range, or for a compressed one the place of its header (see `ZipContent`)."""
    if info.compress_type != zipfile.ZIP_STORED:
        return Image(name, source.path, -1 - info.header_offset, info.file_size)
    header = source.read(info.header_offset, LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"no local header of {name!r} at byte {info.header_offset}")
    # The local copy of name and extra field can differ in length from those in the directory.
    name_bytes, extra_bytes = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    encoding = "utf-8" if int.from_bytes(header[6:8], "little") & UTF8_FLAG else "cp437"
    local_name = source.read(info.header_offset + len(header), name_bytes).decode(encoding, "replace")
    if local_name != info.orig_filename:
        raise zipfile.BadZipFile(f"{name!r} is called {local_name!r} at byte {info.header_offset}")
    offset = info.header_offset + len(header) + name_bytes + extra_bytes
    if info.file_size != info.compress_size or offset + info.file_size > source.size:
        raise zipfile.BadZipFile(f"member {name!r} ends after the archive's last byte")
    return Image(name, source.path, offset, info.file_size)
