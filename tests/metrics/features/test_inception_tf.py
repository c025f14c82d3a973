"""The standard extractor on drawn weights: names, shapes, arithmetic; and its weights file."""

import pickle
import re

import pytest
import torch

from cgt.errors import UserError
from cgt.files import sha256
from cgt.metrics.features import load_extractor
from cgt.metrics.features.inception import Mix, MixedBlock
from cgt.metrics.features.inception_tf import WEIGHTS, InceptionTF, load
from cgt.metrics.features.resize import resize_tf1
from tests.metrics.features.drawn import drawn_weights, parity, pictures, relative_error


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file like the published one, with drawn values."""
    path = tmp_path_factory.mktemp("weights") / "drawn.pth"
    torch.save(drawn_weights(InceptionTF), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights):
    return load(weights)


def test_tensors_have_the_names_and_shapes_of_the_published_file():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in InceptionTF().state_dict().items()}
    assert len(shapes) == 566
    known = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch3x3dbl_3.bn.running_var": (96,),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch1x1.conv.weight": (320, 1280, 1, 1),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.bn.num_batches_tracked": (),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }
    assert {name: shapes.get(name) for name in known} == known
    assert sum(name.endswith("conv.weight") for name in shapes) == 94


def test_features_and_logits_have_the_published_widths(extractor):
    features = extractor(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8))
    assert features.pooled_ND.shape == (2, 2048)
    assert features.logits_NK.shape == (2, 1008)
    assert torch.isfinite(features.logits_NK).all()
    assert not torch.allclose(features.pooled_ND[0], features.pooled_ND[1])


def test_features_and_logits_are_those_of_torch_fidelity(extractor):
    """Computed once by torch-fidelity 0.4.0 from the same weights and pictures."""
    expected = parity("inception-tf")
    for size, reference in expected.items():
        features = extractor(pictures(size))
        assert relative_error(features.pooled_ND, reference.pooled_ND) < 1e-5
        assert relative_error(features.logits_NK, reference.logits_NK) < 1e-5


def test_logits_leave_the_bias_out(extractor):
    x = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    before = extractor(x).logits_NK
    extractor.fc.bias.add_(100)
    assert torch.equal(extractor(x).logits_NK, before)


def test_the_extractor_is_frozen_and_known_by_the_digest_of_its_file(extractor, weights):
    assert not extractor.training
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert extractor.sha256 == sha256(weights)


def literal_resize(picture: list[list[float]], size: int) -> list[list[float]]:
    """TensorFlow 1.x's resize_bilinear with align_corners=False, pixel by pixel."""
    height, width = len(picture), len(picture[0])
    result = []
    for i in range(size):
        y = i * (height / size)
        top, bottom, dy = int(y), min(int(y) + 1, height - 1), y - int(y)
        row = []
        for j in range(size):
            x = j * (width / size)
            left, right, dx = int(x), min(int(x) + 1, width - 1), x - int(x)
            above = picture[top][left] + (picture[top][right] - picture[top][left]) * dx
            below = picture[bottom][left] + (picture[bottom][right] - picture[bottom][left]) * dx
            row.append(above + (below - above) * dy)
        result.append(row)
    return result


@pytest.mark.parametrize(
    ("height", "width", "size"), [(8, 8, 29), (32, 32, 29), (5, 11, 13), (7, 7, 7), (3, 4, 1)]
)
def test_the_resize_is_tensorflows(height, width, size):
    x = torch.randint(256, (2, 3, height, width)).float()
    resized = resize_tf1(x, size)
    assert resized.shape == (2, 3, size, size)
    for n in range(2):
        for c in range(3):
            expected = torch.tensor(literal_resize(x[n, c].tolist(), size))
            assert torch.allclose(resized[n, c], expected, atol=1e-3)


def test_the_resize_is_neither_of_torchs():
    x = torch.randint(256, (1, 3, 32, 32)).float()
    for align_corners in (True, False):
        other = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=align_corners)
        assert (resize_tf1(x, 299) - other).abs().max() > 1


@pytest.mark.parametrize("pool", ["average", "max"])
def test_pools_leave_the_padding_out(pool):
    """A constant picture stays constant up to its border."""
    block = MixedBlock(1, Mix("only pool", (), pool, 1)).eval()
    torch.nn.init.ones_(block.branch_pool.conv.weight)
    out = block(torch.ones(1, 1, 5, 5))
    assert torch.allclose(out, out[0, 0, 2, 2].expand_as(out))


def test_the_last_block_takes_the_maximum_and_the_others_the_mean():
    with torch.device("meta"):
        network = InceptionTF()
    pools = {
        name: block.plan.pool for name, block in network.named_children() if isinstance(block, MixedBlock)
    }
    assert pools.pop("Mixed_7c") == "max"
    assert {pools.pop("Mixed_6a"), pools.pop("Mixed_7a")} == {"halve"}
    assert set(pools.values()) == {"average"}


def test_a_missing_file_is_named_with_where_to_get_it_and_the_option(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for source in (None, str(tmp_path / "mine.pth")):
        with pytest.raises(UserError) as caught:
            load_extractor("inception-tf", source)
        for part in (
            source or f"{tmp_path}/checkpoints/{WEIGHTS.name}",
            "https://",
            "--weights",
            "cgt features train",
        ):
            assert part in str(caught.value)


def test_the_file_in_torchs_hub_cache_is_found(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / WEIGHTS.name).symlink_to(weights)
    assert load_extractor("inception-tf").sha256 == sha256(weights)


class Attack:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("kind", ["other tensors", "text", "code", "cut off"])
def test_a_file_of_something_else_is_refused_and_not_executed(tmp_path, weights, capsys, kind):
    path = tmp_path / "file.pth"
    if kind == "other tensors":
        torch.save({"fc.weight": torch.zeros(3)}, path)
    elif kind == "text":
        path.write_text("hello")
    elif kind == "code":
        path.write_bytes(pickle.dumps({"fc.weight": Attack()}, protocol=2))
    else:
        path.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match=re.escape(f"{path} does not hold the Inception weights")):
        load(path)
    assert "executed" not in capsys.readouterr().out
