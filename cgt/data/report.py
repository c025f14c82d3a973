"""What a build found out about its pictures: those that can't be read, and those that are there twice."""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from cgt.data.sources import Picture
from cgt.errors import UserError
from cgt.wording import counted

FILE = "report.json"


class Found(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    unreadable: list[dict[str, str]]
    duplicates: list[dict[str, str]]


class Report:
    """Unreadable pictures, which a build leaves out, and duplicates, which it keeps."""

    def __init__(self, pictures: Sequence[Picture], *, strict: bool, whole: bool) -> None:
        """Begin an empty report.

        Args:
            pictures: those of the build.
            strict: whether the first unreadable picture ends the build.
            whole: whether every class must keep a picture; not so where others build the rest.
        """
        self._strict = strict
        self._left = Counter(picture.class_name for picture in pictures) if whole else None
        self._first: dict[bytes, Picture] = {}
        self._found = Found(unreadable=[], duplicates=[])

    def leave_out(self, picture: Picture, reason: str) -> None:
        """Note a picture that can't be read.

        Raises:
            UserError: the build is strict, or its class has no other picture.
        """
        if self._strict:
            raise UserError(
                f"the picture {picture.key} of the class {picture.class_name!r} can't be read: {reason} "
                f"Without --strict it is left out and listed in {FILE}."
            )
        entry = {"picture": picture.key, "class": picture.class_name, "reason": reason}
        self._found.unreadable.append(entry)
        if self._left is not None:
            self._left[picture.class_name] -= 1
            if not self._left[picture.class_name]:
                raise UserError(
                    f"no picture of the class {picture.class_name!r} can be read: repair them, or name the "
                    f"other classes with --classes. The last one: {reason}"
                )

    def keep(self, picture: Picture, digest: bytes) -> None:
        """Note the content of a picture that is written."""
        first = self._first.setdefault(digest, picture)
        if first is not picture:
            self._found.duplicates.append(
                {
                    "picture": picture.key,
                    "class": picture.class_name,
                    "same_as": first.key,
                    "same_as_class": first.class_name,
                }
            )

    @property
    def content(self) -> Found | None:
        """The report as it stands in the file; None where nothing was found."""
        return self._found if self._found.unreadable or self._found.duplicates else None

    @property
    def sentence(self) -> str | None:
        """The counts, in words; None where nothing was found."""
        if not self.content:
            return None
        unreadable, duplicates = len(self._found.unreadable), len(self._found.duplicates)
        return (
            f"{counted(unreadable, 'unreadable picture')} left out, {counted(duplicates, 'duplicate')} kept"
        )
