"""Where tables of pictures are found: Parquet files, folders of them, and saved data sets."""

import json
import pickle
import shutil
import struct
import sys
from pathlib import Path

import pytest

from cgt.errors import UserError
from tests.data.miniatures import parquet_input, picture_table
from tests.data.tables import LABELS, bare, class_names, pa, pixels, read, save, shown, write


class TestParquetFiles:
    @pytest.mark.parametrize("group", [1, 2, 5])
    def test_rows_come_in_order_with_their_classes_and_pixels(self, group: int, tmp_path: Path) -> None:
        table = picture_table(LABELS)
        source = read(write(table, tmp_path / "a.parquet", row_group_size=group))
        assert source.classes == ("cat", "dog", "owl")
        assert class_names(source) == ["cat", "dog", "owl", "dog", "cat"]
        assert shown(source) == pixels(table)
        assert pickle.loads(pickle.dumps(source.load))((0, 3)).tobytes() == pixels(table)[3]

    def test_splits_are_told_by_file_names(self, tmp_path: Path) -> None:
        root = parquet_input(tmp_path)
        counts = {split: len(read(root, split).pictures) for split in ("train", "validation", "test", "all")}
        assert counts == {"train": 10, "validation": 5, "test": 5, "all": 20}
        assert shown(read(root))[:5] == pixels(picture_table(LABELS, seed=5))
        assert shown(read(root, "test")) == pixels(picture_table(LABELS, seed=4))

    def test_folders_tell_splits_too_and_unnamed_files_are_train(self, tmp_path: Path) -> None:
        (tmp_path / "named" / "default" / "val").mkdir(parents=True)
        (tmp_path / "plain").mkdir()
        write(picture_table([0, 1]), tmp_path / "named" / "default" / "val" / "0000.parquet")
        write(picture_table([0, 1]), tmp_path / "plain" / "0000.parquet")
        assert len(read(tmp_path / "named", "validation").pictures) == 2
        assert len(read(tmp_path / "plain", "train").pictures) == 2
        with pytest.raises(UserError, match="no files of train: it has validation"):
            read(tmp_path / "named", "train")

    def test_files_of_different_tables_are_refused(self, tmp_path: Path) -> None:
        root = parquet_input(tmp_path)
        table = picture_table(LABELS)
        write(bare(table), root / "data" / "train-00009.parquet")
        with pytest.raises(UserError, match=r"train-00009\.parquet has other columns .* or other classes"):
            read(root)

    def test_numbers_and_texts_do_not_mix(self, tmp_path: Path) -> None:
        table = bare(picture_table([0]))
        write(table, tmp_path / "a.parquet")
        write(table.set_column(1, "label", pa.array(["cat"])), tmp_path / "b.parquet")
        with pytest.raises(UserError, match=r"b\.parquet has other columns"):
            read(tmp_path)

    def test_files_of_other_splits_count_for_all(self, tmp_path: Path) -> None:
        for name in ("train", "extra"):
            write(picture_table([0]), tmp_path / f"{name}.parquet")
        assert [picture.key for picture in read(tmp_path, "all").pictures] == [
            "other-00000-0",
            "train-00001-0",
        ]
        assert len(read(tmp_path).pictures) == 1

    def test_fingerprint_follows_the_files(self, tmp_path: Path) -> None:
        root = parquet_input(tmp_path)
        before = read(root).fingerprint
        write(picture_table([2]), root / "data" / "train-00001-of-00002.parquet")
        assert read(root).fingerprint != before

    def test_what_was_read_before_is_not_taken_for_a_file_that_was_replaced(self, tmp_path: Path) -> None:
        for put in (
            lambda table: write(table, tmp_path / "a.parquet"),
            lambda table: save(table, tmp_path / "saved"),
        ):
            for seed, labels in ((0, [0]), (1, [1, 2])):
                shutil.rmtree(tmp_path / "saved", ignore_errors=True)
                table = picture_table(labels, seed=seed)
                assert shown(read(put(table))) == pixels(table)

    def test_missing_pyarrow_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(picture_table([0]), tmp_path / "a.parquet")
        monkeypatch.delitem(sys.modules, "cgt.data.sources.parquet_tables")
        monkeypatch.delattr("cgt.data.sources.parquet_tables")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UserError, match=r'pip install "cgt\[parquet\]"'):
            read(path)


class TestSavedDatasets:
    @pytest.mark.parametrize("files", [1, 2])
    def test_a_saved_data_set_is_read_in_its_order(self, files: int, tmp_path: Path) -> None:
        table = picture_table([0, 1, 2, 1, 0, 2])
        source = read(save(table, tmp_path / "saved", files))
        assert class_names(source) == ["cat", "dog", "owl", "dog", "cat", "owl"]
        assert shown(source) == pixels(table)

    def test_a_saved_dictionary_has_its_splits(self, tmp_path: Path) -> None:
        for split, labels in (("train", [0, 1]), ("test", [2]), ("extra", [1])):
            save(picture_table(labels), tmp_path / split)
        (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "extra"]}))
        assert class_names(read(tmp_path)) == ["cat", "dog"]
        assert class_names(read(tmp_path, "test")) == ["owl"]
        assert class_names(read(tmp_path, "all")) == ["cat", "dog", "owl", "dog"]

    def test_a_saved_split_is_known_by_its_state(self, tmp_path: Path) -> None:
        folder = save(picture_table([0]), tmp_path / "saved", state={"_split": "test"})
        assert len(read(folder, "test").pictures) == 1
        with pytest.raises(UserError, match="no files of train: it has test"):
            read(folder)

    def test_class_names_may_stand_in_the_infos_only(self, tmp_path: Path) -> None:
        folder = save(bare(picture_table([0, 1])), tmp_path / "saved")
        names = {"label": {"_type": "ClassLabel", "names": ["ant", "bee"]}}
        (folder / "dataset_info.json").write_text(json.dumps({"features": names}))
        assert class_names(read(folder)) == ["ant", "bee"]

    @pytest.mark.parametrize("filename", ["../outside.arrow", "absent.arrow", "/etc/hostname", "", None, 3])
    def test_files_elsewhere_are_refused(self, filename: object, tmp_path: Path) -> None:
        folder = save(picture_table([0]), tmp_path / "saved")
        (folder / "data-00000-of-00001.arrow").rename(tmp_path / "outside.arrow")
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": filename}]}))
        with pytest.raises(UserError, match=r"state\.json (names|is not as)"):
            read(folder)

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"_data_files": 3}', '{"_data_files": ["a.arrow"]}', "[" * 100_000]
    )
    def test_a_damaged_state_is_refused(self, content: str, tmp_path: Path) -> None:
        folder = save(picture_table([0]), tmp_path / "saved")
        (folder / "state.json").write_text(content)
        with pytest.raises(UserError, match=r"state\.json (can't be read|is not as)"):
            read(folder)

    @pytest.mark.parametrize("splits", ["train", ["../saved"], [3], None])
    def test_a_damaged_dictionary_is_refused(self, splits: object, tmp_path: Path) -> None:
        save(picture_table([0]), tmp_path / "saved")
        (tmp_path / "dict").mkdir()
        (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(UserError, match=r"dataset_dict\.json (names|is not as)"):
            read(tmp_path / "dict")

    def test_a_selection_of_rows_is_refused(self, tmp_path: Path) -> None:
        folder = save(
            picture_table([0]),
            tmp_path / "saved",
            state={"_indices_data_files": [{"filename": "indices.arrow"}]},
        )
        with pytest.raises(UserError, match=r"flatten_indices\(\)"):
            read(folder)

    @pytest.mark.parametrize("kept", [0, 3, 100, 900])
    def test_a_file_that_was_cut_is_refused(self, kept: int, tmp_path: Path) -> None:
        folder = save(picture_table(LABELS), tmp_path / "saved")
        path = folder / "data-00000-of-00001.arrow"
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"arrow can't be read as a table"):
            read(folder)

    def test_offsets_that_lead_out_of_the_file_are_refused(self, tmp_path: Path) -> None:
        table = picture_table([0, 1])
        first, second = (len(row["bytes"]) for row in table.column("image").to_pylist())
        folder = save(table, tmp_path / "saved")
        path = folder / "data-00000-of-00001.arrow"
        offsets, wrong = (struct.pack("<3i", 0, end, first + second) for end in (first, 2**30))
        content = path.read_bytes()
        assert content.count(offsets) == 1
        path.write_bytes(content.replace(offsets, wrong))
        with pytest.raises(UserError, match="can't be read as a table"):
            shown(read(folder))
