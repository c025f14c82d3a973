"""BigGAN-deep against what pytorch-pretrained-BigGAN computed of tests/golden/hf_biggan_deep32.

Its z is stored before truncation multiplies it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cgt.cli import main
from cgt.errors import UserError
from cgt.interop.hf_biggan import convert
from cgt.models.folder import load_model

CHECKPOINT = Path(__file__).parents[1] / "golden" / "hf_biggan_deep32"
IMAGES = {1.0: "eval_images", 0.4: "images_trunc_0_40", 0.43: "images_trunc_0_43"}
EVALUATE = """
import sys, cgt, numpy, torch
folder, truncation, out = sys.argv[1:]
generator, t = cgt.load_generator(folder), float(truncation)
original = numpy.load(sys.argv[1] + "/../io.npz")
z, y = torch.from_numpy(original["z"]), torch.from_numpy(original["y"])
numpy.save(out, generator(z * t, y, truncation=t).numpy())
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder that the command line writes."""
    root = tmp_path_factory.mktemp("hf")
    shutil.copy(CHECKPOINT / "io.npz", root)
    assert main(["convert", "hf-biggan", str(CHECKPOINT), str(root / "model")]) == 0
    return root / "model"


@pytest.mark.parametrize("truncation", IMAGES)
def test_pictures_are_the_original_s_at_every_truncation(truncation: float) -> None:
    original = {name: torch.from_numpy(values) for name, values in np.load(CHECKPOINT / "io.npz").items()}
    generator, discriminator, _ = convert(CHECKPOINT)
    assert discriminator is None
    with torch.no_grad():
        images = generator(original["z"] * truncation, original["y"], truncation=truncation)
    assert float((images - original[IMAGES[truncation]]).abs().max()) <= 1e-5


@pytest.mark.parametrize("truncation", [0.4, 0.43])
def test_a_fresh_process_makes_them_of_the_folder(written: Path, truncation: float, tmp_path: Path) -> None:
    out = tmp_path / "images.npy"
    subprocess.run(
        [sys.executable, "-c", EVALUATE, str(written), str(truncation), str(out)], check=True, timeout=300
    )
    expected = np.load(CHECKPOINT / "io.npz")[IMAGES[truncation]]
    assert np.abs(np.load(out) - expected).max() <= 1e-5


def test_the_folder_keeps_the_embedding_with_norms_fixed(written: Path) -> None:
    generator, discriminator = load_model(written)
    assert generator.folded
    assert generator.levelled
    assert discriminator is None
    assert [bank.kind for bank in generator.banks] == ["embedding"]
    assert not [name for name in generator.state_dict() if name.endswith(".u")]


def test_truncated_pictures_of_the_command_line_take_the_statistics_of_the_truncation(
    written: Path, tmp_path: Path
) -> None:
    for name in ("0.4", "1"):
        out = tmp_path / f"{name}.png"
        arguments = ["sample", str(written), "--out", str(out), "--per-class", "2", "--truncation", name]
        assert main(arguments) == 0
    assert (tmp_path / "0.4.png").read_bytes() != (tmp_path / "1.png").read_bytes()
    assert main(["sample", str(written), "--out", str(tmp_path / "2.png"), "--truncation", "1.5"]) == 2
    assert not (tmp_path / "2.png").exists()


CONFIGS = {
    "layers": ([[True, 16, 16], [False, 16, 8]], r"doubles the size in blocks \[0\]"),
    "output_dim": (48, "says output_dim 48, and 4 px doubled 3 times are 32 px"),
    "z_dim": (
        12,
        r"'generator.gen_z.weight' has the shape \(1024, 32\), and by config.json it is \(1024, 28\)",
    ),
    "attention_layer_position": (
        3,
        "says attention_layer_position 3, and attention must stand behind a block that doubles the size",
    ),
    "n_stats": (31, r"'generator.bn.running_means' has the shape \(51, 4\)"),
    "eps": (None, "eps: Input should be a valid number"),
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_config_that_the_weights_do_not_fit_is_refused(key: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    value, told = CONFIGS[key]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match=told):
        convert(folder)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "\0"])
def test_a_config_that_is_no_json_is_refused(content: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json is not valid JSON"):
        convert(folder)


def test_weights_that_are_missing_are_told_with_what_is_there(tmp_path: Path) -> None:
    told = r"holds no other\.bin \(there is: pytorch_model\.bin\): .* --weights FILE"
    with pytest.raises(UserError, match=told):
        convert(CHECKPOINT, weights=Path("other.bin"))
    with pytest.raises(UserError, match=r"holds no pytorch_model\.bin \(there is: no \.bin file at all\)"):
        convert(tmp_path)


def test_without_its_config_it_is_refused(tmp_path: Path) -> None:
    shutil.copy(CHECKPOINT / "pytorch_model.bin", tmp_path)
    with pytest.raises(UserError, match=r"there is no .*config.json, which tells where"):
        convert(tmp_path)


@pytest.mark.parametrize("vector", ["weight_u", "weight_v"])
def test_a_norm_without_one_of_its_vectors_is_refused(vector: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del stored[f"generator.gen_z.{vector}"]
    torch.save(stored, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="'generator.gen_z' lacks the vectors of its spectral norm"):
        convert(folder)
