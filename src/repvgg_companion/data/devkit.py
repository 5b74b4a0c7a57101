"""The development kit of ILSVRC2012: which WNID an ID means, and which ID each validation image has.

In: ILSVRC2012_devkit_t12.tar.gz, or the folder that it extracts to. Out: `Devkit`. The class index of an image is the
place of its WNID in the sorted list and not its ID less one (torchvision, datasets/imagenet.py).
"""

import gzip
import io
import lzma
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from repvgg_companion.errors import CompanionError

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
    """Read a devkit; raises CompanionError where it is missing, of another year, damaged, or does not fit itself."""
    path = Path(path)
    if not path.exists():
        raise CompanionError(f"devkit {path} does not exist; get {NEEDED} from where the images came from")
    files = _from_folder(path) if path.is_dir() else _from_tar(path)
    for name in (META, GROUND_TRUTH):
        if name not in files:
            other = next((found for found in files if found.endswith("validation_ground_truth.txt")), None)
            raise CompanionError(
                f"{path} holds no {name}" + (f" but {other}, so it is of another year" if other else "")
                + f"; {NEEDED} is needed"
            )  # fmt: skip
    wnid_of_id, words = _classes(path, files[META])
    ids = _ground_truth(path, files[GROUND_TRUTH])
    if strangers := sorted(set(ids) - set(wnid_of_id)):
        raise CompanionError(
            f"{path}: {GROUND_TRUTH} names ID {strangers[0]}, which is no class of {META}; {NEEDED} is needed"
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
                    raise CompanionError(f"{path} holds a member outside its folder, {member.name!r}; get it again")
                if member.isfile() and _wanted(name.name):
                    files[name.name] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError) as error:
        raise CompanionError(f"{path} is not readable as a devkit archive ({error}); get {NEEDED} again") from None
    return files


def _classes(path: Path, content: bytes) -> tuple[dict[int, str], dict[str, str]]:
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"].reshape(-1)
        leaves = [synset for synset in synsets if int(synset["num_children"]) == 0]
        wnid_of_id = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in leaves}
        words = {str(synset["WNID"]): str(synset["words"]) for synset in leaves}
    except Exception as error:
        # loadmat raises a different error for each kind of damage.
        raise CompanionError(
            f"{path}: {META} is not the table of synsets of ILSVRC2012 ({type(error).__name__}); {NEEDED} is needed"
        ) from None
    if not leaves or len(wnid_of_id) != len(leaves) or len(words) != len(leaves):
        raise CompanionError(f"{path}: the IDs and WNIDs of {META} are not unique; {NEEDED} is needed")
    return wnid_of_id, words


def _ground_truth(path: Path, content: bytes) -> list[int]:
    ids = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip().isdecimal():
            raise CompanionError(f"{path}: line {number} of {GROUND_TRUTH} is {line[:40]!r} and no ID; get it again")
        ids.append(int(line))
    if not ids:
        raise CompanionError(f"{path}: {GROUND_TRUTH} is empty; get {NEEDED} again")
    return ids
