"""Banks that are removed and merged: every class that is left is what it was, to the bit."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cgt.models.banks import bank_with_classes, merged, one_discriminator, without_bank
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import load_generator, load_model, save_model
from cgt.models.norm import Bank, ClassBank, EmbeddedBank, Latents, Trunk
from tests import tiny

SHARED = GeneratorConfig(channels=(12, 8, 8), dim_z=6, shared_dim=5, init="orthogonal")
CONFIGS = {"per-layer": tiny.PER_LAYER, "shared": SHARED, "hierarchical": tiny.HIERARCHICAL}


class StretchedBank(ClassBank):
    """A bank of a sort that nothing else knows: it has a number of its own, and a map of z."""

    def __init__(self, classes: Sequence[str], generator: Generator) -> None:
        width = generator.output_affine.gain.numel()
        super().__init__(classes, generator.site_widths, width, latent=generator.latent_width)
        self.register_buffer("stretch", torch.full((), 1.5))

    def latents(self, z_NZ: Tensor, y_N: Tensor, trunk: Trunk) -> Latents:
        """Of a z that is longer."""
        return trunk.split(z_NZ * self.stretch)


@pytest.fixture(params=CONFIGS)
def source(request: pytest.FixtureRequest) -> Generator:
    return tiny.source(CONFIGS[request.param]).generator


def extended(generator: Generator, *groups: Sequence[str], bank: Bank | None = None) -> Generator:
    """A copy with a bank of random numbers for each group of classes, or with `bank`."""
    result = copy.deepcopy(generator)
    for new in [bank] if bank else [result.new_class_bank(classes) for classes in groups]:
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.normal_(0, 0.4)
            for site in new.site_statistics():
                site.mean.normal_()
                site.var.uniform_(0.5, 2)
        result.append(new)
    return result.eval()


def pictures(generator: Generator, name: str) -> Tensor:
    """Of one class, by the same latents for every generator."""
    z_NZ = torch.randn(5, generator.dim_z, generator=torch.Generator().manual_seed(1))
    # As `load_generator` has it: last bits depend on the layout and the kernels.
    generator = copy.deepcopy(generator).requires_grad_(False)
    generator.fix_norms()
    generator.keep_kernels()
    generator.to(memory_format=torch.channels_last)
    with torch.no_grad():
        return generator(z_NZ, torch.full((5,), generator.classes.index(name)))


def assert_same(generator: Generator, origins: dict[str, Generator]) -> None:
    """That every class is what it is in the generator that it came from, and no two are alike."""
    assert generator.classes == list(origins)
    made = {name: pictures(generator, name) for name in origins}
    for name, origin in origins.items():
        assert torch.equal(made[name], pictures(origin, name)), name
    assert len({str(x.sum().item()) for x in made.values()}) == len(made)


def from_one(generator: Generator, *groups: Sequence[str]) -> dict[str, Generator]:
    return {name: generator for classes in groups for name in classes}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_classes_that_are_left_stay_bit_identical(source: Generator, number: int) -> None:
    groups = [tiny.OLD, ("elk", "fox"), ("gnu",)]
    whole = extended(source, *groups[1:])
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    rest = without_bank(whole, number)
    del groups[number]
    assert_same(rest, from_one(whole, *groups))
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())


def test_a_model_without_its_first_bank_is_saved_loaded_and_extended_like_any_other(
    source: Generator, tmp_path: Path
) -> None:
    whole = extended(source, tiny.NEW)
    save_model(tmp_path / "rest", without_bank(whole, 0), provenance={})
    assert_same(load_generator(tmp_path / "rest"), from_one(whole, tiny.NEW))
    loaded, _ = load_model(tmp_path / "rest")
    assert not any(isinstance(bank, EmbeddedBank) for bank in loaded.banks)
    again = extended(loaded, ("hen",))
    assert_same(again, {**from_one(whole, tiny.NEW), "hen": again})


def test_what_is_left_shares_no_tensor_with_the_whole(source: Generator) -> None:
    whole = extended(source, tiny.NEW)
    rest = without_bank(whole, 1)
    with torch.no_grad():
        for tensor in rest.state_dict().values():
            tensor.zero_()
    assert torch.equal(pictures(whole, "ant"), pictures(source, "ant"))


def test_the_last_bank_and_banks_that_are_not_there_can_t_be_removed(source: Generator) -> None:
    with pytest.raises(ValueError, match="bank 0, with ant, bee, cat, dog, is the only one"):
        without_bank(source, 0)
    for number in (2, -1):
        with pytest.raises(ValueError, match=f"no bank {number}: the banks are numbered from 0 to 1"):
            without_bank(extended(source, tiny.NEW), number)


def test_a_bank_is_found_by_all_of_its_classes_in_any_order_and_by_nothing_less() -> None:
    generator = extended(tiny.source(tiny.PER_LAYER).generator, tiny.NEW, ("hen",))
    assert bank_with_classes(generator, ("gnu", "elk", "fox")) == 1
    with pytest.raises(ValueError, match=r"bank 1 has elk, fox, gnu: name elk, gnu too, or give .* number 1"):
        bank_with_classes(generator, ["fox"])
    with pytest.raises(ValueError, match="one goes at a time: bank 1 has elk, fox, gnu; bank 2 has hen"):
        bank_with_classes(generator, [*tiny.NEW, "hen"])


def test_extensions_of_one_source_come_together_with_every_class_bit_identical(
    source: Generator, tmp_path: Path
) -> None:
    parts = [extended(source, ("elk", "fox")), extended(source, ("gnu",)), extended(source, ("hen", "yak"))]
    together = merged(parts, ["a", "b", "c"])
    assert [len(bank.classes) for bank in together.banks] == [4, 2, 1, 2]
    origins = from_one(parts[0], tiny.OLD, ("elk", "fox"))
    origins |= {"gnu": parts[1], "hen": parts[2], "yak": parts[2]}
    assert_same(together, origins)
    save_model(tmp_path / "merged", together, provenance={})
    assert_same(load_generator(tmp_path / "merged"), origins)


def test_what_extensions_of_extensions_have_in_common_is_taken_once(source: Generator) -> None:
    common = extended(source, ("elk", "fox"))
    one, other = extended(common, ("gnu",)), extended(common, ("hen",), ("yak",))
    together = merged([one, other, common], ["a", "b", "c"])
    origins = from_one(common, tiny.OLD, ("elk", "fox")) | from_one(one, ("gnu",))
    assert_same(together, origins | from_one(other, ("hen",), ("yak",)))


def test_a_bank_that_one_model_lost_comes_back_from_the_other(source: Generator) -> None:
    whole = extended(source, ("elk",), ("gnu",))
    together = merged([without_bank(whole, 1), whole], ["a", "b"])
    assert_same(together, from_one(whole, tiny.OLD, ("gnu",), ("elk",)))


def test_banks_of_a_sort_that_is_not_known_are_carried_over(source: Generator) -> None:
    odd = extended(source, bank=StretchedBank(["elk"], source))
    plain = extended(source, ("gnu",))
    assert_same(merged([plain, odd], ["a", "b"]), from_one(plain, tiny.OLD, ("gnu",)) | {"elk": odd})
    whole = extended(odd, ("hen",))
    assert_same(without_bank(whole, 0), from_one(whole, ("elk",), ("hen",)))


def test_merging_changes_no_input_and_shares_no_tensor_with_them(source: Generator) -> None:
    parts = [extended(source, ("elk",)), extended(source, ("gnu",))]
    before = [copy.deepcopy(part) for part in parts]
    with torch.no_grad():
        for tensor in merged(parts, ["a", "b"]).state_dict().values():
            tensor.zero_()
    for part, copied in zip(parts, before, strict=True):
        assert_same(part, from_one(copied, copied.classes))


def test_one_model_is_nothing_to_merge(source: Generator) -> None:
    with pytest.raises(ValueError, match="name two models or more"):
        merged([source], ["a"])


def test_one_number_that_differs_outside_the_new_banks_is_refused_by_its_tensor_s_name() -> None:
    source = tiny.source(tiny.HIERARCHICAL).generator
    one, other = extended(source, ("elk",)), extended(source, ("gnu",))
    for name in source.state_dict():
        number = other.state_dict()[name].view(-1)[-1]
        before = number.clone()
        number += 1e-3
        place = f"{name} differs"
        if name.startswith("banks.0."):
            place = f"first banks differ in {name.removeprefix('banks.0.')} "
        with pytest.raises(ValueError, match="not extensions of one source") as caught:
            merged([one, other], ["a", "b"])
        assert place in str(caught.value)
        number.copy_(before)
    assert merged([one, other], ["a", "b"]).classes == [*tiny.OLD, "elk", "gnu"]


def test_other_shapes_are_refused_by_what_differs() -> None:
    one, other = (
        tiny.source(GeneratorConfig(channels=(12, 8, 8), dim_z=6, bn_eps=eps)) for eps in (1e-5, 1e-4)
    )
    with pytest.raises(ValueError, match="bn_eps is 1e-05 in the one and 0.0001 in the other"):
        merged([one.generator, other.generator], ["a", "b"])


def test_models_whose_first_banks_are_others_are_refused(source: Generator) -> None:
    whole = extended(source, ("elk",))
    with pytest.raises(ValueError, match="first banks differ in their classes, ant, bee, cat, dog and elk"):
        merged([whole, without_bank(whole, 0)], ["a", "b"])


def test_one_name_for_different_classes_is_refused_with_the_remedy(source: Generator) -> None:
    parts = [extended(source, ("elk", "fox")), extended(source, ("gnu",)), extended(source, ("hen", "fox"))]
    with pytest.raises(ValueError, match=r"bank 1 of c and a bank of a both have the classes fox, .*remove"):
        merged(parts, ["a", "b", "c"])
    assert merged([parts[0], copy.deepcopy(parts[0])], ["a", "b"]).classes == parts[0].classes
    moved = copy.deepcopy(parts[0])
    moved.last_bank.site_statistics()[0].mean[0] += 1
    with pytest.raises(ValueError, match="both have the classes elk, fox"):
        merged([parts[0], moved], ["a", "b"])


def test_a_discriminator_is_common_if_all_tensors_and_classes_are_equal() -> None:
    first = tiny.source(tiny.PER_LAYER).discriminator
    same, moved, renamed = (copy.deepcopy(first) for _ in range(3))
    with torch.no_grad():
        moved.linear.bias += 1e-3
    renamed.classes[0] = "yak"
    assert one_discriminator([first, same]) is first
    for other in (moved, renamed, None):
        assert one_discriminator([first, same, other]) is None
        assert one_discriminator([other, first]) is None
    assert one_discriminator([None, None]) is None
