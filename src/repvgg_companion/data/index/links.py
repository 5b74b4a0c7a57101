"""Links inside an archive: each gets the bytes of what it names, as if the archive were extracted."""

import posixpath
from collections.abc import Mapping
from typing import NamedTuple

from repvgg_companion.data.images import Image
from repvgg_companion.data.index.findings import IMAGE_SUFFIXES, Findings, foreign_part
from repvgg_companion.errors import CompanionError


class Link(NamedTuple):
    """A link at `name` to `target`, both as paths from the archive's root."""

    name: str
    target: str


def symbolic(name: str, target: str) -> Link:
    """A symbolic link, whose target is given as seen from the link's own folder."""
    return Link(name, posixpath.normpath(posixpath.join(posixpath.dirname(name), target)))


def resolve_links(
    links: list[Link], images: dict[str, Image], others: Mapping[str, Image], findings: Findings, where: str
) -> None:
    """Add to `images` what the links name: an image, another file of `others`, or all images of a folder.

    Links to links are followed. Raises CompanionError for a link with the name of an image that leads nowhere, and for
    a link to a folder around it.
    """
    links = [link for link in links if findings.enters(link.name)]
    resolved: set[Link] = set()
    # A link may need another one to be resolved first, so a chain of n links takes n rounds, and only a circle more.
    for _ in range(len(links) + 1):
        before = len(images), len(resolved)
        for link in links:
            if link.target == "." or f"{link.name}/".startswith(f"{link.target}/"):
                raise CompanionError(around(where, link.name))
            if _resolve(link, images, others, findings):
                resolved.add(link)
        if before == (len(images), len(resolved)):
            break
    else:
        raise CompanionError(around(where, links[0].name))
    for link in links:
        if link in resolved:
            findings.links.add(link.name)
        elif findings.takes(link.name):
            raise CompanionError(no_image(where, link.name, link.target))


def no_image(where: str, name: str, target: str) -> str:
    """The sentence about a link with the name of an image that leads nowhere."""
    return (
        f"{where} holds a link {name!r} to {target!r}, where there is no image; complete it, or store the image itself"
    )


def around(where: str, name: str) -> str:
    """The sentence about a link to a folder around it."""
    return f"{where} holds a link {name!r} to a folder that holds it, so the tree has no end; leave that link out"


def _resolve(link: Link, images: dict[str, Image], others: Mapping[str, Image], findings: Findings) -> bool:
    """Add what a link names so far; returns whether it names anything that belongs to the dataset."""
    found = images.get(link.target) or others.get(link.target)
    if found is not None:
        if not link.name.lower().endswith(IMAGE_SUFFIXES):
            return False
        images[link.name] = found._replace(path=link.name)
        return True
    inside = f"{link.target}/"
    below = {path.removeprefix(inside): image for path, image in images.items() if path.startswith(inside)}
    for name, image in below.items():
        if not foreign_part(name):
            images[f"{link.name}/{name}"] = image._replace(path=f"{link.name}/{name}")
    if not below and link.target in findings.folders:
        findings.see(link.name)
        return True
    return bool(below)


def add_latest(images: dict[str, Image], image: Image, findings: Findings, folder: str = "") -> None:
    """Add an image; of two with one path the later one stays, as when an archive is extracted."""
    if image.path in images:
        findings.duplicates.add(f"{folder}/{image.path}" if folder else image.path)
        del images[image.path]
    images[image.path] = image
