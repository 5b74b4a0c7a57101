"""Training batches: the same for any number of workers and processes, restartable, and distributed as torchvision's."""

import data_layouts
import numpy as np
import pytest
import torch

from repvgg_companion.data.batches.augment import AUGMENTATIONS, DRAWS, crop_box, flips, shift
from repvgg_companion.data.batches.randomness import epoch_order, uniform_draws
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.data.decode import DECODERS
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Fifty training images of several sizes in three classes, in a class-folder tree."""
    from repvgg_companion.__main__ import main

    root = tmp_path_factory.mktemp("training")
    random = np.random.default_rng(0)
    train = {
        wnid: {
            f"{wnid}_{number}.JPEG": data_layouts.jpeg(
                17 * place + number, width=int(random.integers(20, 90)), height=int(random.integers(20, 90))
            )
            for number in range(16 + place)
        }
        for place, wnid in enumerate(data_layouts.WNIDS)
    }
    images = data_layouts.Images(train, data_layouts.small_images().val)
    paths = data_layouts.write_archives(root / "archives", images)
    options = ["--train-archive", paths["train"], "--val-archive", paths["val"], "--devkit", paths["devkit"]]
    assert main(["index", "--dataset", "s", "--output", str(root / "out"), *map(str, options)]) == 0
    return Manifest.read(root / "out" / "train.parquet")


def _input(manifest, **changed):
    settings = {"input_px": 16, "augmentation": "crop-flip", "decoder": "torchvision", "seed": 3, **changed}
    return TrainingInput(manifest, **settings)


def _epoch(source, epoch=0, **options):
    return [
        (images.clone(), labels.clone()) for images, labels in source.batches(epoch, **{"batch_size": 8, **options})
    ]


def _same(ours, theirs):
    assert len(ours) == len(theirs)
    for (images, labels), (other_images, other_labels) in zip(ours, theirs):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_workers_processes_and_restarts_change_nothing(manifest, augmentation, decoder):
    alone = _epoch(_input(manifest, augmentation=augmentation, decoder=decoder))
    assert len(alone) == 6 and alone[0][0].shape == (8, 3, 16, 16) and alone[0][0].dtype == torch.uint8
    assert alone[0][1].dtype == torch.int64
    workers = _input(manifest, augmentation=augmentation, decoder=decoder, workers=2)
    _same(_epoch(workers), alone)
    _same(_epoch(workers, start=4), alone[4:])
    for world in (2, 4):
        ranks = [
            _epoch(_input(manifest, augmentation=augmentation, decoder=decoder), rank=rank, world=world)
            for rank in range(world)
        ]
        joined = [tuple(torch.cat(parts) for parts in zip(*step)) for step in zip(*ranks)]
        _same(joined, alone)


def test_epochs_and_seeds_differ_and_repeat(manifest):
    first = _input(manifest)
    base = _epoch(first)
    _same(_epoch(first), base)
    for other in (_epoch(first, epoch=1), _epoch(_input(manifest, seed=4))):
        assert any(not torch.equal(a[0], b[0]) for a, b in zip(base, other))
        assert [a[1].tolist() for a in base] != [b[1].tolist() for b in other]


def test_the_global_random_generators_are_neither_used_nor_moved(manifest):
    def epoch(seed):
        torch.manual_seed(seed)
        np.random.seed(seed)
        batches = _epoch(_input(manifest, augmentation="crop-flip-autoaugment"))
        return batches, torch.rand(1).item()

    (one, after_one), (two, _) = epoch(1), epoch(2)
    _same(one, two)
    torch.manual_seed(1)
    assert after_one == torch.rand(1).item()


def test_each_image_comes_once_and_the_incomplete_batch_is_dropped(manifest):
    source = _input(manifest, augmentation="none", input_px=8)
    assert source.steps_per_epoch(8) == 6 and source.steps_per_epoch(51) == 1
    whole = _epoch(source, batch_size=51)
    assert sorted(whole[0][1].tolist()) == sorted(manifest.labels.tolist())
    assert len({tuple(image.flatten().tolist()) for image in whole[0][0]}) == 51
    assert sum(len(labels) for _, labels in _epoch(source)) == 48


def test_batches_that_cannot_be(manifest):
    with pytest.raises(CompanionError, match="a batch of 52 is larger than the training set of 51 images"):
        _input(manifest).steps_per_epoch(52)
    with pytest.raises(CompanionError, match="cannot be split evenly over 3 processes"):
        next(_input(manifest).batches(0, batch_size=8, world=3))
    with pytest.raises(CompanionError, match="decoder is 'dali'; it must be one of torchvision, pillow, opencv"):
        _input(manifest, decoder="dali")
    with pytest.raises(CompanionError, match="augmentation is 'mixup'; it must be one of"):
        _input(manifest, augmentation="mixup")


def test_an_archive_replaced_while_training_is_one_sentence(manifest, tmp_path):
    import os

    file = manifest.files[0]
    status = os.stat(file)  # noqa: PTH116
    os.utime(file, ns=(0, 0))
    try:
        for workers in (0, 2):
            with pytest.raises(CompanionError, match="was replaced or changed"):
                list(_input(manifest, workers=workers).batches(0, batch_size=8))
    finally:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_order_is_a_permutation_without_pattern():
    order = epoch_order(10_000, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(10_000))
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.03
    assert abs(np.corrcoef(order, epoch_order(10_000, seed=1, epoch=3))[0, 1]) < 0.03
    assert (np.diff(order) == 1).mean() < 0.002


def test_the_order_is_pinned_over_versions():
    """Weights are named by what determines them; a library's new stream must not change the order silently."""
    assert epoch_order(10, seed=0, epoch=0).tolist() == ORDER_0_0
    assert np.allclose(uniform_draws(7, 3, np.array([5]), 3)[0], DRAWS_7_3_5, rtol=0, atol=1e-15)


ORDER_0_0 = [3, 8, 7, 6, 1, 5, 9, 0, 4, 2]
DRAWS_7_3_5 = [0.05350117255671927, 0.6720855522106725, 0.39385093503049484]


def test_draws_are_uniform_and_belong_to_their_image():
    from scipy.stats import kstest

    draws = uniform_draws(0, 0, np.arange(5000), DRAWS)
    assert draws.min() >= 0 and draws.max() < 1
    assert kstest(draws.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.05
    assert np.array_equal(uniform_draws(0, 0, np.array([4000, 3]), DRAWS), draws[[4000, 3]])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (1200, 90), (40, 900)])
def test_crops_are_distributed_as_random_resized_crop(size):
    """Against torchvision's own draws: areas, ratios and places by a two-sample test."""
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    width, height = size
    rows = uniform_draws(11, 0, np.arange(3000), DRAWS)
    ours = np.array([crop_box(width, height, row) for row in rows], float)
    torch.manual_seed(0)
    image = torch.empty(3, height, width, dtype=torch.uint8)
    boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    theirs = np.array([(left, top, w, h) for top, left, h, w in boxes], float)
    assert (ours[:, 0] + ours[:, 2] <= width).all() and (ours[:, 1] + ours[:, 3] <= height).all()
    assert (ours >= 0).all() and (ours[:, 2:] >= 1).all()
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > 1e-3


def test_half_of_the_images_are_mirrored():
    share = np.mean([flips(row) for row in uniform_draws(1, 1, np.arange(4000), DRAWS)])
    assert 0.47 < share < 0.53


def test_a_crop_is_cut_resized_and_mirrored_as_torchvision_does_it(manifest):
    from torchvision.transforms import functional

    from repvgg_companion.data.batches.augment import crop_flip_pillow, crop_flip_torchvision
    from repvgg_companion.data.decode import decode_pillow, decode_torchvision
    from repvgg_companion.data.reader import ImageReader

    reader = ImageReader(manifest)
    for place, row in enumerate(uniform_draws(5, 0, np.arange(51), DRAWS)):
        data = reader.read(place)
        image = decode_pillow(data)
        left, top, width, height = crop_box(*image.size, row)
        expected = functional.resized_crop(image, top, left, height, width, [16, 16])
        expected = np.asarray(functional.hflip(expected) if flips(row) else expected)
        assert np.array_equal(crop_flip_pillow(image, 16, row), expected)
        fast = crop_flip_torchvision(decode_torchvision(data), 16, row).numpy()
        assert np.abs(fast.astype(int) - expected).max() <= 1


def test_a_shift_moves_and_fills_with_black():
    images = torch.randint(1, 256, (400, 16, 16, 3), dtype=torch.uint8)
    draws = uniform_draws(0, 0, np.arange(400), 2)
    moved = shift(images, draws)
    seen = set()
    for image, result, row in zip(images, moved, draws):
        down, right = (int(value * 5) - 2 for value in row)
        seen.add((down, right))
        padded = np.zeros((20, 20, 3), np.uint8)
        padded[2:18, 2:18] = image.numpy()
        assert np.array_equal(result.numpy(), padded[2 + down : 18 + down, 2 + right : 18 + right])
    assert len(seen) == 25


def test_shift_flip_is_the_shift_and_then_half_of_the_images_mirrored(manifest):
    (moved, labels), *_ = _epoch(_input(manifest, augmentation="shift", decoder="pillow"), batch_size=51)
    (both, same), *_ = _epoch(_input(manifest, augmentation="shift-flip", decoder="pillow"), batch_size=51)
    assert torch.equal(labels, same)
    mirrored = [torch.equal(one, other.flip(-1)) and not torch.equal(one, other) for one, other in zip(both, moved)]
    unchanged = [torch.equal(one, other) for one, other in zip(both, moved)]
    assert all(one or other for one, other in zip(mirrored, unchanged))
    assert 10 < sum(mirrored) < 41  # 51 images


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("augmentation", ["shift", "crop-flip", "crop-flip-autoaugment"])
def test_images_decoded_once_serve_all_epochs_without_the_archive(manifest, monkeypatch, augmentation, decoder):
    from repvgg_companion.data.batches import training_input
    from repvgg_companion.data.reader import ImageReader

    with monkeypatch.context() as patched:
        patched.setattr(training_input, "MOST_BYTES_IN_MEMORY", 1)
        read_again = _input(manifest, augmentation=augmentation, decoder=decoder)
        epochs = [_epoch(read_again, epoch, batch_size=51) for epoch in (0, 1)]
    source = _input(manifest, augmentation=augmentation, decoder=decoder)
    _same(_epoch(source, batch_size=51), epochs[0])
    monkeypatch.setattr(ImageReader, "read", lambda self, place: pytest.fail("the image is read again"))
    _same(_epoch(source, epoch=1, batch_size=51), epochs[1])
    with pytest.raises(pytest.fail.Exception, match="is read again"):
        _epoch(read_again, epoch=1, batch_size=51)


def test_the_light_path_imports_no_torchvision(manifest):
    """A demo trains fourteen networks in as many processes, and torchvision costs each of them three seconds."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    code = f"""
import sys
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.data.batches.evaluation_input import evaluation_batches
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.data.batches.normalize import normalize
manifest = Manifest.read({manifest.path!r})
source = TrainingInput(manifest, input_px=16, augmentation="shift", decoder="pillow", seed=0)
for images, labels in source.batches(0, batch_size=8):
    normalize(images, device="cpu", channels_last=True)
list(evaluation_batches(manifest, EvaluationProtocol(None, 16), batch_size=8))
assert not set(sys.modules) & {{"torchvision", "pandas", "scipy", "cv2"}}, sorted(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_normalisation_is_torchvisions():
    from torchvision.transforms.v2 import functional

    from repvgg_companion.data.batches.normalize import MEAN, STD, normalize

    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    expected = functional.normalize(functional.to_dtype(images, torch.float32, scale=True), MEAN, STD)
    for channels_last in (False, True):
        ours = normalize(images, device="cpu", channels_last=channels_last)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert ours.is_contiguous(memory_format=layout)
    assert normalize(images, device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16
    with torch.inference_mode():
        normalize(images, device="cpu")
    weight = torch.ones(3, requires_grad=True)
    (normalize(images, device="cpu") * weight.view(1, 3, 1, 1)).sum().backward()
    assert weight.grad is not None


def test_autoaugment_is_applied_and_repeats(manifest):
    plain, augmented = _epoch(_input(manifest)), _epoch(_input(manifest, augmentation="crop-flip-autoaugment"))
    same = sum(torch.equal(a, b) for x, y in zip(plain, augmented) for a, b in zip(x[0], y[0]))
    assert 0 < same < 24, "ImageNet's policy leaves some images alone and changes most"
