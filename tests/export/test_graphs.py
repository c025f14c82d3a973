"""ONNX files and torch.export programs: what they make is what the model makes, for classes of every bank."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cgt.cli import main
from cgt.export.base import Model, Options
from cgt.export.graphs import folded, traceable
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import load_generator, load_model, save_model
from tests import tiny
from tests.transfer.methods import make

Call = Callable[[Tensor, Tensor], Tensor]
TARGETS = ["onnx", "torch-export"]
GRAPHS = pytest.mark.parametrize("target", TARGETS)
MIXING = ("--mixing", "--truncation", "0.5")
"""Of the hierarchical exports, which the tests share."""


def opened(folder: Path, target: str, *, mixing: bool = False) -> Call:
    """What was exported, as a function."""
    name = "generator_mixing" if mixing else "generator"
    if target == "torch-export":
        call: Call = torch.export.load(folder / f"{name}.pt2").module()
        return call
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
    second = "weights" if mixing else "y"
    return lambda z, other: torch.from_numpy(
        session.run(["images"], {"z": z.numpy(), second: other.numpy()})[0]
    )


@pytest.fixture
def graph(target: str, exported: Callable[..., Path]) -> Path:
    """The export of the hierarchical model with mixing."""
    if target == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    return exported("hierarchical", target, *MIXING)


@GRAPHS
@pytest.mark.parametrize("size", [1, 7, 64])
def test_it_makes_what_the_model_makes(size: int, target: str, graph: Path, models: dict[str, Path]) -> None:
    generator, _ = load_model(models["hierarchical"])
    call = opened(graph, target)
    starts = [0, 4, 6] if size == 1 else [0]
    for start in starts:  # a class of each bank alone, or all of them
        z, y = torch.randn(size, generator.dim_z), (torch.arange(size) + start) % len(generator.classes)
        with torch.no_grad():
            torch.testing.assert_close(call(z, y), generator(z, y), atol=1e-5, rtol=0)


@GRAPHS
def test_an_id_that_there_is_not_gives_nan_and_no_other_picture_is_touched(
    target: str, graph: Path, models: dict[str, Path]
) -> None:
    generator, _ = load_model(models["hierarchical"])
    z, y = torch.randn(5, generator.dim_z), torch.tensor([-1, 8, 9, 2**40, -(2**40)])
    images = opened(graph, target)(z, y)
    assert images[[0, 2, 3, 4]].isnan().all()
    with torch.no_grad():
        torch.testing.assert_close(images[1:2], generator(z[1:2], y[1:2]), atol=1e-5, rtol=0)


@GRAPHS
def test_weights_mix_classes_of_several_banks(target: str, graph: Path, models: dict[str, Path]) -> None:
    generator, _ = load_model(models["hierarchical"])
    call = opened(graph, target, mixing=True)
    for size in (1, 7):
        z = torch.randn(size, generator.dim_z)
        y = torch.tensor([[0, 5, 7]]).expand(size, -1)
        share = torch.tensor([[0.2, 0.3, 0.5]]).expand(size, -1)
        weights = torch.zeros(size, len(generator.classes)).scatter(1, y, share)
        with torch.no_grad():
            wanted = generator.interpolate(z, y, share)
        torch.testing.assert_close(call(z, weights), wanted, atol=1e-5, rtol=0)


@GRAPHS
def test_a_model_without_hierarchy_exports_some_of_its_classes(
    target: str, exported: Callable[..., Path], models: dict[str, Path]
) -> None:
    if target == "onnx":
        pytest.importorskip("onnxscript")
    folder = exported("flat", target, "--classes", "gnu,bee,yak")
    generator, _ = load_model(models["flat"])
    kept = torch.tensor([generator.classes.index(name) for name in ("bee", "yak", "gnu")])
    z, y = torch.randn(7, generator.dim_z), torch.arange(7) % 3
    with torch.no_grad():
        torch.testing.assert_close(opened(folder, target)(z, y), generator(z, kept[y]), atol=1e-5, rtol=0)


@GRAPHS
def test_the_program_of_the_card_runs_without_cgt(
    target: str, graph: Path, run_card: Callable[..., str]
) -> None:
    assert run_card(graph).startswith("(8, 3, 8, 8)")


@GRAPHS
def test_the_card_tells_inputs_classes_and_agreement(target: str, graph: Path) -> None:
    card = (graph / "README.md").read_text(encoding="utf-8")
    for line in (
        "| `z` | float32 (N, 9) | N(0, 1) within -0.5 and 0.5: draw again what is beyond |",
        "| `y` | int64 (N,) | class ids, 0 to 8; any other gives a picture of NaN, never another class's |",
        "| `images` | float32 (N, 3, 8, 8) | RGB in [-1, 1] |",
        "| 4 | owl |",
        "| 8 | gnu |",
    ):
        assert line in card
    for bank in ("ant, bee, cat and 1 more", "owl, yak", "elk, fox, gnu", "mixes of classes"):
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {bank} |")]
        assert float(row.split("|")[2]) < 1e-5


@GRAPHS
def test_files_hold_no_paths_of_this_machine(target: str, graph: Path) -> None:
    here = str(Path(__file__).parents[2]).encode()
    for path in graph.iterdir():
        if path.name != "README.md":
            assert here not in path.read_bytes(), path.name


def test_an_onnx_file_knows_its_classes(exported: Callable[..., Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = onnxruntime.InferenceSession(str(exported("hierarchical", "onnx", *MIXING) / "generator.onnx"))
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == [*tiny.OLD, "owl", "yak", *tiny.NEW]
    assert (told["resolution"], told["dim_z"], told["truncation"]) == ("8", "9", "0.5")
    assert [(row.name, row.type, len(row.shape)) for row in session.get_inputs()] == [
        ("z", "tensor(float)", 2),
        ("y", "tensor(int64)", 1),
    ]
    assert [row.name for row in session.get_outputs()] == ["images"]


def test_a_program_knows_its_classes(exported: Callable[..., Path]) -> None:
    facts: dict[str, Any] = {"facts.json": ""}
    torch.export.load(exported("hierarchical", "torch-export", *MIXING) / "generator.pt2", extra_files=facts)
    assert json.loads(facts["facts.json"])["classes"][-1] == "gnu"


@pytest.mark.parametrize("target", [*TARGETS, "aoti"])
def test_steered_classes_are_refused_and_the_others_exported(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if target == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    generator = tiny.source(tiny.PER_LAYER).generator
    generator.append(make("ppgn", tiny.PER_LAYER).networks()[0].last_bank.stored())
    save_model(tmp_path / "model", generator.eval(), provenance={})
    words = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", target]
    assert main(words) == 2
    error = " ".join(capsys.readouterr().err.split())
    if "C++ compiler" not in error:
        assert "the classes elk, fox, gnu are steered (ppgn): each picture takes gradient steps" in error
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    if target == "torch-export":
        assert main([*words, "--classes", "old"]) == 0


def test_steered_classes_are_exported_as_a_folder_and_not_compared(tmp_path: Path) -> None:
    """With the published number of steps, which magnify rounding beyond what is allowed."""
    generator = tiny.source(tiny.PER_LAYER).generator
    generator.append(make("ppgn", tiny.PER_LAYER, iterations=200).networks()[0].last_bank.stored())
    save_model(tmp_path / "model", generator.eval(), provenance={})
    words = [str(tmp_path / "model"), str(tmp_path / "out"), "--format", "safetensors"]
    assert main(["export", *words]) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Not compared: elk, fox, gnu, whose pictures are looked for" in card
    assert "| ant, bee, cat and 1 more |" in card


def test_graphs_hold_kernels_of_enlargements_only_where_one_picture_uses_them() -> None:
    generator = Generator(GeneratorConfig(channels=(32, 8, 8), dim_z=6), 8, tiny.OLD).eval()
    traced = traceable(Model(Path("none"), generator, None, {}), Options())
    assert [block.doubling.doubling_kernel is not None for block in traced.blocks] == [False, True]
    assert all(block.doubling.doubling_kernel is not None for block in folded(generator).blocks)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_graphs_of_levelled_and_deep_generators_have_the_statistics_of_the_truncation(
    target: str, tmp_path: Path
) -> None:
    if target == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    checkpoint = Path(__file__).parents[1] / "golden" / "hf_biggan_deep32"
    assert main(["convert", "hf-biggan", str(checkpoint), str(tmp_path / "model")]) == 0
    words = ["--format", target, "--mixing", "--truncation", "0.43", "--classes", "class_001,class_004"]
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), *words]) == 0
    generator = load_generator(tmp_path / "model")
    z = torch.randn(7, generator.dim_z) * 0.43
    y = torch.arange(7) % 2
    expected = generator(z, torch.tensor([1, 4])[y], truncation=0.43)
    torch.testing.assert_close(opened(tmp_path / "out", target)(z, y), expected, atol=1e-5, rtol=0)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "then multiplied by 0.43, for which the batch-norm statistics are" in card


@pytest.mark.slow
def test_machine_code_makes_what_the_model_makes(
    exported: Callable[..., Path], models: dict[str, Path], run_card: Callable[..., str]
) -> None:
    from cgt.errors import UserError
    from cgt.export.aoti import compiler

    try:
        compiler()
    except UserError:
        pytest.skip("no C++ compiler")
    folder = exported("hierarchical", "aoti")
    generator, _ = load_model(models["hierarchical"])
    call = torch._inductor.aoti_load_package(str(folder / "generator.aoti.pt2"))
    for size in (1, 7, 64):
        z, y = torch.randn(size, generator.dim_z), torch.arange(size) % len(generator.classes)
        with torch.no_grad():
            torch.testing.assert_close(call(z, y), generator(z, y), atol=1e-5, rtol=0)
    assert run_card(folder).startswith("(8, 3, 8, 8)")


def test_without_a_compiler_machine_code_is_refused(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert main(["export", str(models["flat"]), str(tmp_path / "out"), "--format", "aoti"]) == 2
    assert "needs a C++ compiler, and none is found" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
