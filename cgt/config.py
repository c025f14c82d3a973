"""Configuration: YAML with `base:` layers, then `key=value` from the command line, into frozen models.

A section of a config is declared beside the object it makes, as a subclass of `Section`; a plain dataclass
will do where pydantic is not wanted. Loading reports every mistake at once, each with the file or override
that set the value and, for a misspelt word, the one that was probably meant.
"""

import dataclasses
import importlib.resources
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cgt.catalog import did_you_mean
from cgt.errors import UserError
from cgt.wording import counted

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A part of a config: immutable, and strict about keys. A number does where a text is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, coerce_numbers_to_str=True)

    shorthand: ClassVar[str | None] = None
    """The field that a plain value in place of the whole section sets: `data: x` is `data: {shards: x}`."""


@dataclasses.dataclass(frozen=True)
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
            lines = _explain(error, model, self)
        mistakes = counted(len(lines), "mistake")
        raise UserError("\n  - ".join([f"{mistakes} in the config {self.source}:", *lines]))


def shipped() -> list[str]:
    """The names of the configs that come with the package: "shapes/pretrain" and so on."""

    def walk(folder: Traversable, prefix: str) -> Iterator[str]:
        for entry in folder.iterdir():
            if entry.is_dir():
                yield from walk(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                yield prefix + entry.name.removesuffix(".yaml")

    return sorted(walk(importlib.resources.files("cgt.configs"), ""))


def read(model: type[Section], source: str, overrides: Sequence[str] = ()) -> Draft:
    """Merge the config `source` with its bases and the `key=value` overrides, later ones winning.

    Args:
        model: whose sections say what their shorthands stand for; nothing is checked against it yet.
        source: a YAML file's path, or a name of `shipped()`. A file's `base` is the path of a file, from the
            folder of the first, or a name of `shipped()`, or a list of these, of which later ones win too.
            What several of them are based on comes before all of them.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        UserError: no such config, text that is not YAML, or an override without `=`.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, layer in _layers(source, Path()).items():
        _merge(values, _spelled_out(layer, model), origins, name)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(
                f"{override!r} is not of the form key=value. Write, for example, steps=1000 or "
                "optim.generator_lr=1e-4."
            )
        value: Any = _parse(text, f"the override {override}")
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(values, _spelled_out(value, model), origins, f"the override {override}")
    return Draft(values, origins, source)


def load(model: type[S], source: str, overrides: Sequence[str] = ()) -> S:
    """`read`, then `Draft.check`."""
    return read(model, source, overrides).check(model)


def dump(config: Section) -> str:
    """The config as YAML that `load` reads back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (else the last would win) and reads 1e-4 as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(name)
        return node


class _Dumper(yaml.SafeDumper):
    """Puts a text in quotes where `_Loader` would take it for a number."""


for _reader_or_writer in (_Loader, _Dumper):
    _reader_or_writer.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def _parse(text: str, where: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where} is not valid YAML{line}: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None


def _layers(source: str, folder: Path | None, above: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The values of a config file and of all that it is based on, by file. Later ones win; each comes once,
    where it is first needed.
    """
    entry, name, beside = _find(source, folder, by=above[-1] if above else None)
    if name in above:
        raise UserError(
            f"the configs {' -> '.join((*above, name))} name each other as base: break the circle."
        )
    try:
        text = entry.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} can't be read as UTF-8 text ({error}): give a YAML file.") from None
    layer = _parse(text, name)
    layer = {} if layer is None else layer
    if not isinstance(layer, dict):
        raise UserError(
            f"{name} holds {_shown(layer)} where keys with values must stand, such as `steps: 1000`."
        )
    base = layer.pop("base", None)
    bases = base if isinstance(base, list) else [] if base is None else [base]
    if not all(isinstance(one, str) for one in bases):
        raise UserError(
            f"base in {name} must be the name of a config, the path of a file, or a list of these, not "
            f"{_shown(base)}."
        )
    layers: dict[str, dict[str, Any]] = {}
    for one in bases:
        layers |= _layers(one, beside, (*above, name))  # what is there already keeps its place
    return layers | {name: layer}


def _find(source: str, folder: Path | None, by: str | None) -> tuple[Traversable, str, Path | None]:
    """A config's file, its name in messages, and the folder its `base` is looked for in (None: no folder).

    Shipped ones are looked for last, under the names that `shipped` gives. There are many, so a message lists
    those of the folder that was named.
    """
    if folder is not None:
        path = Path(os.path.normpath(folder / source))
        if path.is_file():
            return path, str(path), path.parent
    name = source.removesuffix(".yaml")
    pure = PurePosixPath(name)
    if not pure.is_absolute() and ".." not in pure.parts and str(pure) == name:
        entry = importlib.resources.files("cgt.configs").joinpath(f"{name}.yaml")
        if entry.is_file():
            return entry, name, None
    known = shipped()
    wanted = f", which {by} names as its base" if by else ""
    beside = [one for one in known if one.split("/")[0] == name.split("/")[0]]
    folders = sorted({f"{one.split('/')[0]}/*" for one in known})
    raise UserError(
        f"there is no config {source!r}{wanted}{did_you_mean(name, known)}: "
        f"give a YAML file's path, or one of {', '.join(beside or folders)}."
    )


def _spelled_out(layer: Mapping[str, Any], shape: type[Any] | None) -> dict[str, Any]:
    """A copy of `layer` with the shorthands of its sections written out, so that layers merge key by key."""
    result = {}
    for key, value in layer.items():
        section = _section_of(shape, key)
        shorthand = getattr(section, "shorthand", None)
        if shorthand and value is not None and not isinstance(value, dict):
            value = {shorthand: value}
        result[key] = _spelled_out(value, section) if isinstance(value, dict) else value
    return result


def _section_of(shape: type[Any] | None, key: str) -> type[Any] | None:
    """The model or dataclass that the field `key` of `shape` holds, or None where it holds a plain value."""
    annotation = _fields(shape).get(key)
    if isinstance(annotation, TypeVar):
        annotation = annotation.__bound__
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    choices = typing.get_args(annotation) if union else (annotation,)
    return next((choice for choice in choices if _fields(choice)), None)


def _fields(shape: Any) -> dict[str, Any]:
    """The fields of a model or dataclass, with their types; of anything else, none."""
    if not isinstance(shape, type):
        return {}
    if issubclass(shape, BaseModel):
        return {name: field.annotation for name, field in shape.model_fields.items()}
    if dataclasses.is_dataclass(shape):
        hints = typing.get_type_hints(shape)
        return {field.name: hints[field.name] for field in dataclasses.fields(shape)}
    return {}


def _merge(
    into: dict[str, Any], layer: Mapping[str, Any], origins: dict[str, str], origin: str, prefix: str = ""
) -> None:
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        old = into.get(key)
        if isinstance(value, dict) and (value or isinstance(old, dict)):
            if not isinstance(old, dict):
                into[key] = {}
                origins.pop(dotted, None)
            _merge(into[key], value, origins, origin, f"{dotted}.")
        else:
            for below in [name for name in origins if name.startswith(f"{dotted}.")]:
                del origins[below]
            into[key] = value
            origins[dotted] = origin


def _explain(error: ValidationError, model: type[Section], draft: Draft) -> list[str]:
    """A line for each mistake: key, value, rule, where it was set, remedy."""
    problems = [(problem, _place(problem, draft.values)) for problem in error.errors(include_url=False)]
    rules: dict[tuple[str, ...], list[str]] = {}
    values: dict[tuple[str, ...], str] = {}
    for problem, place in problems:
        deeper = any(len(other) > len(place) and other[: len(place)] == place for _, other in problems)
        if deeper and len(place) < len(problem["loc"]):
            continue  # what another member of the union would have taken
        rules.setdefault(place, []).append(_rule(problem, place, model))
        if problem["type"] not in (*_UNKNOWN, *_MISSING) and not isinstance(problem["input"], dict):
            values[place] = f"; got {_shown(problem['input'])}"
    return [
        (f"{'.'.join(place)}: " if place else "")
        + ", or ".join(dict.fromkeys(here))
        + f"{values.get(place, '')}{_set_by(place, draft)}."
        for place, here in rules.items()
    ]


def _place(problem: Any, values: Any) -> tuple[str, ...]:
    """The keys and list positions that lead to a mistake; pydantic names the members of unions among them."""
    place = []
    for part in problem["loc"]:
        in_list = isinstance(values, list) and isinstance(part, int)
        if in_list or (isinstance(values, dict) and part in values):
            values = values[part]
        elif problem["type"] not in _MISSING:
            continue
        place.append(str(part))
    return tuple(place)


def _rule(problem: Any, place: tuple[str, ...], model: type[Section]) -> str:
    """What is wrong, and what would be right."""
    kind = problem["type"]
    shape: type[Any] | None = model
    for part in place[:-1]:
        shape = _section_of(shape, part)
    if kind in _UNKNOWN:
        known = list(_fields(shape))
        return f"there is no such key{did_you_mean(place[-1], known)}; there are {', '.join(known)}"
    if kind in _MISSING:
        return f"must be given; add it to the file, or {'.'.join(place)}=VALUE to the command"
    if kind in ("model_type", "dataclass_type"):
        return f"must be a section with any of the keys {', '.join(_fields(_section_of(shape, place[-1])))}"
    if kind in ("tuple_type", "list_type"):
        return "must be a list"
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    rule = rule.partition(", unable to parse")[0].rstrip(".")
    if kind == "literal_error":
        rule += did_you_mean(str(problem["input"]), re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    return str(rule)


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def _set_by(place: tuple[str, ...], draft: Draft) -> str:
    """The files and overrides that set the value at `place` or, of a section, the values in it."""
    dotted = ".".join(place)
    for n in range(len(place), 0, -1):
        if origin := draft.origins.get(".".join(place[:n])):
            return f" (set by {origin})"
    within = [origin for key, origin in draft.origins.items() if not dotted or key.startswith(f"{dotted}.")]
    return f" (set by {' and '.join(dict.fromkeys(within))})" if within else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
