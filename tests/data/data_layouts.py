"""A small image set with ILSVRC2012's names, written in every layout that users have; for the data layer's tests."""

import csv
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ["n01440764", "n02119789", "n03255030"]
WORDS = {"n01440764": "tench, Tinca tinca", "n02119789": "kit fox", "n03255030": "dumbbell"}
IDS = {"n02119789": 1, "n03255030": 2, "n01440764": 3}  # as in the real devkit, not in WNID order
TRAIN_PER_CLASS, VAL_IMAGES = 4, 9


def jpeg(seed: int, *, width: int = 40, height: int = 30, mode: str = "RGB", **options) -> bytes:
    """A JPEG of smooth colours and some noise."""
    random = np.random.default_rng(seed)
    rough = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


@dataclass
class Images:
    """`train[wnid][name]` and `val[name] = (wnid, bytes)`."""

    train: dict[str, dict[str, bytes]]
    val: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def ordered_train(self) -> list[tuple[str, str, int, bytes]]:
        """(name, wnid, label, bytes) in the order that a manifest must have."""
        wnids = sorted(self.train)
        return [
            (name, wnid, wnids.index(wnid), self.train[wnid][name])
            for wnid in wnids
            for name in sorted(self.train[wnid])
        ]

    def ordered_val(self) -> list[tuple[str, str, int, bytes]]:
        """The same for validation."""
        wnids = sorted(self.train)
        rows = [(name, wnid, wnids.index(wnid), content) for name, (wnid, content) in self.val.items()]
        return sorted(rows, key=lambda row: (row[2], row[0]))


def small_images() -> Images:
    """Three classes; numbers without leading zeros, so that the order of names is not that of the numbers."""
    train = {
        wnid: {f"{wnid}_{number}.JPEG": jpeg(100 * place + number) for number in (2, 10, 9, 1003)}
        for place, wnid in enumerate(WNIDS)
    }
    val = {
        f"ILSVRC2012_val_{number:08d}.JPEG": (WNIDS[(number * 2) % 3], jpeg(5000 + number))
        for number in range(1, VAL_IMAGES + 1)
    }
    return Images(train, val)


def tar_bytes(members: list[tuple[str, bytes]], fmt: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of regular files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=fmt) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def meta_mat(ids: dict[str, int], words: dict[str, str]) -> bytes:
    """`synsets` as in the devkit: leaves in ID order, then an inner node."""
    from scipy.io import savemat

    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.zeros(len(ids) + 1, dtype=[(name, object) for name in names])
    for place, (wnid, number) in enumerate(sorted(ids.items(), key=lambda item: item[1])):
        synsets[place] = (float(number), wnid, words[wnid], "a gloss", 0.0, np.zeros((0, 0)), 0.0, 4.0)
    synsets[-1] = (float(len(ids) + 1), "n00001740", "entity", "all", float(len(ids)), np.arange(1.0, 4.0), 1.0, 0.0)
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets.reshape(-1, 1)})
    return stream.getvalue()


def ground_truth(images: Images, ids: dict[str, int] | None = None) -> bytes:
    """One ID a line, in the order of the image numbers."""
    return "".join(f"{(ids or IDS)[images.val[name][0]]}\n" for name in sorted(images.val)).encode()


def write_devkit(
    path: Path, images: Images, *, folder: str = "ILSVRC2012_devkit_t12", truth: bytes | None = None
) -> Path:
    """The devkit as .tar.gz."""
    truth = ground_truth(images) if truth is None else truth
    members = [
        (f"{folder}/data/ILSVRC2012_validation_ground_truth.txt", truth),
        (f"{folder}/data/meta.mat", meta_mat(IDS, WORDS)),
    ]
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_archives(folder: Path, images: Images, fmt: int = tarfile.GNU_FORMAT) -> dict[str, Path]:
    """The three ILSVRC2012 archives with an MD5SUMS; keys train, val, devkit."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = [(f"{wnid}.tar", tar_bytes(list(members.items()), fmt)) for wnid, members in reversed(images.train.items())]
    paths = {
        "train": folder / "ILSVRC2012_img_train.tar",
        "val": folder / "ILSVRC2012_img_val.tar",
        "devkit": folder / "ILSVRC2012_devkit_t12.tar.gz",
    }
    paths["train"].write_bytes(tar_bytes(inner, fmt))
    paths["val"].write_bytes(tar_bytes([(name, content) for name, (_, content) in reversed(images.val.items())], fmt))
    write_devkit(paths["devkit"], images)
    write_sums(folder, *paths.values())
    return paths


def write_sums(folder: Path, *paths: Path) -> None:
    """An MD5SUMS, which stands in for the published digests."""
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (folder / "MD5SUMS").write_text("".join(lines))


def write_tree(folder: Path, images: Images, *, flat_val: bool = False) -> tuple[Path, Path]:
    """`train/WNID/NAME` and `val/WNID/NAME`, or a flat `val/NAME`."""
    train, val = folder / "train", folder / "val"
    for wnid, members in images.train.items():
        (train / wnid).mkdir(parents=True)
        for name, content in members.items():
            (train / wnid / name).write_bytes(content)
    for name, (wnid, content) in images.val.items():
        target = val if flat_val else val / wnid
        target.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    return train, val


def write_kaggle(folder: Path, images: Images) -> Path:
    """Kaggle's layout, with boxes in the prediction string."""
    data = folder / "ILSVRC" / "Data" / "CLS-LOC"
    data.mkdir(parents=True)
    write_tree(data, images, flat_val=True)
    (data / "test").mkdir()
    (data / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(jpeg(1))
    with (folder / "LOC_val_solution.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["ImageId", "PredictionString"])
        for name, (wnid, _) in reversed(images.val.items()):
            rows.writerow([name.removesuffix(".JPEG"), f"{wnid} 111 108 441 193 {wnid} 1 2 3 4 "])
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {WORDS[wnid]}\n" for wnid in WNIDS))
    return folder


def write_shards(folder: Path, images: Images, *, with_wnid: bool = True) -> Path:
    """Parquet shards as Hugging Face writes them: rows in no order, paths IMAGE_WNID.JPEG, class names as metadata."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    wnids = sorted(images.train)
    rows = {
        "train": [(name, wnid, content) for wnid, members in images.train.items() for name, content in members.items()],
        "validation": [(name, wnid, content) for name, (wnid, content) in images.val.items()],
    }
    rows["test"] = [("ILSVRC2012_test_00000001.JPEG", None, jpeg(5))]
    features = {"label": {"names": [WORDS[wnid] for wnid in wnids], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for split, images_of_split in rows.items():
        order = np.random.default_rng(3).permutation(len(images_of_split))
        for shard, part in enumerate(np.array_split(order, 2 if len(order) > 1 else 1)):
            chosen = [images_of_split[place] for place in part]
            image = [
                {"bytes": content, "path": name.replace(".", f"_{wnid}.") if with_wnid and wnid else name}
                for name, wnid, content in chosen
            ]
            label = [wnids.index(wnid) if wnid else -1 for _, wnid, _ in chosen]
            table = pyarrow.table({"image": image, "label": pyarrow.array(label, pyarrow.int64())})
            total = 2 if len(order) > 1 else 1
            path = folder / f"{split}-{shard:05d}-of-{total:05d}.parquet"
            parquet.write_table(table.replace_schema_metadata(metadata), path)
    return folder


def write_zip(path: Path, images: Images, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """The layout of tiny-imagenet-200.zip."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        root = "tiny-imagenet-200"
        archive.writestr(f"{root}/wnids.txt", "".join(f"{wnid}\n" for wnid in reversed(WNIDS)))
        archive.writestr(f"{root}/words.txt", "".join(f"{wnid}\t{WORDS[wnid]}\n" for wnid in WNIDS))
        for wnid, members in images.train.items():
            archive.writestr(f"{root}/train/{wnid}/{wnid}_boxes.txt", "a box")
            for name, content in members.items():
                archive.writestr(f"{root}/train/{wnid}/images/{name}", content)
        lines = "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, (wnid, _) in images.val.items())
        archive.writestr(f"{root}/val/val_annotations.txt", lines)
        for name, (_, content) in images.val.items():
            archive.writestr(f"{root}/val/images/{name}", content)
        archive.writestr(f"{root}/test/images/test_0.JPEG", jpeg(9))
    return path


CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar(path: Path, *, fine: bool = False) -> Path:
    """CIFAR's binary version in small: 150 training images and three (`fine`: one) validation images of each class."""
    random = np.random.default_rng(0)
    names = [f"fine {number:02d}" for number in range(100)] if fine else CIFAR_CLASSES

    def batch(labels: list[int]) -> bytes:
        head = ([label % 20, label] if fine else [label] for label in labels)
        return b"".join(bytes(found) + random.bytes(3072) for found in head)

    every = list(range(len(names)))
    if fine:
        members = {"train.bin": batch((every * 2)[:150]), "test.bin": batch(every), "fine_label_names.txt": names}
        members["coarse_label_names.txt"] = [f"coarse {number:02d}" for number in range(20)]
    else:
        members = {f"data_batch_{number}.bin": batch(every * 3) for number in range(1, 6)}
        members |= {"test_batch.bin": batch(every * 3), "batches.meta.txt": names, "readme.html": ["<p>CIFAR</p>"]}
    folder = "cifar-100-binary" if fine else "cifar-10-batches-bin"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(folder))
        for name, content in members.items():
            data = content if isinstance(content, bytes) else "".join(f"{line}\n" for line in (*content, "")).encode()
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
