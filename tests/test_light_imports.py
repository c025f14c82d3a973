"""Loading and sampling needs few packages: so an exported model runs where nothing else is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cgt.models.folder import save_model
from tests import tiny

NEEDED = {"torch", "numpy", "safetensors", "PIL", "pydantic"}
THEIR_NEEDS = {
    "torch": {"torchgen", "typing_extensions", "sympy", "mpmath", "networkx", "filelock", "fsspec"},
    "pydantic": {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"},
}
MADE_BY_THEM = {"_remote_module_non_scriptable", "_sysconfigdata", "_cython", "cython_runtime", "__mp_main__"}
"""Beginnings of the names of modules that no package of that name has."""

PROGRAM = '''
import json, sys

class Seeing:
    """A finder that finds some packages alone, as if no other were installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        seen = top in allowed or top in sys.stdlib_module_names or top.startswith(made)
        return self.finder.find_spec(name, path, target) if seen else None

    def invalidate_caches(self):
        getattr(self.finder, "invalidate_caches", int)()

allowed, made, place = set(json.loads(sys.argv[1])), tuple(json.loads(sys.argv[2])), sys.argv[3]
before = set(sys.modules)
sys.meta_path[:] = [Seeing(finder) for finder in sys.meta_path]

from pathlib import Path
import cgt

generator = cgt.load_generator(place)
images = generator.sample(["ant", "ant:0.5+dog:0.5"], n=3, truncation=0.5, seed=0)

from cgt.images import encode_png, save_grid

save_grid(Path(place, "..", "grid.png"), images, 3, labels=["ant", "both"])
Path(place, "..", "one.png").write_bytes(encode_png(images[0]))
generator.save_pretrained(Path(place, "..", "again"))
assert cgt.Generator.from_pretrained(Path(place, "..", "again")).classes == generator.classes
assert "torch._dynamo" not in sys.modules, "the compiler takes seconds to import"
imported = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps(sorted(name for name in imported if not name.startswith(made))))
'''


@pytest.fixture
def place(tmp_path: Path) -> Path:
    source = tiny.source(tiny.PER_LAYER)
    save_model(tmp_path / "model", source.generator, source.discriminator, provenance={})
    return tmp_path / "model"


def test_a_model_is_loaded_sampled_and_saved_with_few_packages(place: Path) -> None:
    allowed = {"cgt", *NEEDED}.union(*THEIR_NEEDS.values())
    words = [json.dumps(sorted(names)) for names in (allowed, MADE_BY_THEM)]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, str(place)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    imported = set(json.loads(result.stdout))
    assert imported <= allowed
    assert imported >= NEEDED, "the program does not do what the test is about"
    assert {path.name for path in place.parent.iterdir()} == {"model", "again", "grid.png", "one.png"}
