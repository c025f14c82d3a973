"""Configuration: YAML with `base:` layers, then `key=value` from the command line, into frozen, strict pydantic models.

A section of a config is declared beside the object it makes, as a subclass of `Section`. Loading reports every mistake at once, each with
the file or override that set the value and, for a misspelt key, the key that was probably meant.
"""

import importlib.resources
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cgt.catalog import did_you_mean
from cgt.errors import UserError


S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A part of a config: immutable, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    shorthand: ClassVar[str | None] = None
    """The field that a plain value given in place of the whole section stands for: `data: x` is `data: {shards: x}`."""


class _Yaml(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (the standard loader silently keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def shipped() -> list[str]:
    """The names of the configs that come with the package: "shapes/pretrain" and so on."""

    def walk(folder: Traversable, prefix: str) -> Iterator[str]:
        for entry in folder.iterdir():
            if entry.is_dir():
                yield from walk(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                yield prefix + entry.name.removesuffix(".yaml")

    return sorted(walk(importlib.resources.files("cgt.configs"), ""))


@dataclass(frozen=True)
class Draft:
    """Merged values that no model has checked yet."""

    values: dict[str, Any]
    origins: dict[str, str]
    """The file or override that set each dotted key."""
    source: str

    def check(self, model: type[S]) -> S:
        """Make `model` of the values.

        Raises:
            UserError: naming every mistake, where it was made and what to do.
        """
        try:
            return model.model_validate(self.values)
        except ValidationError as error:
            lines = [_explain(problem, model, self) for problem in error.errors(include_url=False)]
            many = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
            raise UserError(f"{many} in the config {self.source}:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def read(model: type[Section], source: str, overrides: Sequence[str] = ()) -> Draft:
    """Merge the config `source` with its bases and the `key=value` overrides, later ones winning.

    Args:
        model: whose sections say what their shorthands stand for; nothing is checked against it yet.
        source: a YAML file's path, or a name of `shipped()`.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        UserError: no such config, text that is not YAML, or an override without `=`.
    """
    values, origins = _layers(source, model)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override!r} is not of the form key=value. Write, for example, steps=1000 or optim.generator_lr=1e-4.")
        layer: Any = _parse(text, f"the override {override!r}")
        for part in reversed(key.split(".")):
            layer = {part: layer}
        _merge(values, _spelled_out(layer, model), origins, f"override {override}")
    return Draft(values, origins, source)


def load(model: type[S], source: str, overrides: Sequence[str] = ()) -> S:
    """`read`, then `Draft.check`."""
    return read(model, source, overrides).check(model)


def dump(config: Section) -> str:
    """The config as YAML that `load` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _layers(source: str, model: type[Section], seen: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a config file over those of its `base`, and the file that set each dotted key."""
    entry, name = _find(source)
    if name in seen:
        raise UserError(f"the configs {' -> '.join((*seen, name))} name each other as base: break the circle.")
    layer = _parse(entry.read_text(encoding="utf-8"), name)
    layer = {} if layer is None else layer
    if not isinstance(layer, dict):
        raise UserError(f"{name} holds {type(layer).__name__}, not a mapping of keys to values.")
    base = layer.pop("base", None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"base: in {name} must be the name of one config or the path of a file, not {base!r}.")
        beside = Path(name).parent / base
        values, origins = _layers(str(beside) if beside.is_file() else base, model, (*seen, name))
    _merge(values, _spelled_out(layer, model), origins, name)
    return values, origins


def _find(source: str) -> tuple[Traversable, str]:
    path = Path(source)
    if path.is_file():
        return path, source
    entry = importlib.resources.files("cgt.configs").joinpath(f"{source.removesuffix('.yaml')}.yaml")
    if ".." not in path.parts and not path.is_absolute() and entry.is_file():
        return entry, source
    known = shipped()
    raise UserError(
        f"there is no config {source!r}{did_you_mean(source, known)}: give a YAML file's path, or one of {', '.join(known)}."
    )


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Yaml)  # noqa: S506 - _Yaml is a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def _spelled_out(layer: dict[str, Any], model: type[Section]) -> dict[str, Any]:
    """`layer` with the shorthand of each section written out, so that layers merge key by key."""
    result = {}
    for key, value in layer.items():
        section = _section_of(model, key)
        if section is not None and section.shorthand and value is not None and not isinstance(value, dict):
            value = {section.shorthand: value}
        result[key] = value
    return result


def _section_of(model: type[BaseModel], key: str) -> type[Section] | None:
    """The section that the field `key` of `model` holds, or None where it holds a plain value."""
    field = model.model_fields.get(key)
    if field is None:
        return None
    annotation = field.annotation.__bound__ if isinstance(field.annotation, TypeVar) else field.annotation
    choices: tuple[Any, ...] = (annotation,)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        choices = typing.get_args(annotation)
    return next((choice for choice in choices if isinstance(choice, type) and issubclass(choice, Section)), None)


def _merge(into: dict[str, Any], layer: Mapping[str, Any], origins: dict[str, str], origin: str, prefix: str = "") -> None:
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, origins, origin, f"{dotted}.")
        else:
            into[key] = value
            origins[dotted] = origin
            if isinstance(value, dict):
                origins.update(dict.fromkeys(_dotted_keys(value, f"{dotted}."), origin))


def _dotted_keys(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _explain(problem: Any, model: type[Section], draft: Draft) -> str:
    """One mistake in one line: key, value, rule, where it was set, remedy."""
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    ancestors = (".".join(path[:n]) for n in range(len(path), 0, -1))
    set_by = next((draft.origins[key] for key in ancestors if key in draft.origins), draft.source)
    if problem["type"] == "extra_forbidden":
        section: type[BaseModel] | None = model
        for part in path[:-1]:
            section = _section_of(section, part) if section else None
        known = list(section.model_fields) if section else []
        choices = f" Known keys: {', '.join(known)}." if known else ""
        return f"{dotted}: there is no such key{did_you_mean(path[-1], known)} (set by {set_by}).{choices}"
    if problem["type"] == "missing":
        return f"{dotted}: must be given; add it to the file, or {dotted}=VALUE to the command."
    rule = problem["msg"].removeprefix("Value error, ")
    return f"{dotted}: {rule}; got {problem['input']!r} (set by {set_by})." if dotted else f"{rule} (set by {set_by})."
