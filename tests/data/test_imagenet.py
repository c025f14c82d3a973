"""ImageNet in each of its layouts, and lists that are wrong or of other pictures."""

import gzip
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cgt.data import sources
from cgt.data.sources import Source
from cgt.data.sources.imagenet_lists import LARGEST_DEVKIT, class_names
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import UserError
from tests.data.miniature_imagenet import (
    CLASSES,
    DEVKIT,
    NAMES,
    VAL,
    devkit,
    ground_truth,
    kaggle_input,
    meta_mat,
    official_input,
    put,
    solution,
    synset_mapping,
    tar,
    train_files,
    train_tar,
    val_files,
)
from tests.data.miniatures import deny

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
NAME_OF = dict(zip(CLASSES, NAMES, strict=True))


def read(path: Path, split: str = "train") -> Source:
    return sources.read("imagenet", str(path), split=split)[0]


def shown(source: Source) -> list[tuple[str, str, bytes]]:
    return [(key, name, source.load(place).tobytes()) for key, name, place in source.pictures]


def labels(source: Source) -> dict[str, str]:
    return {picture.key: picture.class_name for picture in source.pictures}


def val_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    put(root, val_files(), "val")
    return put(root, files)


def official_train(root: Path) -> Path:
    return official_input(root)


def tar_itself(root: Path) -> Path:
    return official_input(root) / TRAIN_TAR


def kaggle_train(root: Path) -> Path:
    return kaggle_input(root)


def kaggle_folder_itself(root: Path) -> Path:
    return kaggle_input(root) / "ILSVRC/Data/CLS-LOC/train"


def train_folder(root: Path) -> Path:
    put(root, train_files(), "train")
    return put(root, {"synset_words.txt": synset_mapping()})


def classes_themselves(root: Path) -> Path:
    put(root, train_files())
    return put(root, {"words.txt": synset_mapping({"n00001740": "entity", **CLASSES}, "\t")})


@pytest.mark.parametrize(
    "write",
    [official_train, tar_itself, kaggle_train, kaggle_folder_itself, train_folder, classes_themselves],
)
def test_every_layout_of_train_gives_the_same(write, tmp_path: Path) -> None:
    expected = read(official_input(tmp_path / "official"))
    source = read(write(tmp_path / "in"))
    assert source.classes == NAMES
    assert source.aliases == NAME_OF
    assert source.remark is None
    assert shown(source) == shown(expected)
    assert list(labels(source).items())[:3] == [
        ("n01440764_10", "tench"),
        ("n01440764_9", "tench"),
        ("n02012849_10", "crane-n02012849"),
    ]
    assert all(len(pickle.dumps(picture.place)) < 200 for picture in source.pictures)


def official_val(root: Path) -> Path:
    return official_input(root)


def val_tar_itself(root: Path) -> Path:
    return official_input(root) / VAL_TAR


def val_folder_with_devkit(root: Path) -> Path:
    return val_folder(root, devkit())


def val_folder_with_lists_themselves(root: Path) -> Path:
    lists = {"meta.mat": meta_mat(), "ILSVRC2012_validation_ground_truth.txt": ground_truth()}
    return val_folder(root, lists) / "val"


def kaggle_val(root: Path) -> Path:
    return kaggle_input(root) / "ILSVRC"


def val_files_themselves(root: Path) -> Path:
    put(root, {"LOC_val_solution.csv": solution(), "LOC_synset_mapping.txt": synset_mapping()})
    return put(root, val_files())


@pytest.mark.parametrize(
    "write",
    [
        official_val,
        val_tar_itself,
        val_folder_with_devkit,
        val_folder_with_lists_themselves,
        kaggle_val,
        val_files_themselves,
    ],
)
def test_every_layout_and_list_of_val_gives_the_same(write, tmp_path: Path) -> None:
    expected = read(official_input(tmp_path / "official"), "val")
    source = read(write(tmp_path / "in"), "val")
    assert source.classes == NAMES
    assert shown(source) == shown(expected)
    assert labels(source) == {f"ILSVRC2012_val_{n:08d}": NAME_OF[wnid] for n, wnid in enumerate(VAL, 1)}


def test_val_in_subfolders_needs_no_list_of_labels(tmp_path: Path) -> None:
    files = {
        f"{wnid}/{name}": content for wnid, (name, content) in zip(VAL, val_files().items(), strict=True)
    }
    put(tmp_path, files, "val")
    put(tmp_path, {"LOC_synset_mapping.txt": synset_mapping()})
    expected = labels(read(kaggle_input(tmp_path / "kaggle"), "val"))
    assert labels(read(tmp_path, "val")) == labels(read(tmp_path / "val", "val")) == expected


def test_the_devkit_takes_scipy_and_kaggles_lists_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    official, kaggle = official_input(tmp_path / "official"), kaggle_input(tmp_path / "kaggle")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    for split in ("train", "val"):
        with pytest.raises(UserError, match=re.escape('pip install "cgt[imagenet]"')):
            read(official, split)
        assert read(kaggle, split).classes == NAMES


def test_without_names_classes_are_called_by_their_wnids(tmp_path: Path) -> None:
    source = read(put(tmp_path, train_files(), "train"))
    assert source.classes == tuple(CLASSES)
    assert "called by their wnids" in str(source.remark)


def test_names_do_not_depend_on_which_classes_are_there(tmp_path: Path) -> None:
    files = {path: content for path, content in train_files().items() if path.startswith("n02012849")}
    put(tmp_path, files, "train")
    assert read(put(tmp_path, {"LOC_synset_mapping.txt": synset_mapping()})).classes == ("crane-n02012849",)


class TestAllOfWordNet:
    WORDS = synset_mapping({"n00001740": "entity", "n15000000": "Tench", **CLASSES}, "\t")

    @pytest.mark.parametrize("split", ["train", "val"])
    @pytest.mark.parametrize("write", [official_input, kaggle_input])
    def test_what_are_no_classes_do_not_change_names(self, write, split: str, tmp_path: Path) -> None:
        root = put(write(tmp_path), {"words.txt": self.WORDS})
        (root / "LOC_synset_mapping.txt").unlink(missing_ok=True)
        assert read(root, split).classes == NAMES

    def test_without_a_list_of_the_classes_all_do(self, tmp_path: Path) -> None:
        root = put(put(tmp_path, train_files(), "train"), {"words.txt": self.WORDS})
        assert read(root).classes == ("tench-n01440764", *NAMES[1:])

    def test_others_than_the_classes_have_names_of_their_own(self, tmp_path: Path) -> None:
        root = put(official_input(tmp_path), {"words.txt": self.WORDS})
        names = class_names([root])
        assert names is not None
        assert names.names["n15000000"] == "Tench-n15000000"
        assert len({name.casefold() for name in names.names.values()}) == len(names.names)


def test_wnids_choose_classes(tmp_path: Path) -> None:
    options = BuildOptions("imagenet", classes=("n03126707", "tench"), size=8)
    manifest = build_shards(options, str(official_input(tmp_path / "in")), tmp_path / "out")
    assert manifest.counts() == {"crane-n03126707": 2, "tench": 2}


def test_a_split_is_not_taken_for_the_other(tmp_path: Path) -> None:
    put(tmp_path, train_files(), "train")
    put(tmp_path, val_files(), "val")
    put(tmp_path, {"a.tar": tar(val_files()), "b.tar": train_tar(), "LOC_val_solution.csv": solution()})
    for path, split in (("train", "val"), ("val", "train"), ("a.tar", "train"), ("b.tar", "val")):
        with pytest.raises(UserError, match=f"{path} has no pictures of {split}: .*img_{split}"):
            read(tmp_path / path, split)


@pytest.mark.parametrize("split", ["train", "val"])
def test_empty_folder_of_a_split_is_told(split: str, tmp_path: Path) -> None:
    (tmp_path / split).mkdir()
    with pytest.raises(UserError, match=f"{split} has no pictures of {split}"):
        read(tmp_path, split)
    (tmp_path / split / "n01440764").mkdir()
    with pytest.raises(UserError, match=f"{split} has no pictures of {split}"):
        read(tmp_path, split)


@pytest.mark.parametrize("name", ["train", "ILSVRC", TRAIN_TAR, "LOC_synset_mapping.txt"])
def test_links_that_lead_out_are_not_followed(name: str, tmp_path: Path) -> None:
    root = kaggle_input(tmp_path / "in")
    if (root / name).exists():
        (root / name).rename(tmp_path / "outside")
    else:
        (tmp_path / "outside").mkdir()
    (root / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link to .*outside"):
        read(root)


def test_fingerprint_follows_tars_and_files(tmp_path: Path) -> None:
    official, kaggle = official_input(tmp_path / "official"), kaggle_input(tmp_path / "kaggle")
    changed = {kaggle: "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_9.JPEG", official: TRAIN_TAR}
    for root, name in changed.items():
        before = read(root).fingerprint
        (root / name).write_bytes((root / name).read_bytes() + bytes(512))
        assert read(root).fingerprint != before


class TestBrokenTars:
    def test_cut_train_is_told(self, tmp_path: Path) -> None:
        path = tar_itself(tmp_path)
        path.write_bytes(path.read_bytes()[:-20000])
        with pytest.raises(UserError, match=r"img_train\.tar.* was cut short .* fetch it again"):
            read(path)

    def test_cut_tar_of_a_class_is_named(self, tmp_path: Path) -> None:
        whole = tar({"n01440764_1.JPEG": b"x" * 3000})
        put(tmp_path, {TRAIN_TAR: tar({"n01440764.tar": whole[:2000], "n02012849.tar": whole})})
        with pytest.raises(UserError, match=r"img_train\.tar: n01440764\.tar can't be read as a tar"):
            read(tmp_path)

    @pytest.mark.parametrize("name", ["n0144076.tar", "tench.tar", "more/n01440764.tar"])
    def test_tars_that_are_of_no_class_or_doubled_are_refused(self, name: str, tmp_path: Path) -> None:
        inner = tar({"n01440764_1.JPEG": b"x"})
        put(tmp_path, {TRAIN_TAR: tar({"n01440764.tar": inner, name: inner})})
        with pytest.raises(UserError, match=f"{name} should be the tar of a class"):
            read(tmp_path)

    def test_cut_devkit_is_told(self, tmp_path: Path) -> None:
        path = official_input(tmp_path) / f"{DEVKIT}.tar.gz"
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz can't be read"):
            read(tmp_path, "val")

    def test_a_devkit_of_which_any_byte_is_wrong_is_told(self, tmp_path: Path) -> None:
        path = official_input(tmp_path) / f"{DEVKIT}.tar.gz"
        whole = path.read_bytes()
        for place in range(10, len(whole), 37):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz can't be read .*fetch it again"):
                read(tmp_path, "val")

    def test_a_devkit_that_unpacks_to_too_much_is_refused(self, tmp_path: Path) -> None:
        root = official_input(tmp_path)
        with gzip.open(root / f"{DEVKIT}.tar.gz", "wb", compresslevel=1) as archive:
            archive.write(tar({f"{DEVKIT}/data/meta.mat": bytes(LARGEST_DEVKIT)}))
        with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz unpacks to more than"):
            read(root, "val")

    def test_other_devkit_is_told(self, tmp_path: Path) -> None:
        put(official_input(tmp_path), {f"{DEVKIT}.tar.gz": tar({"ILSVRC2012_devkit_t3/a": b""}, "w:gz")})
        with pytest.raises(UserError, match=r"has no ILSVRC2012_devkit_t12/data/meta\.mat"):
            read(tmp_path, "val")


class TestBrokenLists:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("n0144076 tench", "should be like"),
            ("n01440764", "should be like"),
            ("n01440764 ", "should be like"),
            ("tench", "should be like"),
            ("n00000001 , other", "class name ''"),
            ("n00000001 #1", "class name '#1'"),
            ("n01440764 tench", "earlier line"),
        ],
    )
    def test_wrong_names_are_told_with_their_line(self, line: str, message: str, tmp_path: Path) -> None:
        put(kaggle_input(tmp_path), {"LOC_synset_mapping.txt": synset_mapping() + f"{line}\n".encode()})
        n = len(CLASSES) + 1
        with pytest.raises(UserError, match=rf"LOC_synset_mapping\.txt, line {n}: .*{message}"):
            read(tmp_path)

    @pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "LOC_val_solution.csv"])
    def test_lists_that_cannot_be_read_are_told(
        self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        root = kaggle_input(tmp_path)
        deny(root / name, monkeypatch)
        with pytest.raises(UserError, match=rf"{name} can't be read .*Permission denied"):
            read(root, "val")

    def test_class_without_a_name_is_told(self, tmp_path: Path) -> None:
        for write in (official_input, kaggle_input):
            root = put(write(tmp_path / write.__name__), {"LOC_synset_mapping.txt": b"n01440764 tench\n"})
            with pytest.raises(UserError, match=r"train.*: .*LOC_synset_mapping\.txt has no class n02012849"):
                read(root)
            with pytest.raises(UserError, match=r", line \d+: .*synset_mapping\.txt has no class n0"):
                read(root, "val")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("ILSVRC2012_val_00000007", "should be like"),
            ("ILSVRC2012_val_00000007,", "should be like"),
            ("ILSVRC2012_val_00000007,tench 1 2 3 4", "should be like"),
            ("n01440764_1,n01440764 1 2 3 4", "should be like"),
            ("ImageId,PredictionString", "should be like"),
            ("ILSVRC2012_val_00000001,n01440764 1 2 3 4", "on line 7 too"),
            ("ILSVRC2012_val_00000007,n01440765 1 2 3 4", "has no class n01440765"),
            ("ILSVRC2012_val_00000007,n01440764 1 2 3 4", "val lacks .*00000007. It has 6 .* of 7"),
        ],
    )
    def test_wrong_solutions_are_told_with_their_line(self, line: str, message: str, tmp_path: Path) -> None:
        put(kaggle_input(tmp_path), {"LOC_val_solution.csv": solution() + f"{line}\n".encode()})
        with pytest.raises(UserError, match=rf"LOC_val_solution\.csv, line 8: .*{message}"):
            read(tmp_path, "val")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (ground_truth() + b"449\n", r", line 7: .* lacks ILSVRC2012_val_00000007\. It has 6 .* of 7"),
            (ground_truth()[:-2], r", line 6: .* has no class of the number 44"),
            (b"449\n" * 5, r" has no label of ILSVRC2012_val_00000006\.JPEG"),
            (b"1001\n" + ground_truth(), r", line 1: .*meta\.mat has no class of the number 1001"),
            (b"0\n" + ground_truth(), ", line 1: .* has no class of the number 0"),
            (b"449\n-5\n", r", line 2: '-5' should be like '490'"),
            (b"449\nn01440764\n", r", line 2: 'n01440764' should be like '490'"),
        ],
    )
    def test_wrong_ground_truth_is_told(self, content: bytes, message: str, tmp_path: Path) -> None:
        root = val_folder(tmp_path, devkit())
        put(root, {f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt": content})
        with pytest.raises(UserError, match=f"ground_truth.txt{message}"):
            read(root, "val")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"not MATLAB's",
            meta_mat()[:400],
            meta_mat({}),
            meta_mat({"n01440764": ""}),
            meta_mat({"n01440764": "#1"}),
            meta_mat({"tench": "tench"}),
        ],
    )
    def test_wrong_meta_is_told(self, content: bytes, tmp_path: Path) -> None:
        root = put(val_folder(tmp_path, devkit()), {f"{DEVKIT}/data/meta.mat": content})
        with pytest.raises(UserError, match=r"meta\.mat is not the meta\.mat of ImageNet"):
            read(root, "val")

    def test_val_without_labels_is_told_what_is_needed(self, tmp_path: Path) -> None:
        for extra in ({}, {"meta.mat": meta_mat()}):
            with pytest.raises(UserError, match=re.escape("LOC_val_solution.csv or the official ILSVRC2012")):
                read(val_folder(tmp_path, extra), "val")
