"""Local conda channels on which an environment file can be solved and its environment used, without a network.

`python` is this interpreter, repackaged without its tests. Every other dependency is a stub of the version that this
interpreter has installed, in the channel that really publishes it; through `venv-link` the environment finds this
interpreter's site-packages. So a solve checks that the file's names and ranges admit what was tested, and a rule that
runs in the environment really imports those packages.

    python local_channels.py ENVIRONMENT_FILE FOLDER '{"CONDA_NAME": "PYPI_NAME", ...}'
"""

import asyncio
import hashlib
import io
import json
import os
import re
import sys
import sysconfig
import tarfile
import time
from importlib import metadata
from pathlib import Path

import yaml

Files = dict[str, bytes | Path | str]
"""Paths inside a package: bytes, a file to copy (Path), or the target of a link (str)."""

ON_BIOCONDA = re.compile("snakemake")
"""All of Snakemake is published on bioconda, everything else here on conda-forge."""
LEFT_OUT = {
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "__pycache__"),
    *("pydoc_data", "lib-dynload-tests"),
}
WITNESS = """\
import os, sys
if "CONDA_WITNESS" in os.environ:
    with open(os.environ["CONDA_WITNESS"], "a") as stream:
        stream.write(" ".join([sys.prefix, *sys.orig_argv[1:]]) + "\\n")
"""


def make_channels(environment_file: Path, folder: Path, pypi_names: dict[str, str]) -> None:
    """Write the channels conda-forge and bioconda below `folder`; `pypi_names` maps conda's names to pip's."""
    from rattler.index import index_fs

    here = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    link = "".join(f"{line}\n" for line in [*here, "import conda_witness"]).encode()
    files: Files = {"site-packages/venv_link.pth": link, "site-packages/conda_witness.py": WITNESS.encode()}
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    forge = folder / "conda-forge"
    _pack(forge, "python", ".".join(map(str, sys.version_info[:3])), _python())
    _pack(forge, "venv-link", "1", files, needs=(f"python {version}.*",), noarch="python")
    for line in yaml.safe_load(environment_file.read_text(encoding="utf-8"))["dependencies"]:
        name = re.match(r"[\w.-]+", line)[0]
        if name == "python":
            continue
        channel = folder / "bioconda" if ON_BIOCONDA.search(name) else forge
        installed = metadata.version(pypi_names.get(name, name)).partition("+")[0]
        _pack(channel, name, installed, {}, needs=("venv-link",), noarch="generic")
    for channel in ("conda-forge", "bioconda"):
        (folder / channel / "noarch").mkdir(parents=True, exist_ok=True)
        asyncio.run(index_fs(folder / channel, write_zst=False, write_shards=False))


def _python() -> Files:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = Path(sysconfig.get_path("stdlib"))
    files: Files = {
        f"bin/{version}": Path(os.path.realpath(sys.executable)),
        "bin/python": version,
        "bin/python3": version,
        f"lib/{version}/site-packages/README.txt": b"\n",
    }
    if "dist-packages" in (library / "site.py").read_text(encoding="utf-8"):  # Debian's looks nowhere else
        line = f"import site, sys; site.addsitedir(f'{{sys.prefix}}/lib/{version}/site-packages')\n"
        files["lib/python3/dist-packages/site-packages.pth"] = line.encode()
    for place, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
        for name in names:
            if not name.endswith(".a"):
                path = Path(place, name)
                files[f"lib/{version}/{path.relative_to(library)}"] = path.resolve()
    for path in Path(sys.base_prefix).glob("lib/libpython*.so*"):
        files[f"lib/{path.name}"] = path.resolve()
    return files


def _pack(
    channel: Path, name: str, version: str, files: Files, needs: tuple[str, ...] = (), noarch: str | None = None
) -> None:
    from rattler import Subdir

    place = "noarch" if noarch else str(Subdir.current())
    index = {
        **{"name": name, "version": version, "build": "local_0", "build_number": 0, "depends": list(needs)},
        **{"subdir": place, "license": "Proprietary", "timestamp": int(time.time() * 1000)},
        **({"noarch": noarch} if noarch else {}),
    }
    paths = []
    for path, source in sorted(files.items()):
        data = source if isinstance(source, bytes) else b"" if isinstance(source, str) else source.read_bytes()
        kind = "softlink" if isinstance(source, str) else "hardlink"
        digest = hashlib.sha256(data).hexdigest()
        paths.append({"_path": path, "path_type": kind, "sha256": digest, "size_in_bytes": len(data)})
    about: Files = {
        "info/index.json": json.dumps(index).encode(),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
        "info/files": "".join(f"{path}\n" for path in sorted(files)).encode(),
    }
    if noarch == "python":
        link = {"noarch": {"type": "python"}, "package_metadata_version": 1}
        about["info/link.json"] = json.dumps(link).encode()
    archive = channel / place / f"{name}-{version}-local_0.tar.bz2"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:bz2", compresslevel=1) as tar:
        for path, source in {**about, **files}.items():
            if isinstance(source, Path):
                tar.add(source, path, recursive=False)
                continue
            member = tarfile.TarInfo(path)
            member.mtime = int(time.time())
            if isinstance(source, str):
                member.type, member.linkname = tarfile.SYMTYPE, source
                tar.addfile(member)
            else:
                member.size = len(source)
                tar.addfile(member, io.BytesIO(source))


if __name__ == "__main__":
    make_channels(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    os._exit(0)  # py-rattler's threads may crash an interpreter that ends in the ordinary way
