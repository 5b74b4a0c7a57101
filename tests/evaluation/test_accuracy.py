"""Counting right answers: against hand-made logits, the textbook interval, and broken networks."""

import math

import numpy as np
import pytest
import torch

from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.errors import CompanionError
from repvgg_companion.evaluation.accuracy import predict, wilson_interval_pct


class Oracle(torch.nn.Module):
    """Reads the class from the red channel of the first pixel, and errs where the green one is above zero."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.seen_training = None

    def forward(self, images):
        self.seen_training = self.training
        plain = images.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        scale = images.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        pixels = ((images * scale + plain) * 255).round()[:, :, 0, 0].long()
        logits = torch.zeros(len(images), self.classes)
        for row, (red, green, _) in enumerate(pixels.tolist()):
            logits[row, (red + green) % self.classes] = 2.0
            logits[row, red] += 1.0
        return logits


def images_of(labels, shift):
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    images[:, 0] = torch.tensor(labels).view(-1, 1, 1)
    images[:, 1] = torch.tensor(shift).view(-1, 1, 1)
    return images, torch.tensor(labels)


def test_top1_top5_and_margin_of_known_answers():
    module = Oracle(10).train()
    batches = [images_of([1, 2, 3], [0, 1, 0]), images_of([9], [2])]
    predictions = predict(module, batches, device="cpu")
    assert predictions.top1_correct == 2 and predictions.top5_correct == 4
    assert predictions.top[:, 0].tolist() == [1, 3, 3, 1]
    assert predictions.margin.tolist() == [3, 1, 3, 1]
    assert module.seen_training is False, "evaluated in train mode"


def test_few_classes_have_a_shorter_top():
    predictions = predict(Oracle(3), [images_of([0, 1], [0, 1])], device="cpu")
    assert predictions.top.shape == (2, 3) and predictions.top5_correct == 2


def test_a_network_without_finite_logits_has_no_accuracy():
    class Broken(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 5), math.nan)

    with pytest.raises(CompanionError, match="not finite"):
        predict(Broken(), [images_of([0], [0])], device="cpu")
    with pytest.raises(CompanionError, match="no images"):
        predict(Oracle(5), [], device="cpu")


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (7, 9), (38_045, 50_000)])
def test_the_wilson_interval_is_the_textbook_formula(correct, total):
    z, p = 1.959963984540054, correct / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low, high = wilson_interval_pct(correct, total)
    assert low == pytest.approx(100 * (centre - half), abs=1e-9)
    assert high == pytest.approx(100 * (centre + half), abs=1e-9)


def test_normalize_is_the_imagenet_mean_and_deviation():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 5, 5), dtype=np.uint8))
    expected = (images.float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    torch.testing.assert_close(normalize(images, device="cpu"), expected, rtol=1e-5, atol=1e-6)
