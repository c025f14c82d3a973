"""Writes are whole or not at all, and a refusal says what to do."""

import contextlib
import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cgt import files
from cgt.errors import RunError, UserError


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "note.txt"
    files.write_text(target, "grüß\n")
    assert target.read_bytes() == "grüß\n".encode()
    assert os.listdir(target.parent) == ["note.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyError), files.replacing_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.bin"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    with files.replacing_file(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_the_temporary_name_keeps_the_suffix_and_is_hidden(tmp_path: Path) -> None:
    with files.replacing_file(tmp_path / "grid.png") as temporary:
        temporary.touch()
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")


def test_a_written_file_has_the_permissions_that_the_user_s_mask_gives(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "note.txt", "")
    finally:
        os.umask(mask)
    assert (tmp_path / "note.txt").stat().st_mode & 0o777 == 0o640


def test_a_folder_takes_the_place_of_the_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("first", "second"):
        with files.replacing_folder(target) as temporary:
            (temporary / name).write_text(name)
    assert os.listdir(target) == ["second"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_failed_folder_keeps_the_old_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyError), files.replacing_folder(target) as temporary:
        (temporary / "new").touch()
        raise KeyError
    assert os.listdir(target) == ["old"]
    assert os.listdir(tmp_path) == ["model"]


def test_the_old_folder_comes_back_when_the_new_one_can_t_be_put(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError):
        files.put_folder(tmp_path / "never built", target)
    assert os.listdir(target) == ["old"]


KILLED = """
import os, signal, sys
from pathlib import Path
from cgt import files

target, last = Path(sys.argv[1]), int(sys.argv[2])
lines = 0


def count(frame, event, argument):
    global lines
    if frame.f_code.co_filename != files.__file__:
        return None
    lines += event == "line"
    if event == "line" and lines == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return count


new = target.with_name("new")
new.mkdir()
(new / "new").touch()
sys.settrace(count)
files.put_folder(new, target)
sys.settrace(None)
print(lines)
"""


def test_a_process_that_is_killed_at_any_line_of_the_exchange_leaves_a_whole_folder(tmp_path: Path) -> None:
    def put(last: int) -> tuple[int, str, list[str]]:
        """Exit code, output, and what is in the target, of a process that is killed at its line `last`."""
        root = tmp_path / str(last)
        (root / "model").mkdir(parents=True)
        (root / "model" / "old").touch()
        words = [sys.executable, "-c", KILLED, str(root / "model"), str(last)]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout, os.listdir(root / "model")

    code, lines, content = put(0)
    assert (code, content) == (0, ["new"])
    seen = []
    for last in range(1, int(lines) + 1):
        code, _, content = put(last)
        assert code == -signal.SIGKILL
        assert content in (["old"], ["new"])
        seen += content
    assert set(seen) == {"old", "new"}


def test_where_names_can_t_be_exchanged_a_folder_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    for name in ("first", "second"):
        with files.replacing_folder(tmp_path / "model") as temporary:
            (temporary / name).touch()
    assert os.listdir(tmp_path / "model") == ["second"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_replaces_a_file_or_a_link_of_its_name_but_not_what_the_link_points_to(
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (tmp_path / "model").symlink_to(elsewhere)
    with files.replacing_folder(tmp_path / "model") as temporary:
        (temporary / "new").touch()
    assert os.listdir(tmp_path / "model") == ["new"]
    assert os.listdir(elsewhere) == ["kept"]
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "model"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_a_run_error_that_names_the_target_and_the_remedy(tmp_path: Path, number: int) -> None:
    target = tmp_path / "weights.bin"
    with (
        pytest.raises(RunError, match=r"weights\.bin could not be written.*untouched.*Free some space"),
        files.explained(target),
    ):
        raise OSError(number, os.strerror(number))


WRITERS = """
import signal
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from cgt import files
from cgt.errors import RunError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
target = Path(sys.argv[1])
weights = {"w": torch.zeros(1_000_000)}


def streamed(path):
    with path.open("wb") as file:
        for _ in range(4000):
            file.write(bytes(1000))


for write in (lambda p: save_file(weights, p), lambda p: torch.save(weights, p), streamed):
    try:
        with files.replacing_file(target) as temporary:
            write(temporary)
    except RunError as error:
        print(error)
try:
    with files.replacing_folder(target.with_name("model")) as temporary:
        save_file(weights, temporary / "generator.safetensors")
except RunError as error:
    print(error)
"""


def test_writers_of_tensors_that_run_out_of_room_are_explained_and_the_old_file_stays(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: it needs no rights, and the same calls fail."""
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    result = subprocess.run(
        [sys.executable, "-c", WRITERS, target],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        check=False,
    )
    refused = [line.partition(" could not be written: ")[0] for line in result.stdout.splitlines()]
    assert refused == [str(target)] * 3 + [str(tmp_path / "model")], result.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.bin"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    "write",
    [lambda file: torch.save({"w": torch.zeros(1_000_000)}, file), lambda file: file.write(bytes(100_000))],
    ids=["torch.save", "write"],
)
def test_a_disk_that_is_full_is_recognised_in_the_error_of_whoever_wrote(
    write: Callable[[object], object],
) -> None:
    with pytest.raises((OSError, RuntimeError)) as caught, Path("/dev/full").open("wb", buffering=0) as file:
        write(file)
    assert "no room on the disk" in str(files.no_room(caught.value))


def test_a_checkpoint_that_can_t_be_read_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(RuntimeError) as caught:
        torch.load(tmp_path / "torn.pt")
    assert files.no_room(caught.value) is None


Writer = Callable[[Path], contextlib.AbstractContextManager[Path]]


@pytest.mark.parametrize("write", [files.replacing_file, files.replacing_folder])
def test_a_target_under_a_file_is_the_user_s_mistake(tmp_path: Path, write: Writer) -> None:
    (tmp_path / "note").touch()
    with (
        pytest.raises(UserError, match="can't be written.*name a place where you may write"),
        write(tmp_path / "note" / "model"),
    ):
        pass


def test_a_source_that_can_t_be_read_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.replacing_file(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source"))


def test_an_output_that_exists_is_refused_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    files.refuse_existing(tmp_path / "absent", overwrite=False)
    files.refuse_existing(tmp_path / "out", overwrite=False, kind=KIND)
    picture = tmp_path / "out" / "picture.png"
    picture.touch()
    files.refuse_existing(picture, overwrite=True)
    with pytest.raises(UserError, match="exists already.*--overwrite"):
        files.refuse_existing(picture, overwrite=False)
    with pytest.raises(UserError, match="exists already.*--overwrite"):
        files.refuse_existing(tmp_path / "out", overwrite=False, kind=KIND)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [[], ["notes.txt"]])
def test_a_folder_is_no_place_for_a_file(tmp_path: Path, content: list[str], overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    for name in content:
        (tmp_path / "out" / name).touch()
    with pytest.raises(UserError, match="out is a folder, and what is to be written is a file: name a file"):
        files.refuse_existing(tmp_path / "out", overwrite=overwrite)


def test_a_place_below_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written .*file is no folder.*: name a place where you may"):
        files.refuse_existing(tmp_path / "file" / "deep" / "out", overwrite=True)


def test_a_place_that_is_not_open_for_writing_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def access(place: Path, mode: int) -> bool:
        asked.append((place, mode))
        return False

    monkeypatch.setattr(os, "access", access)  # root may write anywhere
    with pytest.raises(UserError, match="is not open to you for writing.*: name a place where you may write"):
        files.refuse_existing(tmp_path / "deep" / "out", overwrite=True)
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_folder_where_a_disk_is_mounted_can_not_be_replaced() -> None:
    with pytest.raises(UserError, match="/proc can't be written .a disk is mounted there"):
        files.refuse_existing(Path("/proc"), overwrite=True, kind=KIND)


def test_a_link_to_nothing_is_there_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("gone")
    with pytest.raises(UserError, match="exists already"):
        files.refuse_existing(tmp_path / "out", overwrite=False, kind=KIND)


def test_what_a_writer_makes_for_the_owner_alone_is_for_all_that_may_read_here(tmp_path: Path) -> None:
    def private(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)

    (tmp_path / "plain").touch()
    expected = (tmp_path / "plain").stat().st_mode
    with files.replacing_file(tmp_path / "file") as temporary:
        private(temporary)
    with files.replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        private(temporary / "inner" / "file")
    for path in (tmp_path / "file", tmp_path / "folder" / "inner" / "file"):
        assert path.stat().st_mode == expected


KIND = files.FolderKind("a set of pictures", ("index.json",), ("*/[0-9]*.png",))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["index.json", "cat/0.png"], None),
        (["cat/0.png"], "is not a set of pictures \\(it has no index.json\\), so --overwrite does not"),
        (["index.json", "cat/0.png", "cat/mine.png"], "holds cat/mine.png beside what belongs to"),
        (["index.json", "0.png"], "holds 0.png beside"),
        (["index.json", "cat/deep/0.png"], "holds cat/deep/0.png beside"),
    ],
)
def test_a_folder_is_overwritten_only_by_its_own_kind(
    tmp_path: Path, names: list[str], words: str | None
) -> None:
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    expectation = pytest.raises(UserError, match=words) if words else contextlib.nullcontext()
    with expectation:
        files.refuse_existing(tmp_path / "out", overwrite=True, kind=KIND)


def test_a_file_is_not_overwritten_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="is not a set of pictures"):
        files.refuse_existing(tmp_path / "out", overwrite=True, kind=KIND)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("a/b", "is .*a/b, which"),
        ("a", "holds .*a/b, which"),
        ("a/b/c", "lies in .*a/b, which"),
        ("link", "is"),
    ],
)
def test_an_output_that_is_holds_or_lies_in_an_input_is_not_overwritten(
    tmp_path: Path, output: str, words: str
) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    (tmp_path / "a" / "b" / "c" / "index.json").touch()
    (tmp_path / "a" / "b" / "index.json").touch()
    inputs = [None, "https://example.org/shards", "x" * 300, tmp_path / "a" / "b"]
    with pytest.raises(UserError, match=f"can't be written: it {words}.*Name an output"):
        files.refuse_existing(tmp_path / output, overwrite=True, inputs=inputs)


def test_the_folder_that_the_command_runs_in_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(UserError, match="a folder of its own"):
        files.refuse_existing(Path(".."), overwrite=True)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
