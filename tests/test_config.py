"""Layers, overrides, and messages that name every mistake at once with its origin and remedy."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar

import pytest
from pydantic import Field, model_validator

from cgt import config
from cgt.config import Section
from cgt.errors import UserError


class Pictures(Section):
    shorthand: ClassVar[str | None] = "shards"
    shards: str
    classes: tuple[str, ...] | str | None = None
    per_class: int | None = None


class Optim(Section):
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.0, 0.999)


@dataclass(frozen=True, kw_only=True)
class Shape:
    ch: int = 64
    channels: tuple[int, ...] | None = None
    hierarchical: bool = False

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.hierarchical and self.ch < 8:
            raise ValueError("hierarchical needs ch of 8 or more: set ch, or hierarchical: false")


class Method(Section):
    name: str = "method"


class Propagation(Method):
    lambda_r: float = 1.0


M = TypeVar("M", bound=Method)


class Run(Section, Generic[M]):
    data: Pictures
    steps: int = Field(ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optim: Optim = Optim()
    generator: Shape = Shape()
    validation: Pictures | None = None
    method: M | None = None
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _limited(self) -> "Run[M]":
        if self.data.per_class and self.data.per_class > self.steps:
            raise ValueError("per_class must not exceed steps: lower one or raise the other")
        return self


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def mistakes(source: str, *overrides: str) -> list[str]:
    """The lines of the message, without the first."""
    with pytest.raises(UserError) as caught:
        config.load(Run[Propagation], source, overrides)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"{len(lines)} mistake"), head
    return [line.removeprefix("  - ") for line in lines]


@pytest.fixture
def minimal(tmp_path: Path) -> str:
    return write(tmp_path, "minimal.yaml", "data: shards/a\nsteps: 10\n")


# What is read


def test_later_layers_win_key_by_key_and_overrides_win_over_all(tmp_path: Path) -> None:
    base = "data: {shards: a, per_class: 5}\nsteps: 10\noptim: {lr: 0.5, betas: [0.1, 0.2]}\n"
    write(tmp_path, "bases/base.yaml", base)
    middle = write(tmp_path, "middle.yaml", "base: bases/base.yaml\nsteps: 20\noptim: {lr: 0.25}\n")
    top = write(tmp_path, "top.yaml", f"base: {middle}\nsteps: 30\n")
    run = config.load(Run, top, ["optim.lr=0.125", "generator.ch=32"])
    assert run.steps == 30
    assert run.optim == Optim(lr=0.125, betas=(0.1, 0.2))
    assert run.data == Pictures(shards="a", per_class=5)
    assert run.generator == Shape(ch=32)


def test_a_base_is_looked_for_beside_the_file_that_names_it_not_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "here/base.yaml", "data: wrong\nsteps: 1\n")
    write(tmp_path, "there/base.yaml", "data: right\nsteps: 2\n")
    top = write(tmp_path, "there/top.yaml", "base: base.yaml\n")
    monkeypatch.chdir(tmp_path / "here")
    assert config.load(Run, top).data.shards == "right"


def test_of_several_bases_later_ones_win_over_earlier_ones_and_over_what_these_share(tmp_path: Path) -> None:
    write(tmp_path, "all.yaml", "data: all\nsteps: 1\noptim: {lr: 0.5}\nprecision: bf16\n")
    write(tmp_path, "method.yaml", "base: all.yaml\nsteps: 2\noptim: {lr: 0.25, betas: [0.1, 0.2]}\n")
    write(
        tmp_path, "pictures.yaml", "base: all.yaml\ndata: {shards: few, per_class: 1}\noptim: {lr: 0.125}\n"
    )
    top = write(tmp_path, "top.yaml", "base: [method.yaml, pictures.yaml]\n")
    run = config.load(Run, top)
    assert run.steps == 2
    assert run.precision == "bf16"
    assert run.optim == Optim(lr=0.125, betas=(0.1, 0.2))
    assert run.data == Pictures(shards="few", per_class=1)
    other = write(tmp_path, "other.yaml", "base: [pictures.yaml, method.yaml]\n")
    assert config.load(Run, other).optim.lr == 0.25


def test_a_plain_value_stands_for_the_section_s_shorthand_in_every_layer(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "data: {shards: a, per_class: 5}\nsteps: 10\nvalidation: b\n")
    top = write(tmp_path, "top.yaml", "base: base.yaml\ndata: c\n")
    run = config.load(Run, top, ["validation=d"])
    assert run.data == Pictures(shards="c", per_class=5)
    assert run.validation == Pictures(shards="d")


def test_null_takes_an_optional_section_away(tmp_path: Path) -> None:
    source = write(tmp_path, "c.yaml", "data: a\nsteps: 1\nvalidation: b\n")
    assert config.load(Run, source, ["validation=null"]).validation is None


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2E3", 2000), ("1.5e+2", 150), (".5e-1", 0.05)])
def test_numbers_with_an_exponent_are_numbers(minimal: str, text: str, value: float) -> None:
    assert config.read(Run, minimal, [f"optim.lr={text}"]).values["optim"]["lr"] == value
    assert config.load(Run, minimal, [f"optim.lr={text}"]).optim.lr == value


def test_words_that_begin_like_numbers_stay_words(minimal: str) -> None:
    assert config.load(Run, minimal, ["data=1e4-shards"]).data.shards == "1e4-shards"


def test_classes_may_be_named_by_numbers(minimal: str) -> None:
    assert config.load(Run, minimal, ["data.classes=[0, 1, seven]"]).data.classes == ("0", "1", "seven")


def test_an_override_s_value_may_hold_equals_signs_and_lists(minimal: str) -> None:
    run = config.load(Run, minimal, ["data=https://host/x?a=b", "generator.channels=[8, 4]"])
    assert run.data.shards == "https://host/x?a=b"
    assert run.generator.channels == (8, 4)


def test_two_keys_that_share_an_anchor_are_set_apart(tmp_path: Path) -> None:
    source = write(tmp_path, "c.yaml", "data: &pictures {shards: a}\nvalidation: *pictures\nsteps: 1\n")
    run = config.load(Run, source, ["validation.shards=b"])
    assert run.data.shards == "a"
    assert run.validation == Pictures(shards="b")


def test_a_merge_key_fills_in_what_a_mapping_leaves_out(tmp_path: Path) -> None:
    text = "data: &pictures {shards: a, per_class: 1}\nvalidation: {<<: *pictures, shards: b}\nsteps: 1\n"
    run = config.load(Run, write(tmp_path, "c.yaml", text))
    assert run.validation == Pictures(shards="b", per_class=1)


def test_a_dumped_config_reads_back_equal(tmp_path: Path, minimal: str) -> None:
    overrides = [
        "data.classes=['1e5', 'no', '12', 'grüße: #']",
        "optim.lr=1e-7",
        "generator={channels: [8, 4], ch: 16}",
        "method={lambda_r: 0.5}",
        "tags={a: 'null'}",
    ]
    run = config.load(Run[Propagation], minimal, overrides)
    assert config.load(Run[Propagation], write(tmp_path, "dumped.yaml", config.dump(run))) == run


def test_every_shipped_config_is_found_under_its_name() -> None:
    for name in config.shipped():
        assert config.read(Section, name).values


# What is refused


def test_every_mistake_is_reported_at_once_with_its_origin(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "data: a\nsteps: many\noptim: {lr: -1}\n")
    top = write(tmp_path, "top.yaml", "base: base.yaml\nprecision: fp23\nstesp: 5\n")
    lines = mistakes(top, "optim.betas=[0.5, x]", "generator.ch=wide")
    assert sorted(lines) == sorted(
        [
            f"steps: must be a valid integer; got 'many' (set by {base}).",
            f"optim.lr: must be greater than 0; got -1 (set by {base}).",
            f"precision: must be 'fp32', 'bf16' or 'fp16' (did you mean 'fp32'?); got 'fp23' (set by {top}).",
            "stesp: there is no such key (did you mean 'steps'?); there are data, steps, precision, optim, "
            f"generator, validation, method, tags (set by {top}).",
            "optim.betas.1: must be a valid number; got 'x' (set by the override optim.betas=[0.5, x]).",
            "generator.ch: must be a valid integer; got 'wide' (set by the override generator.ch=wide).",
        ]
    )


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("optim.lrr=1", "'lr'"),
        ("generator.chanels=[4]", "'channels'"),
        ("validation.shard=x", "'shards'"),
        ("method.lambda_rr=1", "'lambda_r'"),
        ("data.Per_Class=1", "'per_class'"),
    ],
    ids=["section", "dataclass", "optional", "generic", "case"],
)
def test_a_misspelt_key_brings_the_one_that_was_meant(minimal: str, override: str, meant: str) -> None:
    line = next(line for line in mistakes(minimal, override) if "no such key" in line)
    assert line.startswith(override.partition("=")[0] + ": ")
    assert f"did you mean {meant}?" in line
    assert f"(set by the override {override})" in line


def test_a_rule_between_keys_names_everything_that_set_them(tmp_path: Path) -> None:
    source = write(tmp_path, "c.yaml", "data: a\nsteps: 1\ngenerator: {ch: 4}\n")
    assert mistakes(source, "generator.hierarchical=true") == [
        "generator: hierarchical needs ch of 8 or more: set ch, or hierarchical: false "
        f"(set by {source} and the override generator.hierarchical=true)."
    ]


def test_a_rule_of_the_whole_config_is_reported_without_its_values(minimal: str) -> None:
    (line,) = mistakes(minimal, "data.per_class=11")
    assert line == (
        "per_class must not exceed steps: lower one or raise the other "
        f"(set by {minimal} and the override data.per_class=11)."
    )


def test_a_key_that_must_be_given_is_asked_for(tmp_path: Path) -> None:
    assert mistakes(write(tmp_path, "c.yaml", "data: {per_class: 1}\n")) == [
        "data.shards: must be given; add it to the file, or data.shards=VALUE to the command.",
        "steps: must be given; add it to the file, or steps=VALUE to the command.",
    ]


def test_a_value_in_place_of_a_section_is_told_the_section_s_keys(minimal: str) -> None:
    assert mistakes(minimal, "optim=3", "generator=[1]") == [
        "optim: must be a section with any of the keys lr, betas; got 3 (set by the override optim=3).",
        "generator: must be a section with any of the keys ch, channels, hierarchical; got [1] "
        "(set by the override generator=[1]).",
    ]


def test_one_mistake_in_a_value_of_several_kinds_is_one_line(minimal: str) -> None:
    (line,) = mistakes(minimal, "data.classes=[a, null]")
    assert line.startswith("data.classes.1: must be a valid string; got None")
    (line,) = mistakes(minimal, "data.classes={a: b}")
    assert line.startswith("data.classes: must be a list, or must be a valid string (set by")


@pytest.mark.parametrize("text", ["steps: 1\nsteps: 2\n", "data:\n  shards: a\n  shards: b\n"])
def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"is not valid YAML, line [23]: the key '\w+' is given twice"):
        config.load(Run, write(tmp_path, "c.yaml", text))


@pytest.mark.parametrize("base", ["sub/b.yaml", "[sub/c.yaml, sub/b.yaml]"])
def test_bases_in_a_circle_are_refused(tmp_path: Path, base: str) -> None:
    write(tmp_path, "sub/b.yaml", "base: ../sub/../a.yaml\n")
    write(tmp_path, "sub/c.yaml", "steps: 1\n")
    a = write(tmp_path, "a.yaml", f"base: {base}\n")
    circle = "a.yaml -> .*b.yaml -> .*a.yaml name each other as base: break the circle"
    with pytest.raises(UserError, match=circle):
        config.load(Run, a)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: [1", "is not valid YAML, line 1"),
        (b"- 1\n- 2\n", "holds [1, 2] where keys with values must stand"),
        (b"just words", "holds 'just words' where keys"),
        (b"\xff\xfe\x00", "can't be read as UTF-8 text"),
        (b"a: \x00", "is not valid YAML"),
        (
            b"base: [a, 3]\n",
            "base in {} must be the name of a config, the path of a file, or a list of these",
        ),
        (b"base: {a: b}\n", "base in {} must be the name of a config"),
        (b"base: [nowhere]\n", "there is no config 'nowhere', which {} names as its base"),
        (b"base: nowhere\n", "there is no config 'nowhere', which {} names as its base"),
        (b"a: !!python/object:os.system {}\n", "line 1: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        config.load(Run, str(path))
    assert str(path) in str(caught.value)
    assert message.replace("{}", str(path)) in str(caught.value)


def test_an_empty_file_is_a_config_without_keys(tmp_path: Path) -> None:
    assert len(mistakes(write(tmp_path, "c.yaml", "# nothing yet\n"))) == 2


def test_a_config_that_does_not_exist_brings_the_shipped_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "shipped", lambda: ["digits/bsa", "shapes/bsa", "shapes/pretrain"])
    near = r"'shapes/pretrian' \(did you mean 'shapes/pretrain'\?\)"
    with pytest.raises(UserError, match=rf"no config {near}: .* one of shapes/bsa, shapes/pretrain\."):
        config.load(Run, "shapes/pretrian")
    with pytest.raises(UserError, match=r"one of digits/\*, shapes/\*\."):
        config.load(Run, "nowhere")


@pytest.mark.parametrize("override", ["steps", "=5", ""])
def test_an_override_without_key_and_value_is_refused_with_an_example(minimal: str, override: str) -> None:
    with pytest.raises(UserError, match="is not of the form key=value. Write, for example, steps=1000"):
        config.load(Run, minimal, [override])


def test_an_override_that_is_not_yaml_is_refused_by_name(minimal: str) -> None:
    with pytest.raises(UserError, match=r"the override steps=\[1 is not valid YAML"):
        config.load(Run, minimal, ["steps=[1"])


def test_a_section_can_t_be_changed_after_it_was_read(minimal: str) -> None:
    run = config.load(Run, minimal)
    with pytest.raises(ValueError, match="frozen"):
        run.steps = 3  # type: ignore[misc]
