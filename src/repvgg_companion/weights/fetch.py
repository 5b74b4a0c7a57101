"""Download the weights that timm publishes, and record their digests at the first download."""

import contextlib
import math
import shutil
import sys
import tempfile
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import NoFileLocksError, atomic_path, locked_file, read_sums, sha256_of_file, write_text
from repvgg_companion.weights.published_files import SUMS_FILE, TIMM_FILE, TIMM_NAMES, timm_repository


def fetch(model: str, folder: str | Path, *, endpoint: str | None = None) -> Path:
    """Download timm's weights of `model` to FOLDER/repvgg_x.rvgg_in1k.safetensors and return that path.

    A file that exists is not downloaded again. The first time, its SHA-256 is recorded in FOLDER/SHA256SUMS; later it
    must be the same. `endpoint` is the address of another server of the same kind. Raises CompanionError if nothing is
    published, the server cannot be reached, or the digest differs.
    """
    repository, folder = timm_repository(model), Path(folder)
    final = folder / f"{TIMM_NAMES[model]}.rvgg_in1k.safetensors"
    if not final.exists():
        _download(repository, final, endpoint)
    sha256 = sha256_of_file(final)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_file(folder / f".{SUMS_FILE}.lock", wait_s=math.inf))
        except NoFileLocksError as error:
            print(f"weights fetch: {error}; fetch into it one command at a time", file=sys.stderr)
        digests = read_sums(folder / SUMS_FILE)
        recorded = digests.setdefault(final.name, sha256)
        if recorded != sha256:
            raise CompanionError(
                f"{final} has SHA-256 {sha256[:16]}... instead of {recorded[:16]}..., which was recorded in "
                f"{folder / SUMS_FILE} when it was first fetched; it is damaged or another file, so fetch into another "
                "folder"
            )
        lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
        if not (folder / SUMS_FILE).exists() or read_sums(folder / SUMS_FILE) != digests:
            write_text(folder / SUMS_FILE, "".join(lines))
    return final


def _download(repository: str, final: Path, endpoint: str | None) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    final.parent.mkdir(parents=True, exist_ok=True)
    # Download into a separate folder, because the library writes other files beside its download.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=final.parent) as scratch:
        try:
            loaded = hf_hub_download(repository, TIMM_FILE, local_dir=scratch, endpoint=endpoint, token=False)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CompanionError(
                f"{repository} could not be fetched ({reason}); check the network, or copy {TIMM_FILE} of that "
                f"repository to {final} by hand"
            ) from None
        with atomic_path(final) as temporary:
            shutil.copyfile(loaded, temporary)
