"""The extractor of the paper's protocol on drawn weights."""

import pytest
import torch

from cgt.errors import UserError
from cgt.metrics.features import load_extractor
from cgt.metrics.features.inception_torchvision import WEIGHTS, InceptionTorchvision
from tests.metrics.features.drawn import drawn_weights, parity, pictures, relative_error


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as torchvision publishes it: with the tensors of the auxiliary classifier."""
    path = tmp_path_factory.mktemp("weights") / "drawn.pth"
    torch.save(drawn_weights(InceptionTorchvision) | {"AuxLogits.fc.weight": torch.zeros(1000, 768)}, path)
    return path


def test_features_and_logits_are_those_of_torchvision(weights):
    """Computed once by torchvision 0.29's network behind the protocol written out literally."""
    extractor = load_extractor("inception-torchvision", str(weights))
    for size, reference in parity("inception-torchvision").items():
        features = extractor(pictures(size))
        assert relative_error(features.pooled_ND, reference.pooled_ND) < 1e-5
        assert relative_error(features.logits_NK, reference.logits_NK) < 1e-5


def test_tensors_have_the_names_and_shapes_of_torchvisions_file():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in InceptionTorchvision().state_dict().items()}
    assert len(shapes) == 566
    known = {
        "Conv2d_2b_3x3.bn.running_mean": (64,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_7c.branch3x3_2b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1000, 2048),
    }
    assert {name: shapes.get(name) for name in known} == known


def test_weights_of_tensorflows_inception_are_refused(tmp_path):
    with torch.device("meta"):
        state = InceptionTorchvision().state_dict()
    other = {name: torch.zeros_like(tensor, device="cpu") for name, tensor in state.items()}
    torch.save(
        other | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, tmp_path / "tf.pth"
    )
    with pytest.raises(UserError, match=rf"does not hold the torchvision .*{WEIGHTS.name} .*fc\.weight"):
        load_extractor("inception-torchvision", str(tmp_path / "tf.pth"))
