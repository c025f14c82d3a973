"""The strict tar reader against Python's own."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgt.data.tar import BLOCK, TarError, members


def archive(files: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as written:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            written.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    found = {}
    for name, part, offset in members(io.BytesIO(content), len(content)):
        assert content[offset : offset + len(name)] == name.encode()
        found[name] = part
    return found


TWO = archive({"a.cls": b"0", "a.png": bytes(range(256)) * 3})


@given(
    st.dictionaries(
        st.from_regex("[A-Za-z0-9_-]{1,80}[.][a-z]{3}", fullmatch=True), st.binary(max_size=1200)
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_wrote(files: dict[str, bytes], kind: int) -> None:
    assert read(archive(files, kind)) == files


@pytest.mark.parametrize("length", [0, 1, 154, 156, 400, 511, 512, 600, 1024, 1535, 1536, 2000, 2560, 3071])
def test_archive_that_was_cut_short_is_refused(length: int) -> None:
    with pytest.raises(TarError):
        read(TWO[:length])


@pytest.mark.parametrize("place", [0, 50, 124, 130, 148, 156, 300, 511, 1024, 1030])
def test_header_that_was_overwritten_is_refused(place: int) -> None:
    damaged = bytearray(TWO)
    damaged[place] ^= 0x41
    with pytest.raises(TarError):
        read(bytes(damaged))


def test_archive_without_its_end_mark_is_refused() -> None:
    end = TWO.rindex(b"ustar") - 257 + BLOCK + 1024  # behind the last content
    with pytest.raises(TarError, match="end mark"):
        read(TWO[:end])
    with pytest.raises(TarError, match="end mark"):
        read(TWO[: end + 20] + b"x" + TWO[end + 21 :])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_plain_file_is_refused(kind: bytes) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as written:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        written.addfile(info)
    with pytest.raises(TarError, match=r"'a.png/?' is not a plain file"):
        read(stream.getvalue())


@pytest.mark.parametrize("size", [b"-0000000001", b"77777777777"])
def test_a_size_that_cannot_be_is_refused_before_it_is_read(size: bytes) -> None:
    header = bytearray(TWO[:BLOCK])
    header[124:135] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= len(TWO)
            return super().read(size)

    with pytest.raises(TarError, match="size"):
        list(members(Stream(bytes(header) + TWO[BLOCK:]), len(TWO)))
