"""The resizes of published protocols against those who do them."""

import numpy as np
import pytest
import torch
from PIL import Image

from cgt.metrics.features.clean import Clean
from cgt.metrics.features.inception_tf import InceptionTF
from cgt.metrics.features.resize import as_imagenet, resize_antialiased
from tests.metrics.features.drawn import pictures


@pytest.mark.parametrize("size", [8, 32, 299, 320, 700])
def test_the_antialiased_resize_is_pillows_on_floats(size):
    x = pictures(size).float()
    resized = resize_antialiased(x, 299)
    for n, c in ((0, 0), (1, 2)):
        image = Image.fromarray(x[n, c].numpy(), mode="F").resize((299, 299), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(image)).clamp(0, 255)
        assert (resized[n, c] - expected).abs().max() < 0.01


def test_the_antialiased_resize_keeps_a_fine_pattern_from_becoming_a_coarse_one():
    stripes = torch.zeros(1, 1, 600, 600)
    stripes[..., ::2] = 255
    assert resize_antialiased(stripes, 60).std() < 2
    assert InceptionTF.resized(None, stripes).std() > 50


def test_clean_differs_from_the_standard_in_the_resize_alone():
    with torch.device("meta"):
        clean, standard = Clean(), InceptionTF()
    assert clean.blocks == standard.blocks
    assert {name: x.shape for name, x in clean.state_dict().items()} == {
        name: x.shape for name, x in standard.state_dict().items()
    }
    assert clean.protocol["resize"] != standard.protocol["resize"]
    x = pictures(32).float()
    assert torch.equal(clean.prepared(x), (resize_antialiased(x, 299) - 128) / 128)


def test_pictures_for_imagenets_networks_are_normalised_channel_by_channel():
    x = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
    assert as_imagenet(x).abs().max() < 1e-6
    assert as_imagenet(x + 255).flatten().tolist() == pytest.approx(
        [1 / 0.229, 1 / 0.224, 1 / 0.225], rel=1e-5
    )
