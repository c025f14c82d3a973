"""Tars whose members are found and read in place, and tars that are refused."""

import contextlib
import gzip
import io
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgt.data.sources.archives import Member, inner_members, load_member, members
from cgt.errors import UserError
from tests.data.miniature_imagenet import jpeg, tar

LONG = f"{'deep/' * 40}a.jpg"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def special(name: str, kind: bytes, target: str = "") -> bytes:
    """A tar with a plain file, and a member that is none."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("plain.jpg"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return stream.getvalue()


def header(name: str, kind: bytes, size: int, *, extended: bool = False) -> bytes:
    """A header that says whatever it likes, with a true checksum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[156:157] = kind
    block[482] = extended
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let the process have 2 GB more than it has, so that too much is refused and not merely promised."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 10**9, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_format_are_found_where_they_lie(form: int, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    contents = {"deep/é.jpg": b"x" * 700, "empty.jpg": b"", "z.jpg": b"z"}
    if form != tarfile.USTAR_FORMAT:
        contents[LONG] = b"long"
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as archive:
        archive.add(tmp_path / "in", ".")
        for name, content in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    whole = path.read_bytes()
    found = {name: whole[offset : offset + size] for name, offset, size in members(path)}
    assert found == contents
    assert list(found) == list(contents)


def test_members_of_inner_tars_are_found_in_the_outer_one(tmp_path: Path) -> None:
    inner = {
        "b.tar": {"1.jpg": b"first", LONG: b"x" * 9000},
        "a.tar": {"1.jpg": b"other"},
        "empty.tar": {},
    }
    outer = {name: tar(content) for name, content in inner.items()}
    path = written(tmp_path / "a.tar", tar({"readme.txt": b"passed over", **outer}))
    whole = path.read_bytes()
    found = {
        tar_name: {name: whole[offset : offset + size] for name, offset, size in content}
        for tar_name, content in inner_members(path)
    }
    assert found == {
        tar_name: {f"{tar_name}/{name}": data for name, data in content.items()}
        for tar_name, content in inner.items()
    }


def test_pictures_are_read_in_place(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", tar({"1.jpg": jpeg("1"), "2.jpg": jpeg("2")}))
    first, second = (load_member(path, member).tobytes() for member in members(path))
    assert first != second


def test_members_that_are_no_picture_or_are_gone_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", tar({"1.jpg": b"text", "2.jpg": jpeg("2")}))
    text, picture = members(path)
    with pytest.raises(UserError, match=r"a\.tar: 1\.jpg can't be read, it is no picture"):
        load_member(path, text)
    path.write_bytes(path.read_bytes()[: picture.offset + 10])
    with pytest.raises(UserError, match=r"a\.tar: 2\.jpg can't be read, the archive was cut short"):
        load_member(path, picture)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.tar can't be read .*No such file"):
        load_member(path, picture)


@pytest.mark.parametrize("name", ["../a.jpg", "deep/../../a.jpg", "/etc/a.jpg", "deep/.."])
def test_members_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    content = tar({"plain.jpg": b"", name: b"x"})
    with pytest.raises(UserError, match=f"member '{name}', which leads out"):
        members(written(tmp_path / "a.tar", content))
    with pytest.raises(UserError, match=rf"a\.tar: inner\.tar has a member '{name}', which leads out"):
        list(inner_members(written(tmp_path / "a.tar", tar({"inner.tar": content}))))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_plain_files_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", special("odd.jpg", kind, "plain.jpg"))
    with pytest.raises(UserError, match=r"member 'odd\.jpg' that is no plain file"):
        members(path)


def test_doubled_members_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", tar({"a.jpg": b"", "./a.jpg": b""}))
    with pytest.raises(UserError, match=r"two members a\.jpg"):
        members(path)


class TestDamage:
    WHOLE = tar({"1.jpg": b"x" * 2000, "2.jpg": b"y" * 2000})
    HEADER = 512 + 2048
    """Where that of the second member begins."""

    @pytest.mark.parametrize(
        "length",
        [0, 100, 512, 1500, HEADER, HEADER + 100, HEADER + 512, HEADER + 2000, 2 * HEADER, 2 * HEADER + 511],
    )
    def test_a_tar_that_was_cut_short_anywhere_is_told(self, length: int, tmp_path: Path) -> None:
        path = written(tmp_path / "a.tar", self.WHOLE[:length])
        with pytest.raises(UserError, match=r"a\.tar can't be read as a tar, .*cut short"):
            members(path)

    @pytest.mark.parametrize("place", [0, HEADER, HEADER + 130, 2 * HEADER])
    def test_an_overwritten_header_or_end_is_told(self, place: int, tmp_path: Path) -> None:
        content = self.WHOLE[:place] + b"\xff" * 8 + self.WHOLE[place + 8 :]
        with pytest.raises(UserError, match="is damaged"):
            members(written(tmp_path / "a.tar", content))

    def test_an_inner_tar_does_not_run_on_into_the_next(self, tmp_path: Path) -> None:
        outer = {"a.tar": self.WHOLE[: self.HEADER], "b.tar": tar({"3.jpg": b""})}
        with pytest.raises(UserError, match=r"a\.tar can't be read as a tar"):
            list(inner_members(written(tmp_path / "outer.tar", tar(outer))))

    @pytest.mark.parametrize(
        "content",
        [
            header("a.jpg", tarfile.REGTYPE, 2**62),
            header("a.jpg", tarfile.REGTYPE, 2**80),
            header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2**33),
            header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2**60),
            header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2**80),
            header("pax", tarfile.XHDTYPE, 2**33),
            (header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 512) + bytes(512)) * 3000,
            (header("pax", tarfile.XHDTYPE, 512) + b"13 comment=ab\n".ljust(512, b"\0")) * 3000,
            header("a.jpg", tarfile.GNUTYPE_SPARSE, 0, extended=True),
        ],
        ids=["huge", "huger", "name", "longer", "longest", "pax", "names", "paxes", "sparse"],
    )
    def test_headers_that_ask_for_too_much_are_told(self, content: bytes, tmp_path: Path) -> None:
        path = written(tmp_path / "a.tar", content)
        with limited_memory(), pytest.raises(UserError, match=r"a\.tar can't be read as a tar"):
            members(path)

    def test_other_files_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="it is another kind of file"):
            members(written(tmp_path / "a.tar", jpeg("a picture") * 10))


@pytest.mark.parametrize(("mode", "program"), [("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")])
def test_compressed_tars_are_told_with_what_undoes_it(mode: str, program: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", tar({"1.jpg": b""}, mode))
    with pytest.raises(UserError, match=rf"{program} a\.tar"):
        members(path)


def test_compressed_inner_tars_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", tar({"b.tar": gzip.compress(tar({"1.jpg": b""}))}))
    with pytest.raises(UserError, match=r"b\.tar can't be read as a tar"):
        list(inner_members(path))


def test_place_of_a_picture_is_small(tmp_path: Path) -> None:
    (member,) = members(written(tmp_path / "a.tar", tar({"1.jpg": b"x"})))
    assert member == Member("1.jpg", 512, 1)
