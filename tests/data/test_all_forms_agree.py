"""The same random tree as folder, tar, tar of tars, zip and Parquet shards: the same manifest or the same refusal."""

import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repvgg_companion.data.index.index import IndexRequest, index
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError

FOREIGN = (".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN")
CLASSES = ("ant", "bee", "Cat", "0", "1", "9", "10", "a b", "ü", "{x}", "it's", "back\\slash", "ends.tar", "n01440764")
FILES = ("b.jpg", "sub/c.png", "sub/b.jpg", "ü x.webp", "{x}.bmp", "back\\slash.JPG", "x" * 120 + ".JPEG", "notes.txt",
         "Thumbs.db", ".hidden.jpg", "._a.JPEG", ".cache/a.JPEG", "@eaDir/a.JPEG/t.jpg", "a.jpg.part")  # fmt: skip
LINKS = {
    "an image": ("link.JPEG", "a.JPEG"),
    "a link": ("another.jpg", "link.JPEG"),
    "a file without an image's name": ("named.jpg", "blob"),
    "a folder": ("linked", "sub"),
    "nothing, without an image's name": ("dangling", "nowhere"),
    "nothing": ("broken.jpg", "nowhere.jpg"),
    "its own folder": ("loop", "."),
}
REFUSALS = ("no image in class", "to a folder that holds it", "where there is no image", "in none")


@st.composite
def trees(draw) -> dict[str, object]:
    """Classes with files and links; foreign folders, links to classes, empty classes and files beside them."""
    names = draw(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4, unique=True))
    return {
        "classes": {name: draw(st.sets(st.sampled_from(FILES), max_size=5)) for name in names},
        "links": draw(st.sets(st.tuples(st.sampled_from(names), st.sampled_from(sorted(LINKS))), max_size=2)),
        "foreign": draw(st.sets(st.sampled_from(FOREIGN), max_size=2)),
        "linked class": draw(st.booleans()),
        "empty class": draw(st.sampled_from([None, None, None, "nothing", "a text"])),
        "loose": draw(st.sampled_from([None, None, None, "readme.txt", ".DS_Store", "loose.JPEG"])),
    }


def faults(tree: dict) -> int:
    """How many kinds of faults a tree has; each of them alone is refused."""
    bad_link = any(
        kind in ("nothing", "its own folder") or (kind == "a link" and (name, "an image") not in tree["links"])
        for name, kind in tree["links"]
    )
    return bad_link + (tree["empty class"] is not None) + (tree["loose"] == "loose.JPEG")


def write(root: Path, tree: dict) -> None:
    """Write a tree; the length of a file is unlike that of every other one."""
    count = 0

    def put(path: Path) -> None:
        nonlocal count
        count += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * count)

    for name, files in sorted(tree["classes"].items()):
        for file in ("a.JPEG", "blob", *sorted(files)):
            put(root / name / file)
    for name, kind in sorted(tree["links"]):
        link, target = LINKS[kind]
        (root / name / link).symlink_to(target)
    for name in sorted(tree["foreign"]):
        put(root / name / "a.JPEG")
    if tree["linked class"]:
        (root / "zz").symlink_to(min(tree["classes"]))
    if tree["empty class"]:
        (root / "void").mkdir()
        if tree["empty class"] == "a text":
            put(root / "void" / "notes.txt")
    if tree["loose"]:
        put(root / tree["loose"])


def as_folder(root: Path, _: Path) -> dict[str, str]:
    return {"val_folder": str(root)}


def as_tar(root: Path, folder: Path) -> dict[str, str]:
    with tarfile.open(folder / "val.tar", "w") as archive:
        archive.add(root, arcname="./val")
    return {"val_archive": str(folder / "val.tar")}


def as_tar_of_tars(root: Path, folder: Path) -> dict[str, str]:
    with tarfile.open(folder / "nested.tar", "w") as archive:
        for path in sorted(root.iterdir()):
            if path.is_dir():
                stream = io.BytesIO()
                with tarfile.open(fileobj=stream, mode="w") as inner:
                    inner.add(path.resolve(), arcname=".")
                info = tarfile.TarInfo(f"{path.name}.tar")
                info.size = len(stream.getvalue())
                archive.addfile(info, io.BytesIO(stream.getvalue()))
            else:
                archive.add(path, arcname=path.name)
    return {"val_archive": str(folder / "nested.tar")}


def as_zip(root: Path, folder: Path) -> dict[str, str]:
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for at, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = Path(at) / name
                inner = f"val/{path.relative_to(root)}"
                if path.is_symlink():
                    info = zipfile.ZipInfo(inner)
                    info.create_system, info.external_attr = 3, 0o120777 << 16
                    archive.writestr(info, str(path.readlink()))
                else:
                    archive.write(path, inner)
    return {"zip": str(folder / "all.zip")}


def as_shards(root: Path, folder: Path) -> dict[str, str]:
    """As a program writes them that takes every folder for a class."""
    import pyarrow
    from pyarrow import parquet

    names = sorted(path.name for path in root.iterdir() if path.is_dir() and any(path.iterdir()))
    if all(name.isdigit() for name in names if not name.startswith((".", "@", "_", "$", "l"))):
        names.sort(key=lambda name: (int(name) if name.isdigit() else -1, name))
    rows = []
    for path in _files(root):
        name, _, inner = str(path.relative_to(root)).partition("/")
        if inner and path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp"):
            rows.append({"image": {"bytes": path.read_bytes(), "path": f"{name}/{inner}"}, "label": names.index(name)})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    (folder / "shards").mkdir()
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata)
    parquet.write_table(table, folder / "shards" / "validation.parquet")
    return {"parquet_folder": str(folder / "shards")}


def _files(root: Path) -> Iterator[Path]:
    for at, _, files in os.walk(root, followlinks=True):
        yield from (Path(at) / name for name in files if (Path(at) / name).exists())


def outcome(sources: dict[str, str], folder: Path) -> object:
    """The images of the manifest, or the kind of the refusal."""
    try:
        index(IndexRequest("d", folder, sources, verify=False))
    except CompanionError as error:
        found = [kind for kind in REFUSALS if kind in str(error)]
        assert found, error
        return found[0]
    manifest = Manifest.read(folder / "val.parquet")
    rows = zip(manifest.names, manifest.wnids, manifest.labels.tolist(), manifest.lengths.tolist(), strict=True)
    return list(rows), list(manifest.classes), manifest.sha256


PLAIN = {"links": set(), "foreign": set(), "linked class": False, "empty class": None, "loose": None}


@example({**PLAIN, "classes": {"9": set(), "10": set()}})
@example({**PLAIN, "classes": {"ant": set(), "bee": set()}, "links": {("bee", "a link")}, "empty class": "nothing"})
@example({**PLAIN, "classes": {"ant": set(), "bee": set()}, "foreign": {".ipynb_checkpoints", "lost+found"}})
@example(
    {**PLAIN, "classes": {"ant": {"sub/c.png"}, "bee": set()}, "links": {("ant", "a folder")}, "linked class": True}
)
@example({**PLAIN, "classes": {"ant": set(), "bee": set()}, "empty class": "nothing"})
@example({**PLAIN, "classes": {"ant": set(), "bee": set()}, "loose": "loose.JPEG"})
@example({**PLAIN, "classes": {"ant": set(), "bee": set()}, "links": {("bee", "its own folder")}})
@example({**PLAIN, "classes": {"ant": set(), "bee": set()}, "links": {("bee", "nothing")}})
@given(trees())
@settings(max_examples=40, deadline=None)
def test_every_form_of_a_tree_gives_the_same_manifest_or_the_same_refusal(tree):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "tree", tree)
        expected = outcome(as_folder(folder / "tree", folder), folder / "out-folder")
        for form in (as_tar, as_tar_of_tars, as_zip):
            found = outcome(form(folder / "tree", folder), folder / f"out-{form.__name__}")
            if faults(tree) > 1:  # each form may name another one first
                assert isinstance(found, str), form.__name__
            else:
                assert found == expected, form.__name__
        if not isinstance(expected, str):  # shards hold no empty classes and no links
            assert outcome(as_shards(folder / "tree", folder), folder / "out-shards") == expected


@pytest.mark.parametrize("kind", REFUSALS)
def test_every_kind_of_refusal_occurs_in_the_examples(kind, tmp_path):
    """The property above would say nothing about a refusal that its trees never meet."""
    trees = {
        "no image in class": {"empty class": "a text"},
        "to a folder that holds it": {"links": {("bee", "its own folder")}},
        "where there is no image": {"links": {("bee", "nothing")}},
        "in none": {"loose": "loose.JPEG"},
    }
    write(tmp_path / "tree", {**PLAIN, "classes": {"ant": set(), "bee": set()}, **trees[kind]})
    assert outcome(as_folder(tmp_path / "tree", tmp_path), tmp_path / "out") == kind
