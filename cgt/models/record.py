"""`config.json` of a model folder: what the networks are, and how they came to be."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cgt.errors import UserError
from cgt.models.layouts import DiscriminatorConfig, GeneratorConfig
from cgt.models.naming import BankKind

FILE = "config.json"
FORMAT_VERSION: Final = 1
ARCHITECTURE: Final = "biggan"
OPTIONAL: Final = frozenset({"folded"})
"""Keys that the file may do without."""


class StatisticsOptions(BaseModel):
    """What a bank of tables, or an embedding, is built by where its statistics go by truncation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    levels: int = Field(ge=2)


class MinedOptions(BaseModel):
    """What a mined bank is built by."""

    model_config = ConfigDict(extra="forbid", strict=True)

    space: int = Field(ge=1)
    depth: int = Field(ge=1)
    normalised: bool


class SteeredOptions(BaseModel):
    """What a steered bank is built by."""

    model_config = ConfigDict(extra="forbid", strict=True)

    space: int = Field(ge=1)
    source_classes: int = Field(ge=1)
    stages: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    outputs: int = Field(ge=1)
    targets: list[int]
    iterations: int = Field(ge=1)
    step: float = Field(gt=0, allow_inf_nan=False)
    prior: float = Field(ge=0, allow_inf_nan=False)


class BankRecord(BaseModel):
    """One class bank."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: BankKind
    classes: tuple[str, ...]
    options: dict[str, Any] = {}
    """What banks of this kind are built by, beside the classes; not in the file where there is nothing."""

    @model_validator(mode="after")
    def _has_the_options_of_its_kind(self) -> "BankRecord":
        models: dict[str, type[BaseModel]] = {"mined": MinedOptions, "steered": SteeredOptions}
        if self.kind in models:
            models[self.kind].model_validate(self.options)
        elif self.options:
            StatisticsOptions.model_validate(self.options)
        return self


@dataclass(frozen=True, kw_only=True)
class DiscriminatorRecord(DiscriminatorConfig):
    """A discriminator's shape and classes."""

    classes: tuple[str, ...]

    @property
    def config(self) -> DiscriminatorConfig:
        """The shape alone."""
        return DiscriminatorConfig(
            **{field.name: getattr(self, field.name) for field in fields(DiscriminatorConfig)}
        )


class ModelRecord(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: Literal[1] = FORMAT_VERSION
    architecture: Literal["biggan"] = ARCHITECTURE
    resolution: int = Field(ge=1)
    """R in pixels."""
    generator: GeneratorConfig
    folded: bool = False
    """Whether the generator's spectral norms are fixed: smaller and quicker, and no place to train all of it
    from. Not in the file where it is false."""
    banks: tuple[BankRecord, ...] = Field(min_length=1)
    discriminator: DiscriminatorRecord | None
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _has_one_embedding(self) -> "ModelRecord":
        if any(bank.kind == "embedding" for bank in self.banks[1 if self.generator.shared_dim else 0 :]):
            raise ValueError("only the first bank of a generator with a shared_dim can be an embedding")
        return self

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in the file."""
        values = self.model_dump(mode="json", exclude={"provenance"})
        for bank in values["banks"]:
            if not bank["options"]:
                del bank["options"]
        if not self.folded:
            del values["folded"]
        return values | {"provenance": self.provenance}


def read_record(folder: Path) -> ModelRecord:
    """The record of a model folder.

    Raises:
        UserError: there is none, it is damaged (naming everything that is wrong), or of another architecture
            or a later format.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a model folder: it has no {FILE}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): take an unbroken copy of the model folder."
        ) from error
    known = ModelRecord.model_fields.keys()
    keys = set(values) if isinstance(values, dict) else set()
    # First: another version may well have other keys.
    if {"format_version", "architecture"} <= keys and values["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{folder} has format version {values['format_version']!r}, and this cgt reads version "
            f"{FORMAT_VERSION}: use the cgt that wrote it."
        )
    if keys | OPTIONAL != known:
        missing, unknown = sorted(known - OPTIONAL - keys), sorted(keys - known)
        found = (("lacks", missing), ("has", unknown))
        wrong = [f"{what} {', '.join(names)}" for what, names in found if names]
        raise UserError(
            f"{path} is not the config of a cgt model: it {' and '.join(wrong)}, and must have the keys "
            f"{', '.join(sorted(known - OPTIONAL))}."
        )
    if values["architecture"] != ARCHITECTURE:
        raise UserError(
            f"{folder} holds a {values['architecture']!r}, and this cgt knows {ARCHITECTURE!r} only."
        )
    try:
        return ModelRecord.model_validate_json(text)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}".lstrip(
                ": "
            )
            for problem in error.errors(include_url=False)
        ]
        raise not_a_model(folder, problems) from None


def not_a_model(folder: Path, problems: Sequence[str]) -> UserError:
    """The refusal of a record that no model fits."""
    return UserError(
        f"{folder / FILE} does not describe a model ({'; '.join(problems)}): take an unchanged copy of the "
        "folder."
    )
