"""The manifest of a shard folder: what is in it, checked before any picture is read.

A shard folder holds `manifest.json` and tar files `NNNNNN.tar` of `KEY.png` (or `KEY.jpg`) and `KEY.cls`, the
index of the picture's class in the manifest's list. Nothing in the manifest varies from one build to the
next: same input and options, same bytes.
"""

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cgt.data.remote import RefusedError, is_url, read_small
from cgt.data.tar import BLOCK
from cgt.errors import UserError
from cgt.files import FolderKind
from cgt.models.naming import distinct, repeated

FILE = "manifest.json"
KIND = FolderKind("a shard folder", (FILE,), ("[0-9]*.tar", "report.json"))
VERSION = 1
MAX_SIZE = 2**13
"""Pixels: Pillow takes much larger pictures for an attack, and does not decode them."""
_SMALLEST_SAMPLE = 4 * BLOCK
"""Bytes: two headers and two contents."""
REMEDY = "Build the shards again with `cgt shards build`, or restore the folder from a copy."
Build = dict[str, str | int | float | tuple[str, ...] | None]
"""How shards were made: the source, its options and the version of cgt."""


class Shard(BaseModel):
    """One tar file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: str = Field(pattern=r"^[0-9]{6,}\.tar$")
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    """The size of the file."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    counts: dict[str, Annotated[int, Field(ge=1)]]
    """Pictures per class, of the classes that this shard has any of."""

    @model_validator(mode="after")
    def _adds_up(self) -> "Shard":
        if sum(self.counts.values()) != self.samples:
            counted = sum(self.counts.values())
            raise ValueError(
                f"the counts of {self.file} add up to {counted}, not to its {self.samples} samples"
            )
        if self.samples * _SMALLEST_SAMPLE > self.bytes:
            raise ValueError(f"the {self.bytes} bytes of {self.file} are too few for {self.samples} samples")
        return self


class Manifest(BaseModel):
    """The content of `manifest.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["cgt-shards"] = "cgt-shards"
    version: Literal[1] = 1
    classes: tuple[str, ...]
    """Class names; the number in a `KEY.cls` is a position in this list."""
    size: int = Field(ge=1, le=MAX_SIZE)
    """Height and width of every picture, pixels."""
    encoding: Literal["png", "jpg"]
    shards: tuple[Shard, ...] = Field(min_length=1)
    build: Build

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(classes)

    @model_validator(mode="after")
    def _agrees(self) -> "Manifest":
        if doubles := repeated([shard.file for shard in self.shards]):
            raise ValueError(f"the shard {doubles[0]} is listed twice")
        unknown = {name for shard in self.shards for name in shard.counts} - set(self.classes)
        if unknown:
            raise ValueError(
                f"the shards count classes that are not in the list of classes: {', '.join(sorted(unknown))}"
            )
        return self

    @property
    def samples(self) -> int:
        """Pictures in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def counts(self) -> dict[str, int]:
        """Pictures per class over all shards, in the order of the classes."""
        return {name: sum(shard.counts.get(name, 0) for shard in self.shards) for name in self.classes}

    def to_json(self) -> dict[str, Any]:
        """The manifest as it stands in the file."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class ShardLocation:
    """Where a shard folder is."""

    location: str
    """A local path, or a URL (`https://...`, `s3://...`, `gs://...`, `hf://...`)."""

    @property
    def local(self) -> bool:
        """Whether the shards are files on this machine."""
        return not is_url(self.location)

    def place(self, shard: Shard) -> str:
        """The absolute path, or the URL, of a shard."""
        return _place(self.location, shard.file)

    def misfit(self, shard: Shard) -> str | None:
        """What is wrong with the file of a local shard, as far as its size tells; None where nothing is."""
        try:
            found = Path(self.place(shard)).stat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{shard.file} is missing"
        if not stat.S_ISREG(found.st_mode):
            return f"{shard.file} is no file"
        if found.st_size != shard.bytes:
            return f"{shard.file} has {found.st_size:,} bytes, the manifest says {shard.bytes:,}"
        return None


@dataclass(frozen=True)
class ShardFolder(ShardLocation):
    """A shard folder whose manifest has been read."""

    manifest: Manifest

    def check_files(self) -> None:
        """Look whether every local shard is there with the size that the manifest says.

        URLs are checked as they are read.

        Raises:
            UserError: naming every shard that is not.
        """
        wrong = [problem for shard in self.manifest.shards if self.local and (problem := self.misfit(shard))]
        if wrong:
            raise UserError(
                "\n".join([f"{self.location} is not whole:", *(f"  - {line}" for line in wrong[:10])])
                + f"\n{REMEDY}"
            )


class DamagedShardError(UserError):
    """A shard is not what the manifest says."""

    def __init__(self, folder: ShardLocation, shard: Shard, reason: str) -> None:
        super().__init__(
            f"the shard {folder.place(shard)} is damaged: {reason}. "
            "Build the shards again with `cgt shards build`, or restore the file from a copy; "
            f"`cgt shards verify {folder.location}` lists all that is wrong."
        )
        self.reason = reason


def open_shards(location: str) -> ShardFolder:
    """Read the manifest of the shard folder at `location`, a path or a URL.

    Raises:
        UserError: there is no such folder, it has no manifest, or one that is damaged or of a later version.
        RunError: the manifest can't be read, though it was tried several times.
    """
    location = location.removeprefix("file://")
    place = _place(location, FILE)
    if not is_url(location):
        if not Path(location).is_dir():
            raise UserError(
                f"there is no shard folder {location}: "
                f"check the path, or make one with `cgt shards build SOURCE INPUT {location}`."
            )
        if not Path(place).is_file():
            raise UserError(
                f"{location} has no {FILE}, so it is no shard folder, or an unfinished one. {REMEDY}"
            )
    try:
        text = read_small(place)
    except RefusedError as error:
        raise UserError(str(error)) from error
    return ShardFolder(location, _parse(text, place))


def _place(location: str, file: str) -> str:
    return f"{location.rstrip('/')}/{file}" if is_url(location) else str(Path(location).resolve() / file)


def _parse(text: bytes, place: str) -> Manifest:
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format") != "cgt-shards":
            raise UserError(
                f'{place} is not the manifest of a shard folder (it lacks "format": "cgt-shards"). {REMEDY}'
            )
        version = values.get("version")
        if isinstance(version, int) and version > VERSION:
            raise UserError(
                f"{place} is of format version {version}, and this cgt reads up to version {VERSION}: "
                "update cgt, or build the shards again with this one."
            )
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False)[:10]:
            where = ".".join(map(str, problem["loc"])) or "manifest"
            lines.append(f"  - {where}: {problem['msg'].removeprefix('Value error, ')}")
        raise UserError("\n".join([f"{place} is damaged:", *lines, REMEDY])) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place} is damaged: it is not valid JSON ({error}). {REMEDY}") from None
