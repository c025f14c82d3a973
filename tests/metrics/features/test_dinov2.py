"""DINOv2 on a tiny network of the same kind."""

import sys

import pytest
import torch

from cgt.errors import UserError
from cgt.files import sha256
from cgt.metrics.features import dinov2, load_extractor
from cgt.metrics.features.resize import resize_antialiased
from cgt.metrics.suite import Evaluator
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, patch_size=56, image_size=224
    )
    path = tmp_path_factory.mktemp("dinov2") / "tiny"
    transformers.Dinov2Model(config).save_pretrained(path)
    return path


def test_features_are_the_class_tokens_of_resized_and_normalised_pictures(folder):
    import transformers

    extractor = load_extractor("dinov2", str(folder))
    x = torch.randint(256, (3, 3, 40, 40), dtype=torch.uint8)
    resized = resize_antialiased(x.float(), 224) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    network = transformers.Dinov2Model.from_pretrained(folder).eval()
    expected = network((resized - mean[:, None, None]) / std[:, None, None]).last_hidden_state[:, 0]
    features = extractor(x)
    assert torch.allclose(features.pooled_ND, expected, atol=1e-5)
    assert features.logits_NK is None
    assert (extractor.dim, extractor.training) == (12, False)
    assert extractor.protocol == {
        "name": "dinov2",
        "sha256": sha256(folder / "model.safetensors"),
        "resize": "bicubic to 224 px, antialiased",
    }
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_features_are_float32_whatever_the_file_is_in(folder, tmp_path):
    import transformers

    transformers.Dinov2Model.from_pretrained(folder).half().save_pretrained(tmp_path)
    features = load_extractor("dinov2", str(tmp_path))(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert features.pooled_ND.dtype == torch.float32


def test_a_process_without_pictures_has_no_features_of_the_same_width(folder):
    """The network itself takes no empty batch."""

    class OfOtherProcesses(tiny.MemoryPictures):
        def once(self, *_, **__):
            return iter(())

    extractor = load_extractor("dinov2", str(folder))
    evaluator = Evaluator(OfOtherProcesses(("ant",), 3), extractor, ["fid"], 2, 0, 2, rank=3, world=4)
    features, y_N = evaluator._real_features(lambda: None)
    assert (features.pooled_ND.shape, features.logits_NK, y_N.shape) == ((0, 12), None, (0,))


def test_a_folder_of_another_network_is_refused(folder, tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"has no model\.safetensors: get .*https://huggingface\.co"):
        load_extractor("dinov2", str(tmp_path))
    save_file({"other": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"does not hold a DINOv2 network \(it lacks"):
        load_extractor("dinov2", str(tmp_path))


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers.*pip install 'cgt\[dinov2\]'"):
        dinov2.load(None)
