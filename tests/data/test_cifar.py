"""The official CIFAR archives: read whole, and nothing in them run."""

import os
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from cgt.data import sources
from cgt.data.sources.cifar_archive import unpickled
from cgt.errors import UserError
from tests.data.miniatures import (
    cifar10_archive,
    cifar10_files,
    cifar100_archive,
    cifar100_files,
    write_archive,
)


def test_pixels_and_fine_labels_are_those_of_the_archive(tmp_path: Path) -> None:
    source, _ = sources.read("cifar100", str(cifar100_archive(tmp_path)))
    train = cifar100_files()["train"]
    assert source.classes == ("apple", "baby", "bear")
    assert [source.classes.index(p.class_name) for p in source.pictures] == train[b"fine_labels"]
    for picture, planes in zip(source.pictures, train[b"data"], strict=True):
        np.testing.assert_array_equal(
            np.asarray(source.load(picture.place)), planes.reshape(3, 32, 32).transpose(1, 2, 0)
        )


def test_cifar10_reads_its_five_batches_in_turn(tmp_path: Path) -> None:
    source, _ = sources.read("cifar10", str(cifar10_archive(tmp_path)))
    files = cifar10_files()
    labels = [label for i in range(1, 6) for label in files[f"data_batch_{i}"][b"labels"]]
    assert [source.classes.index(p.class_name) for p in source.pictures] == labels


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("test", 3), ("all", 9)])
def test_splits(split: str, count: int, tmp_path: Path) -> None:
    assert len(sources.read("cifar100", str(cifar100_archive(tmp_path)), split=split)[0].pictures) == count


@pytest.mark.parametrize("inner", ["", "cifar-100-python"])
def test_extracted_folder_reads_like_the_archive(inner: str, tmp_path: Path) -> None:
    archive = cifar100_archive(tmp_path)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "extracted", filter="data")
    whole, _ = sources.read("cifar100", str(archive))
    extracted, _ = sources.read("cifar100", str(tmp_path / "extracted" / inner))
    assert extracted.fingerprint == whole.fingerprint
    assert [picture[:2] for picture in extracted.pictures] == [picture[:2] for picture in whole.pictures]


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_pickle_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    files = {name: pickle.dumps(content, protocol=2) for name, content in cifar100_files().items()}
    files["train"] = pickle.dumps({b"data": Runs(os.mkdir, str(proof))}, protocol=protocol)
    archive = write_archive(tmp_path / "a.tar.gz", "cifar-100-python", files)
    with pytest.raises(UserError, match=r"asks to run (posix|nt)\.mkdir"):
        sources.read("cifar100", str(archive))
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [
        Runs(eval, "1 + 1"),
        Runs(getattr, "text", "upper"),
        OrderedDict(a=1),
        np.zeros(2, np.float64),
        np.array([{}, {}]),
    ],
)
def test_anything_a_cifar_pickle_does_not_need_is_refused(content: object) -> None:
    with pytest.raises(UserError, match="is refused"):
        unpickled(pickle.dumps(content, protocol=2), "file")


def test_both_spellings_of_numpys_module_are_known() -> None:
    modern = pickle.dumps({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3)}, protocol=2)
    old = modern.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != modern
    for content in (modern, old):
        np.testing.assert_array_equal(unpickled(content, "file")[b"data"].pixels, [[0, 1, 2], [3, 4, 5]])


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = cifar100_archive(tmp_path)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"fetch it again"):
        sources.read("cifar100", str(archive))


def test_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no batches\.meta"):
        sources.read("cifar10", str(cifar100_archive(tmp_path)))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 0, 0], [0, 1], [0, 1, 2, 0, 0, -1], [0, 1, 2, 0, 0, "x"]])
def test_labels_that_do_not_fit_are_refused(labels: list[object], tmp_path: Path) -> None:
    files = cifar100_files()
    files["train"][b"fine_labels"] = labels
    pickled = {name: pickle.dumps(content, protocol=2) for name, content in files.items()}
    archive = write_archive(tmp_path / "a.tar.gz", "cifar-100-python", pickled)
    with pytest.raises(UserError, match="train in .* is not a file of the official"):
        sources.read("cifar100", str(archive))


def test_an_archive_with_headers_without_end_is_told(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512
    path = tmp_path / "cifar-10-python.tar"
    path.write_bytes((info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 3000)
    with pytest.raises(UserError, match="can't be read as an archive"):
        sources.read("cifar10", str(path))
