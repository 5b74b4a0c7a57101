"""Reading a cache of decoded validation images, which the verb `cache` wrote."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repvgg_companion.data.decode import Undecodable, UndecodableImages
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.data.reader import require_unchanged
from repvgg_companion.errors import CompanionError

if TYPE_CHECKING:
    import torch

MAGIC = b"repvgg-cache-1"


def archive_stamps(manifest: Manifest) -> list[list[int]]:
    """Size in bytes and modification time in ns of each archive, sorted; a moved archive keeps both."""
    return sorted(list(stamp) for stamp in manifest.stamps.values())


class DecodedCache:
    """A cache opened for reading; raises CompanionError unless it was made of these images under this protocol."""

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        protocol: EvaluationProtocol,
        undecodable: UndecodableImages | None = None,
    ) -> None:
        facts = _facts(path)
        if (facts["manifest_sha256"], facts["protocol"]) != (manifest.sha256, protocol.label):
            raise CompanionError(
                f"cache {path} was made of other images or by another protocol ({facts['protocol']}); make it "
                "again with the verb cache"
            )
        if facts.get("archives", archive_stamps(manifest)) != archive_stamps(manifest):
            raise CompanionError(
                f"cache {path} was made before the archive was replaced (size or modification time differ); make it "
                "again with the verb cache"
            )
        require_unchanged(manifest)
        self._pixels = np.load(path, mmap_mode="r")
        found = [Undecodable(*item) for item in facts["undecodable"]]
        if undecodable is not None:
            for item in found:
                undecodable.report(manifest, item.index, item.reason)

    def images(self, indices: np.ndarray) -> "torch.Tensor":
        """Images as uint8 [n, 3, px, px], channels last in memory."""
        import torch

        first, n = int(indices[0]) if len(indices) else 0, len(indices)
        # A slice of a memory map is one copy; a list of places is slower and only needed for samples.
        in_order = np.array_equal(indices, np.arange(first, first + n))
        pixels = np.array(self._pixels[first : first + n] if in_order else self._pixels[indices])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _facts(path: str | Path) -> dict:
    try:
        with Path(path).open("rb") as stream:
            stream.seek(-(8 + len(MAGIC)), os.SEEK_END)
            tail = stream.read()
            if tail[8:] != MAGIC:
                raise ValueError("no identity")
            length = int.from_bytes(tail[:8], "little")
            stream.seek(-(8 + len(MAGIC) + length), os.SEEK_END)
            return json.loads(stream.read(length))
    except FileNotFoundError:
        raise CompanionError(f"cache {path} does not exist; make it with the verb cache") from None
    except (OSError, ValueError) as error:
        raise CompanionError(f"{path} is not a readable cache ({error}); make it again with the verb cache") from None
