"""The development kit of ILSVRC2012: which WNID an ID means, and which ID each validation image has.

It is ILSVRC2012_devkit_t12.tar.gz, or the folder that this extracts to. The class index of an image is the place of its
WNID in the sorted list and not its ID less one (torchvision, datasets/imagenet.py).
"""

import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from repvgg_companion.errors import CompanionError, one_line

META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
NEEDED = "ILSVRC2012_devkit_t12.tar.gz"


@dataclass(frozen=True)
class Devkit:
    """`words` by WNID of the classes, and the WNID of validation image i + 1 in `validation_wnids`[i]."""

    path: str
    words: dict[str, str]
    validation_wnids: list[str]

    @property
    def wnids(self) -> list[str]:
        """The WNIDs of the classes, sorted: a WNID's place is its class index."""
        return sorted(self.words)


def read_devkit(path: str | Path) -> Devkit:
    """Read a devkit; raises CompanionError if it is missing, of another year, damaged, or contradicts itself."""
    path = Path(path)
    if not path.exists():
        raise CompanionError(f"devkit {path} does not exist; get {NEEDED} from where the images came from")
    files = _from_folder(path) if path.is_dir() else _from_tar(path)
    for name in (META, GROUND_TRUTH):
        if name not in files:
            other = next((found for found in files if found not in (META, GROUND_TRUTH)), None)
            raise CompanionError(
                f"{path} holds no {name}" + (f" but {other}, so it is of another year" if other else "")
                + f"; {NEEDED} is needed"
            )  # fmt: skip
    wnid_of_id, words = _classes(path, files[META])
    ids = _ground_truth(path, files[GROUND_TRUTH])
    if strangers := sorted(set(ids) - set(wnid_of_id)):
        raise CompanionError(
            f"{path}: {GROUND_TRUTH} names ID {strangers[0]}, which is not a class of {META}; {NEEDED} is needed"
        )
    return Devkit(str(path), words, [wnid_of_id[number] for number in ids])


def _wanted(name: str) -> bool:
    return name == META or name.endswith("validation_ground_truth.txt")


def _from_folder(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in sorted(path.rglob("*")) if _wanted(found.name)}


def _from_tar(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise CompanionError(f"{path} holds {member.name!r}, outside its folder; name an intact copy")
                if member.isfile() and _wanted(name.name) and (stream := archive.extractfile(member)) is not None:
                    files[name.name] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError, ValueError) as error:
        reason = one_line(error)
        raise CompanionError(f"{path} is not readable as a devkit ({reason}); name an intact {NEEDED}") from None
    return files


def _classes(path: Path, content: bytes) -> tuple[dict[int, str], dict[str, str]]:
    leaves = _leaves(path, content)
    wnid_of_id = {number: wnid for number, wnid, _ in leaves}
    words = {wnid: text for _, wnid, text in leaves}
    if not leaves or len(wnid_of_id) != len(leaves) or len(words) != len(leaves):
        raise CompanionError(f"{path}: the IDs and WNIDs of {META} are not unique; {NEEDED} is needed")
    return wnid_of_id, words


def _leaves(path: Path, content: bytes) -> list[tuple[int, str, str]]:
    """ID, WNID and words of each synset without children, read in a process of its own.

    Some kinds of damage make scipy's compiled reader crash, which no `except` would catch.
    """
    code = f"from {__name__} import print_leaves; print_leaves()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], input=content, capture_output=True, env=environment, check=False
    )
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or "its reader crashed"
        raise CompanionError(f"{path}: {META} is not the table of synsets of ILSVRC2012 ({reason}); {NEEDED} is needed")
    return [tuple(leaf) for leaf in json.loads(done.stdout)]


def print_leaves() -> None:
    """Read a `meta.mat` from standard input and print its leaves as JSON; any exception means that it is not one."""
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"].reshape(-1)
    leaves = [synset for synset in synsets if int(synset["num_children"]) == 0]
    print(json.dumps([(int(leaf["ILSVRC2012_ID"]), str(leaf["WNID"]), str(leaf["words"])) for leaf in leaves]))


def _ground_truth(path: Path, content: bytes) -> list[int]:
    ids = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", line):
            where = f"{path}: line {number} of {GROUND_TRUTH}"
            raise CompanionError(f"{where} is {line[:40]!r} and no ID; name an intact copy")
        ids.append(int(line))
    if not ids:
        raise CompanionError(f"{path}: {GROUND_TRUTH} is empty; name an intact {NEEDED}")
    return ids
