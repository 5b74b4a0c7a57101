"""Where the images of a manifest were when it was written, and where to look for them now."""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """How a manifest was made.

    `options` are the options of the verb `index`; `places` holds the path of each source as it was given, by its
    absolute path.
    """

    options: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    def found(self, path: str, manifest: str, stamp: tuple[int, int] | None) -> str:
        """Where the archive or image file `path` is now; `path` itself if it is in no other place.

        Looked for first under the path that was given, relative to the working folder, then beside the manifest (where
        copies of compressed images are), then at the absolute path. An archive must have its `stamp`.
        """
        for place in self._other_places(path, manifest, stamp):
            if _is_the_same(place, stamp):
                return place
        return path

    def _other_places(self, path: str, manifest: str, stamp: tuple[int, int] | None) -> Iterator[str]:
        for absolute, given in self.places.items():
            now = os.path.abspath(given)  # noqa: PTH100 - Path.resolve would follow links
            if now != absolute and (path == absolute or path.startswith(f"{absolute}/")):
                yield now + path[len(absolute) :]
        if stamp is not None and path not in self.places and manifest:
            yield str(Path(manifest).absolute().with_name(Path(path).name))

    def moved(self, manifest: str) -> str:
        """What to do about images that are not where they were, for the end of a sentence."""
        if not self.options:
            return "put it back, or index the images at their new place"
        command = shlex.join(["python", "-m", "repvgg_companion", "index", "--output", str(Path(manifest).parent)])
        return f"put it back, or run this with the new path: {command} {shlex.join(self.options)}"


def _is_the_same(place: str, stamp: tuple[int, int] | None) -> bool:
    try:
        status = os.stat(place)  # noqa: PTH116
    except OSError:
        return False
    return stamp is None or (status.st_size, status.st_mtime_ns) == tuple(stamp)
