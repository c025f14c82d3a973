"""What is read of tables of pictures, how often, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cgt.errors import UserError
from tests.data.miniatures import picture_table
from tests.data.tables import LABELS, bare, class_names, noted, pa, pixels, pq, read, save, shown, write

from cgt.data.sources import parquet_tables  # isort: skip - needs pyarrow


class TestColumns:
    def test_plain_bytes_and_texts_do_without_metadata(self, tmp_path: Path) -> None:
        table = picture_table([0, 1, 0])
        contents = [row["bytes"] for row in table.column("image").to_pylist()]
        for kind in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
            plain = pa.table(
                {
                    "note": ["x"] * 3,
                    "img": pa.array(contents, pa.large_binary()),
                    "fine_label": pa.array(["b", "a", "b"]).cast(kind),
                }
            )
            source = read(write(plain, tmp_path / "a.parquet"))
            assert source.classes == ("a", "b")
            assert class_names(source) == ["b", "a", "b"]
            assert shown(source) == pixels(table)

    def test_bytes_may_stand_behind_the_path(self, tmp_path: Path) -> None:
        table = picture_table([0, 1])
        rows = table.column("image").to_pylist()
        kind = pa.struct({"path": pa.string(), "bytes": pa.binary()})
        turned = table.set_column(0, "image", pa.array(rows, kind))
        assert shown(read(save(turned, tmp_path / "saved"))) == pixels(table)

    def test_numbers_without_names_are_classes_in_their_order(self, tmp_path: Path) -> None:
        source = read(write(bare(picture_table([10, 9, 10])), tmp_path / "a.parquet"))
        assert source.classes == ("9", "10")
        assert class_names(source) == ["10", "9", "10"]

    def test_metadata_tells_columns_of_any_name(self, tmp_path: Path) -> None:
        table = picture_table([1]).rename_columns(["photo", "kind"])
        features = {
            "photo": {"_type": "Image"},
            "kind": {"_type": "ClassLabel", "names": ["ant", "bee"]},
            "absent": {"_type": "Image"},
            "words": [{"_type": "Value"}],
        }
        assert class_names(read(write(noted(table, features), tmp_path / "a.parquet"))) == ["bee"]

    def test_of_several_class_labels_the_one_of_a_known_name_is_taken(self, tmp_path: Path) -> None:
        label = {"_type": "ClassLabel", "names": ["ant", "bee", "cow"]}
        table = picture_table([2]).rename_columns(["image", "fine_label"])
        table = table.append_column("coarse_label", pa.array([0]))
        features = {"coarse_label": label, "fine_label": label}
        assert class_names(read(write(noted(table, features), tmp_path / "a.parquet"))) == ["cow"]
        table = table.rename_columns(["image", "one", "other"])
        features = {"one": label, "other": label}
        with pytest.raises(UserError, match="several columns of labels, one, other"):
            read(write(noted(table, features), tmp_path / "b.parquet"))

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["photo", "label"], "no column of pictures.* It has: photo, label"),
            (["image", "kind"], "no column of labels.* It has: image, kind"),
            (["image", "label"], "column image holds no picture files but string"),
        ],
    )
    def test_missing_columns_are_told(self, names: Sequence[str], message: str, tmp_path: Path) -> None:
        table = bare(picture_table([0])).rename_columns(names)
        if names == ["image", "label"]:
            table = table.set_column(0, "image", pa.array(["0.png"]))
        with pytest.raises(UserError, match=message):
            read(write(table, tmp_path / "a.parquet"))

    @pytest.mark.parametrize("told", [False, True])
    def test_two_columns_of_pictures_are_refused(self, told: bool, tmp_path: Path) -> None:
        table = bare(picture_table([0]))
        table = table.append_column("img", table.column("image"))
        if told:
            table = noted(table, {name: {"_type": "Image"} for name in ("image", "img")})
        with pytest.raises(UserError, match="several columns of pictures, image, img"):
            read(write(table, tmp_path / "a.parquet"))

    @pytest.mark.parametrize("name", ["image", "label"])
    def test_two_columns_of_one_name_are_refused(self, name: str, tmp_path: Path) -> None:
        table = bare(picture_table([0]))
        table = table.append_column(name, table.column(name))
        with pytest.raises(UserError, match=f"several columns of .*, {name}, {name}"):
            read(write(table, tmp_path / "a.parquet"))

    def test_labels_of_other_kinds_are_refused(self, tmp_path: Path) -> None:
        table = picture_table([0]).set_column(1, "label", pa.array([0.5]))
        with pytest.raises(UserError, match="column label holds double"):
            read(write(table, tmp_path / "a.parquet"))

    @pytest.mark.parametrize("features", [b"{", b"[]", b'{"info": null}', b"\xff"])
    def test_damaged_metadata_is_refused(self, features: bytes, tmp_path: Path) -> None:
        table = picture_table([0]).replace_schema_metadata({"huggingface": features})
        with pytest.raises(UserError, match="damaged metadata"):
            read(write(table, tmp_path / "a.parquet"))

    @pytest.mark.parametrize("names", [["cat", 3], "cat", {"0": "cat"}])
    def test_class_names_of_other_kinds_are_refused(self, names: object, tmp_path: Path) -> None:
        table = noted(picture_table([0]), {"label": {"_type": "ClassLabel", "names": names}})
        with pytest.raises(UserError, match="class names .* should be texts"):
            read(write(table, tmp_path / "a.parquet"))


class TestRows:
    @pytest.mark.parametrize("label", [-1, 3])
    def test_a_label_without_a_class_is_named(self, label: int, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=rf"a\.parquet: row 2 has the label {label}, and there are only 3 classes"
        ):
            read(write(picture_table([0, 1, label]), tmp_path / "a.parquet"))

    def test_a_missing_label_is_named(self, tmp_path: Path) -> None:
        table = picture_table([0, 1]).set_column(1, "label", pa.array([0, None]))
        with pytest.raises(UserError, match="row 1 has no label"):
            read(write(table, tmp_path / "a.parquet"))

    @pytest.mark.parametrize("saved", [False, True])
    @pytest.mark.parametrize("missing", [None, {"bytes": None, "path": "0.png"}])
    def test_a_missing_picture_is_told_when_it_is_loaded(
        self, missing: object, saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = picture_table([0, 1, 2])
        images = table.column("image").to_pylist()
        images[1] = missing
        broken = table.set_column(0, "image", pa.array(images, table.schema.field("image").type))
        source = read(save(broken, tmp_path / "saved") if saved else write(broken, tmp_path / "a.parquet"))
        monkeypatch.chdir(tmp_path)
        Image.new("RGB", (4, 4)).save(tmp_path / "0.png")  # the path that the table tells: not to be opened
        with pytest.raises(UserError, match="row 1 can't be read, the table has no bytes"):
            source.load(source.pictures[1].place)
        assert source.load(source.pictures[2].place).tobytes() == pixels(table)[2]

    def test_bytes_that_are_no_picture_are_named(self, tmp_path: Path) -> None:
        table = pa.table({"image": [b"no picture"], "label": [0]})
        source = read(write(table, tmp_path / "a.parquet"))
        with pytest.raises(UserError, match=r"a\.parquet: row 0 can't be read"):
            source.load(source.pictures[0].place)

    def test_an_empty_table_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no rows of train"):
            read(write(picture_table([0]).slice(0, 0), tmp_path / "a.parquet"))

    def test_a_folder_without_tables_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="has no tables"):
            read(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"no table at all", None])
    def test_a_corrupt_file_is_refused(self, content: bytes | None, tmp_path: Path) -> None:
        path = write(picture_table(LABELS), tmp_path / "a.parquet")
        path.write_bytes(path.read_bytes()[:-20] if content is None else content)
        with pytest.raises(UserError, match=r"a\.parquet can't be read as a table"):
            read(path)

    def test_corrupt_pages_are_told_when_a_picture_is_loaded(self, tmp_path: Path) -> None:
        path = write(
            picture_table(LABELS),
            tmp_path / "a.parquet",
            compression="snappy",
            column_encoding="PLAIN",
            use_dictionary=False,
        )
        content = bytearray(path.read_bytes())
        content[4:60] = bytes(56)
        path.write_bytes(content)
        source = read(path)
        with pytest.raises(UserError, match=r"a\.parquet can't be read as a table"):
            source.load(source.pictures[0].place)


class TestCache:
    def test_each_row_group_is_read_once_while_all_fit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads = self.counted(monkeypatch)
        source = read(write(picture_table(LABELS * 4), tmp_path / "a.parquet", row_group_size=4))
        for i in (0, 19, 5, 1, 18, 6, 12, 0, 19):
            source.load(source.pictures[i].place)
        assert sorted(reads) == [0, 1, 3, 4]

    def test_the_last_row_groups_are_kept_up_to_the_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads = self.counted(monkeypatch)
        source = read(write(picture_table(LABELS * 4), tmp_path / "a.parquet", row_group_size=4))
        source.load(source.pictures[0].place)
        monkeypatch.setattr(parquet_tables, "CACHE_BYTES", 2.5 * parquet_tables._row_groups._bytes)
        for group in (1, 0, 2, 0, 1):  # 2 takes the place of 1, which was used before 0
            source.load(source.pictures[4 * group].place)
        assert reads == [0, 1, 2, 1]
        assert len(parquet_tables._row_groups._kept) == 2

    def counted(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The row groups that are read from now on, with nothing in the cache."""
        reads: list[int] = []
        read_row_group = pq.ParquetFile.read_row_group

        def counting(file: Any, group: int, **options: Any) -> Any:
            reads.append(group)
            return read_row_group(file, group, **options)

        monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
        monkeypatch.setattr(parquet_tables, "_row_groups", parquet_tables._RowGroups())
        return reads
