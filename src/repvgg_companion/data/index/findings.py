"""What a reader of a dataset leaves out, and how it is counted: one rule for folders, tars, zips and Parquet shards.

Hidden files and folders (their name begins with a dot) and those that file systems and file managers add belong to no
dataset. Files whose suffix is not that of an image are left out too.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from repvgg_companion.data.images import Tally

# torchvision's datasets/folder.py, IMG_EXTENSIONS
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".cls", ".json", ".txt", ".label", ".labels", ".class", ".index", ".id", ".npy")
"""The suffixes of the files in WebDataset shards that hold the label of an image."""
MOST_LABELS = 16

FOREIGN = frozenset(
    {
        "__macosx",  # macOS, in zips
        "@eadir",  # Synology
        "@__thumb",  # QNAP
        "#recycle",
        "$recycle.bin",  # Windows
        "system volume information",
        "thumbs.db",
        "desktop.ini",
        "lost+found",  # ext4
    }
)
"""Names, in lower case, of files and folders that systems put beside the user's own."""


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden or made by a system, and so belongs to no dataset."""
    return name.startswith(".") or name.lower() in FOREIGN


@lru_cache(maxsize=1024)
def foreign_part(path: str) -> str:
    """The path up to its first hidden or foreign part; empty if it has none."""
    parts = path.split("/")
    for place, part in enumerate(parts, start=1):
        if is_foreign(part):
            return "/".join(parts[:place])
    return ""


@dataclass
class Findings:
    """What was left out or decided while indexing, for the notes beside the manifest.

    `folders` are the folders that were seen, except those of images; one of them may be a class without images.
    `labels` are the first files that may hold the label of an image beside them, as in a WebDataset shard.
    """

    others: Tally = field(default_factory=Tally)
    foreign: Tally = field(default_factory=Tally)
    links: Tally = field(default_factory=Tally)
    duplicates: Tally = field(default_factory=Tally)
    folders: dict[str, None] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    _last_foreign: str = ""

    def notes(self) -> list[str]:
        """One sentence for each kind of finding."""
        kinds = (
            (self.foreign, "hidden files, system files and folders of these were left out"),
            (self.others, "files that are not images were left out"),
            (self.links, "links were resolved to the images that they name"),
            (self.duplicates, "names occur twice; the later content counts, as in an extracted archive"),
        )
        return [f"{found.count} {what}, the first {found.first!r}" for found, what in kinds if found.count]

    def takes(self, path: str) -> bool:
        """Whether the file at `path` is an image of the dataset; counts it if not."""
        if path.endswith(".JPEG") and "/" not in path and path[0] != ".":  # nearly all of ImageNet
            return True
        folder, _, name = path.rpartition("/")
        if not self.enters(folder):
            return False
        if is_foreign(name):
            self._leave_out(path)
            return False
        if name.lower().endswith(IMAGE_SUFFIXES):
            return True
        self.others.add(path)
        if len(self.labels) < MOST_LABELS and name.lower().endswith(LABEL_SUFFIXES):
            self.labels.append(path)
        self.see(folder)
        return False

    def enters(self, folder: str) -> bool:
        """Whether a folder may hold images of the dataset; counts it if not."""
        if part := foreign_part(folder):
            self._leave_out(part)
        return not part

    def see(self, folder: str) -> None:
        """Note a folder, which may turn out to be a class without images."""
        if folder and self.enters(folder):
            self.folders.setdefault(folder)

    def _leave_out(self, path: str) -> None:
        if path != self._last_foreign:  # the files of one folder come one after the other, and the folder counts once
            self.foreign.add(path)
            self._last_foreign = path
