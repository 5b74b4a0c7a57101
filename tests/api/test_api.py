"""The names of `import repvgg_companion as rc`: from a file to a prediction, and blocks in another network."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import repvgg_companion as rc
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import write_json
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.weights_file import save_weights

PROTOCOL = "resize36-crop32-bilinear-pillow"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    built = rc.build("RepVGG-1.1.2.1.1-a0.25-b0.25-g2-s1.1.2.2.2", num_classes=5)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return built.eval()


@pytest.fixture
def train_file(network, tmp_path):
    identity = WeightsIdentity(
        "mine", "", "RepVGG-1.1.2.1.1-a0.25-b0.25-g2-s1.1.2.2.2", 1.0, 5, "short", "0" * 8, "0", 32
    )
    save_weights(tmp_path / "train.safetensors", network.state_dict(), identity)
    return tmp_path / "train.safetensors"


def test_the_package_itself_loads_no_torch():
    code = "import sys, repvgg_companion as rc; assert 'load' in dir(rc); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        rc.lode  # noqa: B018


def test_from_a_file_to_a_prediction(network, train_file, tmp_path):
    Image.effect_noise((50, 40), 80).convert("RGB").save(tmp_path / "cat.png")
    image = rc.transform(PROTOCOL)(tmp_path / "cat.png")
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32
    deploy, train = rc.load(train_file), rc.load(train_file, form="train")
    assert not any("rbr_dense" in key for key in deploy.state_dict())
    with torch.inference_mode():
        expected, found = network(image[None]), deploy(image[None])
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in train.state_dict().items())
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    with Image.open(tmp_path / "cat.png") as opened:
        assert torch.equal(rc.transform(PROTOCOL)(opened), image)
    assert torch.equal(rc.transform(PROTOCOL)((tmp_path / "cat.png").read_bytes()), image)


def test_weights_of_the_authors_load_from_inside_a_larger_model(tmp_path):
    released = rc.build("RepVGG-A0", num_classes=3)
    state = {f"backbone.{key}": tensor for key, tensor in released.state_dict().items()} | {"head.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "detector.pth")
    loaded = rc.load(tmp_path / "detector.pth", form="train", prefix="backbone.")
    assert torch.equal(loaded.linear.weight, released.linear.weight)


class Detector(nn.Module):
    """A network of a user: five input channels, blocks in a list and an ordinary head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            [rc.RepVGGBlock(5, 16, stride=2, squeeze_excitation=True), rc.RepVGGBlock(16, 16, groups=4, dilation=2)]
        )
        self.head = nn.Sequential(nn.Conv2d(16, 7, 1), nn.BatchNorm2d(7))

    def forward(self, images):
        for block in self.blocks:
            images = block(images)
        return self.head(images).mean((2, 3))


class Pair(Detector):
    """A network that returns two tensors."""

    def forward(self, images):
        return super().forward(images), images


def test_blocks_in_a_network_of_ones_own_are_converted():
    torch.manual_seed(1)
    detector = Detector()
    detector(torch.randn(8, 5, 20, 12))  # moves the statistics of the batch norms
    before = {key: tensor.clone() for key, tensor in detector.state_dict().items()}
    images = torch.randn(4, 5, 20, 12)
    result = rc.certify(detector, images)
    assert result.passed and result.prediction_flips == 0 and result.n_inputs == 4
    converted = rc.convert(detector)
    assert [key for key in converted.state_dict() if "rbr" in key] == [
        f"blocks.{number}.rbr_reparam.{name}" for number in (0, 1) for name in ("weight", "bias")
    ]
    assert all(torch.equal(before[key], tensor) for key, tensor in detector.state_dict().items())
    assert detector.training and not converted.training
    with torch.inference_mode():
        expected = detector.eval()(images)
        assert torch.allclose(converted(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    one = rc.convert(detector.blocks[0])
    assert isinstance(one, rc.RepVGGBlock) and one.deploy


def test_a_faulty_conversion_does_not_pass(network):
    faulty = rc.convert(network)
    with torch.no_grad():
        faulty.stage0.rbr_reparam.bias[0] += 1e-3
    result = rc.certify(network, torch.randn(3, 3, 32, 24), faulty)
    assert not result.passed and result.float64_max_relative_error > 1e-6


def test_class_names():
    names = rc.class_names()
    assert len(names) == 1000 and names[0] == "tench" and names[999] == "toilet tissue"


def test_class_names_of_a_config_beside_weights(tmp_path):
    write_json(tmp_path / "config.json", {"classes": ["daisy", "tulip"]})
    assert rc.class_names(tmp_path / "config.json") == ["daisy", "tulip"]
    (tmp_path / "deploy.safetensors").touch()
    assert rc.class_names(tmp_path / "deploy.safetensors") == ["daisy", "tulip"]
    write_json(tmp_path / "config.json", ["daisy"])
    with pytest.raises(CompanionError, match="lists no classes"):
        rc.class_names(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda file: rc.load(file, form="half"), "form 'half' is unknown"),
        (lambda file: rc.load(file.with_name("none.pth")), "does not exist"),
        (lambda file: rc.convert(nn.Linear(2, 2)), "Linear contains no RepVGG block in train form"),
        (lambda file: rc.transform("crop32"), "is not an evaluation protocol"),
        (rc.transform(PROTOCOL), "train.safetensors cannot be decoded"),
        (lambda file: rc.transform(PROTOCOL)(f"{file}.none"), "No such file or directory; name an image file"),
        (rc.class_names, "train.safetensors is a weights file without a config.json beside it; name the config.json"),
        (lambda file: rc.class_names(f"{file}.none"), "train.safetensors.none does not exist; name the config.json"),
        (lambda file: rc.class_names(file.parent), "is a folder; name the config.json"),
        (lambda file: rc.load("RepVGG-A9"), "no model 'RepVGG-A9'; the nearest names are RepVGG-A"),
        (lambda file: rc.load("RepVGG-B1g2"), "timm publishes no weights of RepVGG-B1g2"),
        (lambda file: rc.load(5), "source is of type int; give the path of a weights file"),
        (lambda file: rc.load(file, prefix=5), "prefix is of type int"),
        (lambda file: rc.load(file, model=5), "model is of type int"),
        (lambda file: rc.load("RepVGG-A0", folder=5), "folder is of type int"),
        (lambda file: rc.load(file, form=None), "form None is unknown"),
        (lambda file: rc.load(file.parent), "is a folder"),
        (lambda file: rc.load(__file__), "is neither a safetensors nor a PyTorch file"),
        (lambda file: rc.load(file, model="RepVGG-A1"), "is not RepVGG-A1"),
        (lambda file: rc.build(5), "the name of a network is of type int; give one such as 'RepVGG-A0'"),
        (lambda file: rc.build("RepVGG-A0", num_classes=0), "with 0 classes cannot be built"),
        (lambda file: rc.build("RepVGG-A0", num_classes=2.5), "num_classes is of type float"),
        (lambda file: rc.build("RepVGG-A0", width=0), "the width factor is 0"),
        (lambda file: rc.build("RepVGG-A0", width=float("inf")), "the width factor is inf"),
        (lambda file: rc.build("RepVGG-A0", width=float("nan")), "the width factor is nan"),
        (lambda file: rc.build("RepVGG-A0", width="0.25"), "width is of type str"),
        (lambda file: rc.build("RepVGG-A0", form=1), "form 1 is unknown"),
        (lambda file: rc.convert("x"), "module is of type str; give a network"),
        (lambda file: rc.certify("x", torch.randn(1, 3, 8, 8)), "train is of type str; give a network"),
        (lambda file: rc.certify(Detector(), "x"), "images is of type str; give a tensor"),
        (lambda file: rc.certify(Detector(), torch.randn(5, 20, 12)), r"images have the shape \[5, 20, 12\]; give"),
        (lambda file: rc.certify(Detector(), torch.randn(0, 5, 20, 12)), "of at least 1 image"),
        (lambda file: rc.certify(Detector(), torch.randn(1, 5, 20, 12), 5), "deploy is of type int"),
        (lambda file: rc.certify(Detector(), torch.randn(1, 3, 20, 12)), "to have 5 channels, but got 3 channels"),
        (lambda file: rc.certify(Detector(), torch.randn(1, 5, 20, 12), nn.Flatten()), "Detector cannot be compared"),
        (lambda file: rc.certify(Pair(), torch.randn(1, 5, 20, 12)), "that return one tensor"),
        (lambda file: rc.transform(5), "protocol is of type int; give a label such as"),
        (lambda file: rc.transform(PROTOCOL)(torch.zeros(3, 8, 8)), "the image is of type Tensor; give a path, bytes"),
        (lambda file: rc.transform(PROTOCOL)(b""), "the image cannot be decoded"),
        (lambda file: rc.class_names(5), "source is of type int; give the path of a config.json"),
        (lambda file: rc.class_names(__file__), "test_api.py"),
        (lambda file: rc.RepVGGBlock(0, 3), "in_channels of a RepVGGBlock is 0; give a whole number of at least 1"),
        (lambda file: rc.RepVGGBlock(3, -1), "out_channels of a RepVGGBlock is -1"),
        (lambda file: rc.RepVGGBlock(3, 2.0), "out_channels of a RepVGGBlock is 2.0"),
        (lambda file: rc.RepVGGBlock(4, 4, stride=0), "stride of a RepVGGBlock is 0"),
        (lambda file: rc.RepVGGBlock(4, 4, stride=(2, 2)), r"stride of a RepVGGBlock is \(2, 2\)"),
        (lambda file: rc.RepVGGBlock(4, 4, groups="2"), "groups of a RepVGGBlock is '2'"),
        (lambda file: rc.RepVGGBlock(4, 4, dilation=True), "dilation of a RepVGGBlock is True"),
        (lambda file: rc.RepVGGBlock(3, 4, groups=2), "in_channels of a RepVGGBlock is 3; give a multiple of its 2"),
        (lambda file: rc.RepVGGBlock(4, 3, groups=2), "out_channels of a RepVGGBlock is 3; give a multiple"),
        (lambda file: rc.RepVGGBlock(4, 4, block="repvg"), "there is no block 'repvg'; did you mean repvgg"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(train_file, call, message):
    with pytest.raises(CompanionError, match=message) as caught:
        call(train_file)
    assert "\n" not in str(caught.value)


def test_a_deploy_file_has_no_branches_to_give_back(train_file, network):
    identity = WeightsIdentity("mine", "", "RepVGG-A0", 1.0, 5, "short", "0" * 8, "0", 32, form="deploy")
    save_weights(train_file.with_name("deploy.safetensors"), rc.convert(network).state_dict(), identity)
    with pytest.raises(CompanionError, match="holds the deploy form, whose branches are lost"):
        rc.load(train_file.with_name("deploy.safetensors"), form="train")
