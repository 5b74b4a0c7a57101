"""The images of one archive or folder, whatever its form: `Image`s with path, file, byte offset and length.

In: a tar (also of tars), a zip or a folder. Out: images by inner tar or folder, and what was left out on the way.
"""

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

from repvgg_companion.data.images import Folders, Image, ImageColumns, Tally, add_to_folder, whole_paths
from repvgg_companion.data.index.source import SeekSource
from repvgg_companion.data.index.tar_members import Member, Run, tar_members, tar_parts
from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.progress import Progress

# torchvision's datasets/folder.py, IMG_EXTENSIONS
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
ZIP_LOCAL_HEADER_BYTES = 30
ZIP_ENCRYPTED_FLAGS = 0x1 | 0x40
ZIP_PATCH_FLAG = 0x20
ZIP_UTF8_FLAG = 0x800
IMAGES_AT_ONCE = 1000
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


@dataclass
class Findings:
    """What a reader left out or settled, for the notes beside the manifest."""

    ignored: Tally = field(default_factory=Tally)
    links: Tally = field(default_factory=Tally)
    duplicates: Tally = field(default_factory=Tally)

    def notes(self) -> list[str]:
        """One sentence for each kind of finding."""
        kinds = (
            (self.ignored, "files that are no images were left out"),
            (self.links, "links were resolved to the images that they name"),
            (self.duplicates, "names stood twice; the later content counts, as in an extracted archive"),
        )
        return [f"{found.count} {what}, the first {found.first!r}" for found, what in kinds if found.count]


def is_image(path: str, findings: Findings) -> bool:
    """Whether a path names an image; macOS resource forks (`._name`) and hidden files do not."""
    if path.endswith(".JPEG") and "/" not in path and path[0] != ".":  # nearly all of ImageNet
        return True
    base = path.rpartition("/")[2]
    if base.lower().endswith(IMAGE_SUFFIXES) and not base.startswith(".") and not path.startswith("__MACOSX/"):
        return True
    findings.ignored.add(path)
    return False


def images_of_tar(source: SeekSource, others: Folders, findings: Findings) -> Iterator[tuple[str, list[Image]]]:
    """(Path of the inner tar, its images) for each inner tar; images outside of these are added to `others`."""
    links: list[Member] = []
    for member in tar_members(source, 0, source.size):
        source.reached(member.offset)
        if member.is_file and member.name.lower().endswith(".tar") and not _hidden(member.name):
            yield member.name, _images_of_inner_tar(source, member, findings)
        elif member.is_link:
            links.append(member)
        elif member.is_file and is_image(member.name, findings):
            add_to_folder(others, member.name, source.path, member.offset, member.size)
    for folder, columns in others.items():
        if len(set(columns.each_path())) < len(columns):
            latest: dict[str, Image] = {}
            for image in columns:
                _add(latest, image, findings, folder)
            others[folder] = ImageColumns(latest.values())
    if links:
        images = {image.path: image for image in whole_paths(others)}
        _resolve_links(source, links, images, findings)
        others.clear()
        for image in images.values():
            add_to_folder(others, *image)


def _images_of_inner_tar(source: SeekSource, inner: Member, findings: Findings) -> list[Image]:
    images: dict[str, Image] = {}
    links: list[Member] = []
    path = source.path
    for part in tar_parts(source, inner.offset, inner.offset + inner.size, inside=inner.name):
        if isinstance(part, Run):
            names = part.names
            fresh = dict(zip(names, map(Image, names, repeat(path), part.offsets, part.sizes)))
            plain = all(name.endswith(".JPEG") for name in names)
            if plain and len(fresh) == len(names) and images.keys().isdisjoint(fresh):
                images |= fresh
                continue
        for member in part.members() if isinstance(part, Run) else (part,):
            if member.is_file:
                if is_image(member.name, findings):
                    _add(images, Image(member.name, path, member.offset, member.size), findings)
            elif member.is_link:
                links.append(member)
    _resolve_links(source, links, images, findings)
    return list(images.values())


def _add(images: dict[str, Image], image: Image, findings: Findings, folder: str = "") -> None:
    if image.path in images:
        findings.duplicates.add(f"{folder}/{image.path}" if folder else image.path)
        del images[image.path]
    images[image.path] = image


def _resolve_links(source: SeekSource, links: list[Member], images: dict[str, Image], findings: Findings) -> None:
    """Give links to images the bytes of their targets: an archive of a tree with hard links has such members."""
    for link in links:
        if not is_image(link.name, findings):
            continue
        # A hard link names its target from the archive's root, a symbolic link from its own folder.
        target = link.link if link.type == b"1" else os.path.join(os.path.dirname(link.name), link.link)  # noqa: PTH118, PTH120
        found = images.get(os.path.normpath(target))
        if found is None:
            raise CompanionError(
                f"{source.path} holds a link {link.name!r} to {link.link!r}, which is no image before it; "
                "pack the archive again with --dereference"
            )
        findings.links.add(link.name)
        _add(images, found._replace(path=link.name), findings)


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".") or path.startswith("__MACOSX/")


@dataclass(frozen=True)
class ZipContent:
    """A zip: its images, its text files, and the names that images have inside where those are not plain paths.

    An image that is compressed inside the zip has the offset -1, because it is no byte range.
    """

    path: str
    stamp: tuple[int, int]
    images: list[Image]
    texts: dict[str, str]
    original_names: dict[str, str]


def images_of_zip(path: str | Path, texts: tuple[str, ...], findings: Findings) -> ZipContent:
    """Read a zip's directory; `texts` are the base names of files whose content is wanted.

    Raises CompanionError where it is damaged, encrypted, or names a path outside its folder.
    """
    source = SeekSource(path)
    try:
        with zipfile.ZipFile(path) as archive:
            images, contents, original_names = {}, {}, {}
            for info in archive.infolist():
                if not info.filename:
                    raise zipfile.BadZipFile(f"the member at byte {info.header_offset} has no name")
                if info.is_dir():
                    continue
                name = _clean_zip_name(path, info)
                if name.rpartition("/")[2] in texts:
                    contents[name] = archive.read(info).decode("utf-8", "replace")
                elif is_image(name, findings):
                    _add(images, _stored(source, info, name), findings)
                    if name != info.filename:
                        original_names[name] = info.filename
    except UNREADABLE_ZIP as error:
        raise CompanionError(f"{path} is not readable as a zip ({one_line(error)}); get it again") from None
    finally:
        source.close()
    return ZipContent(source.path, source.stamp, list(images.values()), contents, original_names)


def _clean_zip_name(path: str | Path, info: zipfile.ZipInfo) -> str:
    parts = [part for part in info.filename.split("/") if part not in ("", ".")]
    if info.filename.startswith("/") or ".." in parts:
        raise CompanionError(f"{path} holds a member outside its folder, {info.filename!r}; pack it again without it")
    if info.flag_bits & ZIP_ENCRYPTED_FLAGS:
        raise CompanionError(f"{path} is encrypted (member {info.filename!r}); unpack it and name the folders instead")
    if info.flag_bits & ZIP_PATCH_FLAG:
        raise zipfile.BadZipFile(f"member {info.filename!r} is a patch of another file")
    return "/".join(parts)


def _stored(source: SeekSource, info: zipfile.ZipInfo, name: str) -> Image:
    """The image's byte range; the offset is -1 where it is compressed and has none."""
    if info.compress_type != zipfile.ZIP_STORED:
        return Image(name, source.path, -1, info.file_size)
    header = source.read(info.header_offset, ZIP_LOCAL_HEADER_BYTES)
    if len(header) < ZIP_LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"no local header of {name!r} at byte {info.header_offset}")
    # The local copy of name and extra field can differ in length from those in the directory.
    name_bytes, extra_bytes = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    encoding = "utf-8" if int.from_bytes(header[6:8], "little") & ZIP_UTF8_FLAG else "cp437"
    local_name = source.read(info.header_offset + len(header), name_bytes).decode(encoding, "replace")
    if local_name != info.orig_filename:
        raise zipfile.BadZipFile(f"{name!r} is called {local_name!r} at byte {info.header_offset}")
    offset = info.header_offset + len(header) + name_bytes + extra_bytes
    if info.file_size != info.compress_size or offset + info.file_size > source.size:
        raise zipfile.BadZipFile(f"member {name!r} ends after the archive's last byte")
    return Image(name, source.path, offset, info.file_size)


def images_of_folder(root: str | Path, findings: Findings) -> tuple[Folders, list[str]]:
    """The images under a folder (links followed) and the folders at its top, also those without images.

    Raises CompanionError where the folder does not exist, holds a name that is no UTF-8, a file that cannot be read, or
    a link to a folder around it.
    """
    top = Path(root).absolute()
    if not top.is_dir():
        raise CompanionError(f"folder {root} does not exist")
    scan = _Scan(findings)
    entries = _sorted_entries(str(top))
    # All that is known before is how many entries there are at the top: class folders, or images that lie flat.
    with Progress(f"index of {top.name}", total=len(entries), unit="entries") as scan.progress:
        for entry in entries:
            scan.entry(entry, "", str(top), (os.path.realpath(top),))
            scan.show(1)
    folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return scan.folders, folders


class _Scan:
    """The walk over a folder tree; `folders` is what it found."""

    progress: Progress

    def __init__(self, findings: Findings) -> None:
        self.folders: Folders = {}
        self.findings, self.images = findings, 0

    def show(self, entries: int) -> None:
        self.progress.note(f"{self.images:,} images")
        self.progress.advance(entries)

    def entry(self, entry: os.DirEntry, path: str, parent: str, above: tuple[str, ...]) -> None:
        """Take one entry of the folder `parent`; `path` is that folder below the top, `above` the real folders."""
        inner = f"{path}/{entry.name}" if path else entry.name
        if entry.is_dir():
            if not entry.name.startswith("."):
                self._folder(entry, inner, above)
        elif is_image(inner, self.findings):
            try:
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):
                    inner.encode()
                    add_to_folder(self.folders, inner, f"{parent}/", 0, status.st_size)
            except OSError as error:
                raise CompanionError(f"{entry.path} cannot be read: {error.strerror}; remove or mend it") from None
            except UnicodeEncodeError:
                raise CompanionError(f"{entry.path!r} is a name that is no UTF-8; rename it") from None
            self.images += 1
            if self.images % IMAGES_AT_ONCE == 0:  # one folder may hold all of them
                self.show(0)

    def _folder(self, entry: os.DirEntry, path: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(entry.path)
        if real in above:
            raise CompanionError(f"{entry.path} is a link to a folder that holds it; remove the link")
        for inner in _sorted_entries(entry.path):
            self.entry(inner, path, entry.path, (*above, real))


def _sorted_entries(folder: str) -> list[os.DirEntry]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
