"""Model folders that `cgt convert` wrote, in a fresh process, against what the original programs computed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cgt.cli import main
from tests.interop.checkpoints import FOLDERS

TOLERANCE = 1e-5

READER = """
import json, sys
import numpy as np
import torch
import cgt
from cgt.models.folder import load_model

torch.set_num_threads(1)
found = {}
for model, npz in json.loads(sys.argv[1]):
    original = {name: torch.from_numpy(array) for name, array in np.load(npz).items()}
    z, y = original["z"], original["y"]
    whole, discriminator = load_model(model)
    with torch.no_grad():
        pictures = {"folded": cgt.load_generator(model), "as trained": whole}
        differences = {
            name: generator(z, y + generator.first_of_last_bank) - original["eval_images"]
            for name, generator in pictures.items()
        }
        if discriminator is not None:
            fake, real = discriminator(original["eval_images"], y), discriminator(original["x"], y)
            differences["fake"] = fake - original["eval_logits_fake"][:, 0]
            differences["real"] = real - original["eval_logits_real"][:, 0]
    found[model] = {name: float(value.abs().max()) for name, value in differences.items()}
print(json.dumps(found))
"""


def test_a_fresh_process_gets_what_the_original_programs_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []
    for format_name, folder in FOLDERS:
        out = tmp_path / folder.name
        assert main(["convert", format_name, str(folder), str(out)]) == 0
        models.append((str(out), str(folder / "io.npz")))
    result = subprocess.run(
        [sys.executable, "-c", READER, json.dumps(models)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for model, differences in json.loads(result.stdout).items():
        logits = set() if "hf_" in model else {"fake", "real"}
        assert differences.keys() == {"folded", "as trained"} | logits
        assert max(differences.values()) <= TOLERANCE, (model, differences)
