"""The images of a tar, also of a tar of tars: path, byte offset and length of each, without extraction."""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

from repvgg_companion.data.images import Folders, Image, ImageColumns, add_to_folder, whole_paths
from repvgg_companion.data.index.findings import Findings, is_foreign
from repvgg_companion.data.index.links import Link, add_latest, resolve_links, symbolic
from repvgg_companion.data.index.source import SeekSource
from repvgg_companion.data.index.tar_members import Member, Run, tar_members, tar_parts


def images_of_tar(source: SeekSource, loose: Folders, findings: Findings) -> Iterator[tuple[str, list[Image]]]:
    """(Path of the inner tar, its images) for each inner tar; images outside of inner tars are added to `loose`."""
    links: list[Link] = []
    others = ImageColumns()
    for member in tar_members(source, 0, source.size):
        source.reached(member.offset)
        if member.is_file and member.name.lower().endswith(".tar"):
            if _holds_images(member.name, findings):
                yield member.name, _images_of_inner_tar(source, member, findings)
        elif member.is_file and findings.takes(member.name):
            add_to_folder(loose, member.name, source.path, member.offset, member.size)
        else:
            _set_aside(member, source.path, links, others, findings)
    for folder, columns in loose.items():
        if len(set(columns.each_path())) < len(columns):
            latest: dict[str, Image] = {}
            for image in columns:
                add_latest(latest, image, findings, folder)
            loose[folder] = ImageColumns(latest.values())
    if links:
        images = {image.path: image for image in whole_paths(loose)}
        resolve_links(links, images, {image.path: image for image in others}, findings, source.path)
        loose.clear()
        for image in images.values():
            add_to_folder(loose, *image)


def _holds_images(path: str, findings: Findings) -> bool:
    """Whether an inner tar is a class, and not a hidden or foreign file; `lost+found.tar` is not a class."""
    without_suffix = path[: -len(".tar")]
    return findings.enters(without_suffix if is_foreign(without_suffix.rpartition("/")[2]) else path)


def _images_of_inner_tar(source: SeekSource, inner: Member, findings: Findings) -> list[Image]:
    images: dict[str, Image] = {}
    links: list[Link] = []
    others = ImageColumns()
    path = source.path
    findings = replace(findings, folders={}, labels=[])  # folders inside a class are not classes
    for part in tar_parts(source, inner.offset, inner.offset + inner.size, inside=inner.name):
        if isinstance(part, Run):
            names = part.names
            fresh = dict(zip(names, map(Image, names, repeat(path), part.offsets, part.sizes), strict=False))
            plain = all(name.endswith(".JPEG") for name in names)
            if plain and len(fresh) == len(names) and images.keys().isdisjoint(fresh):
                images |= fresh
                continue
        for member in part.members() if isinstance(part, Run) else (part,):
            if member.is_file and findings.takes(member.name):
                add_latest(images, Image(member.name, path, member.offset, member.size), findings)
            else:
                _set_aside(member, path, links, others, findings)
    if links:
        resolve_links(links, images, {image.path: image for image in others}, findings, f"{path}, {inner.name},")
    return list(images.values())


def _set_aside(member: Member, path: str, links: list[Link], others: ImageColumns, findings: Findings) -> None:
    """Keep what is not an image itself: links, the files that they may name, and folders."""
    if member.type == tarfile.LNKTYPE:  # a hard link names its target from the archive's root
        links.append(Link(member.name, posixpath.normpath(member.link)))
    elif member.is_link:
        links.append(symbolic(member.name, member.link))
    elif member.is_file:
        try:
            others.append(member.name, path, member.offset, member.size)
        except UnicodeEncodeError:
            return  # no link to it can be kept either
    elif member.type == tarfile.DIRTYPE:
        findings.see(member.name)
