"""Organisers' tables: what is wrong with them is found, with file and row, and nothing is found in a clean one."""

import os
import time

import pytest

from pipeline.competition.csv import read
from pipeline.competition.grouping import merged_groups
from pipeline.competition.paths import missing_images, n_unused


def told(settings) -> list[str]:
    competition = read(settings)
    return [str(m) for m in (*competition.mistakes, *missing_images(competition).values())]


def changed(settings, **values):
    return type(settings).model_validate(settings.model_dump() | values)


def test_a_clean_competition_has_no_mistakes_and_keeps_the_contract(small_settings):
    assert told(small_settings) == []
    competition = read(changed(small_settings, group_column="group"))
    assert list(competition.train.columns) == ["image_id", "label", "group", "path"]
    assert competition.train["image_id"].is_unique and len(competition.train) == 24
    assert list(competition.test["image_id"]) == [f"t{i}" for i in range(6)]
    assert "label" not in competition.test.columns  # the sample's placeholder is no prediction
    assert competition.classes == ("bright", "dark")


def test_each_mistake_names_its_file_and_row(small_competition, small_settings):
    with (small_competition / "train.csv").open("a") as file:
        file.write("a03,dark,g1\n")  # row 26
        file.write("a99,dark,g1\n")  # 27: no such image
        file.write("../../etc/passwd,dark,g1\n")
        file.write("/etc/passwd,drak,g1\n")
        file.write(",dark,g1\n")
        file.write("x,dark\n")
    settings = changed(small_settings, classes=["bright", "dark"], train_images="images/{image_id}.png")
    lines = told(settings)
    for row, part in [
        (26, "duplicate id 'a03'"),
        (27, "'a99' is missing"),
        (28, "leaves"),
        (30, "empty"),
        (31, "2 values"),
    ]:
        assert any(f"train.csv:{row}:" in line and part in line for line in lines), (row, part, lines)
    assert "train.csv:5" in next(line for line in lines if "duplicate" in line)  # where the first one stands


def test_absolute_paths_and_links_out_of_the_folder_are_refused(small_competition, small_settings, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes((small_competition / "images" / "a00.png").read_bytes())
    os.symlink(secret, small_competition / "images" / "link.png")
    with (small_competition / "train.csv").open("a") as file:
        file.write("link,dark,g1\n")
    assert any("link to outside" in line and "train.csv:26" in line for line in told(small_settings))
    assert any("leaves" in line for line in told(changed(small_settings, train_images="/{image_id}.png")))


def test_a_label_in_no_class_names_the_nearest(small_competition, small_settings):
    with (small_competition / "train.csv").open("a") as file:
        file.write("a23x,brigth,g1\n")
    lines = told(changed(small_settings, classes=["bright", "dark"]))
    assert any("'brigth' is no class, did you mean 'bright'" in line and ":26" in line for line in lines)


def test_a_sample_submission_must_have_the_ids_of_the_test_table(small_competition, small_settings, write_csv):
    write_csv(small_competition / "test.csv", ["image_id"], [[f"t{i}"] for i in (0, 1, 2, 3, 4, 7)])
    lines = told(changed(small_settings, test_csv="test.csv"))
    assert any(
        "sample_submission.csv:7" in line and "'t5'" in line and "not in the test table" in line for line in lines
    )
    assert any("test.csv:7" in line and "'t7'" in line and "not in the sample" in line for line in lines)


def test_a_test_table_in_another_order_is_put_into_the_samples_order(small_competition, small_settings, write_csv):
    write_csv(small_competition / "test.csv", ["image_id"], [[f"t{i}"] for i in (5, 3, 1, 0, 2, 4)])
    competition = read(changed(small_settings, test_csv="test.csv"))
    assert competition.mistakes == []
    assert [row["image_id"] for row in competition.test_rows] == [f"t{i}" for i in range(6)]


def test_an_image_on_both_sides_is_found(small_competition, small_settings):
    with (small_competition / "sample_submission.csv").open("a") as file:
        file.write("a00,dark\n")
    assert any("training image too" in line for line in told(small_settings))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "columns none"),
        (b"id,label\na00,dark\n", "columns id, label"),
        (b"image_id,label,label\na00,dark,dark\n", "each once"),
        (b"image_id;label\na00;dark\n", "columns image_id;label"),
        (b"image_id,label\n", "no rows"),
        (b"image_id,label\n\xff\xfe,dark\n", "not readable as CSV"),
        (b'image_id,label\n"a00,dark\n', "not readable as CSV"),
    ],
)
def test_a_table_that_is_none_is_told(small_competition, small_settings, content, part):
    (small_competition / "train.csv").write_bytes(content)
    assert any("train.csv" in line and part in line for line in told(small_settings))


def test_a_byte_order_mark_and_windows_line_ends_are_read(small_competition, small_settings):
    path = small_competition / "train.csv"
    before = read(small_settings).tables_hash
    path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace("\n", "\r\n").encode())
    assert told(small_settings) == []
    assert read(small_settings).tables_hash == before


def test_the_tables_hash_is_of_the_rows_not_of_their_order(small_competition, small_settings):
    before = read(small_settings).tables_hash
    path = small_competition / "train.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert read(small_settings).tables_hash == before
    path.write_text("\n".join([header, *rows[:-1]]) + "\n")
    assert read(small_settings).tables_hash != before


def test_a_template_over_columns_that_are_not_there_is_told(small_settings):
    assert any("{nmae}" in line and "image_id" in line for line in told(changed(small_settings, train_images="{nmae}")))


@pytest.mark.parametrize("group", ["image_id", "path", "label"])
def test_a_group_column_that_bears_a_contracts_name_stays_the_group(
    small_competition, small_settings, write_csv, group
):
    """Patches of a scan: the ids are `patch`, the scans stand in a column called `image_id`."""
    names = {"image_id": "patch", "path": "patch", "label": "patch"}
    rows = [(f"a{i:02d}", "bd"[i % 2], f"scan{i // 4}") for i in range(24)]
    write_csv(small_competition / "train.csv", [names[group], "kind", group], rows)
    write_csv(small_competition / "sample_submission.csv", ["patch", "kind"], [(f"t{i}", "b") for i in range(6)])
    settings = changed(
        small_settings,
        id_column="patch",
        label_column="kind",
        group_column=group,
        train_images="images/{patch}.png",
        test_images="images/{patch}.png",
    )
    assert told(settings) == []
    train = read(settings).train
    assert list(train["group"]) == [row[2] for row in rows]
    assert list(train["image_id"]) == [row[0] for row in rows] and list(train["label"]) == [row[1] for row in rows]


@pytest.mark.parametrize("table", ["test.csv", "sample_submission.csv"])
def test_a_duplicate_test_id_is_told_in_the_table_that_has_it(small_competition, small_settings, write_csv, table):
    write_csv(small_competition / "test.csv", ["image_id"], [[f"t{i}"] for i in range(6)])
    with (small_competition / table).open("a") as file:
        file.write("t2,dark\n" if table.startswith("sample") else "t2\n")
    [line] = told(changed(small_settings, test_csv="test.csv"))
    assert f"{table}:8: duplicate id 't2', first in" in line and f"{table}:4" in line


@pytest.mark.parametrize(
    "template", ["{image_id", "{image_id:04d}.png", "{image_id!r}.png", "{image_id.x}.png", "plain.png"]
)
def test_a_template_that_cannot_work_is_told(small_settings, template):
    assert any("competition.train_images" in line for line in told(changed(small_settings, train_images=template)))


def test_an_extension_that_varies_and_several_folders_are_found_and_a_choice_is_told(small_competition, small_settings):
    images = small_competition / "images"
    (small_competition / "more").mkdir()
    (images / "a01.png").rename(images / "a01.JPEG")
    (images / "a02.png").rename(small_competition / "more" / "a02.png")
    settings = changed(small_settings, train_images=["images/{image_id}.*", "more/{image_id}.*"])
    assert told(settings) == []
    paths = {row["image_id"]: row["path"] for row in read(settings).train_rows}
    assert paths["a01"].endswith("images/a01.JPEG") and paths["a02"].endswith("more/a02.png")
    (small_competition / "more" / "a03.jpg").write_bytes((images / "a03.png").read_bytes())
    assert any("train.csv:5" in line and "'a03' is there 2 times" in line for line in told(settings))
    (images / "a04.png").unlink()
    assert any("train.csv:6" in line and "'a04' is missing" in line for line in told(settings))


def test_the_group_may_be_a_part_of_the_id(small_settings):
    competition = read(changed(small_settings, group_pattern="^a([0-9])"))
    assert competition.has_groups and {row["group"] for row in competition.train_rows} == {"0", "1", "2"}
    some = read(changed(small_settings, group_pattern="^a(0|)"))  # a02, but not a12
    assert not some.mistakes and [row["group"] for row in some.train_rows] == ["0"] * 10 + [""] * 14
    assert any(
        "train.csv:2" in line and "no group by ^b" in line for line in told(changed(small_settings, group_pattern="^b"))
    )
    assert any("competition.group_pattern" in line for line in told(changed(small_settings, group_pattern="(")))


def test_rows_without_a_group_stand_by_themselves_and_a_note_counts_them(small_competition, small_settings, write_csv):
    """However the cell says so: a table that went through pandas has nan, one of R has NA."""
    cells = ["", " ", "nan", "NaN", "NA", "<NA>"]
    rows = [(f"a{i:02d}", "bright" if i % 2 else "dark", cells[i] if i < 6 else f"g{i // 3}") for i in range(24)]
    write_csv(small_competition / "train.csv", ["image_id", "label", "person"], rows)
    with_group = small_settings.model_copy(update={"group_column": "person"})
    competition = read(with_group)
    assert competition.mistakes == [] and [row["group"] for row in competition.train_rows[:8]] == [""] * 6 + ["g2"] * 2
    assert set(list(merged_groups(competition).values())[:6]) == {""}
    [note] = [note.found for note in competition.notes if note.kind == "rows without a group"]
    assert note.startswith("6 of 24 rows have no group (2 empty, 1 nan, 1 NaN, 1 NA, 1 <NA>)")
    write_csv(small_competition / "train.csv", ["image_id", "label", "person"], [(*row[:2], "") for row in rows])
    assert any("no row has a group" in line for line in told(with_group))


def test_a_competition_without_a_test_set_is_read(small_settings):
    competition = read(changed(small_settings, sample_csv="none"))
    assert competition.mistakes == [] and competition.test_rows == [] and competition.sample_csv is None
    assert list(competition.test.columns) == ["image_id", "path"]


def test_fixes_leave_rows_out_and_label_anew_and_the_users_files_stay_as_they_are(
    small_competition, small_settings, tmp_path
):
    before = {path: path.read_bytes() for path in small_competition.rglob("*") if path.is_file()}
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("image_id,label,reason\na00,,blurred\na01,dark,was bright\n")
    settings = changed(small_settings, fixes_csv=str(fixes))
    competition = read(settings)
    labels = {row["image_id"]: row["label"] for row in competition.train_rows}
    assert competition.mistakes == [] and len(labels) == 23 and "a00" not in labels and labels["a01"] == "dark"
    assert competition.tables_hash != read(small_settings).tables_hash
    fixes.write_text("image_id,label\na77,\na01,drak\na02,dark\na02,bright\n")
    lines = told(changed(settings, classes=["bright", "dark"]))
    for part in (
        "fixes.csv:2: no training image 'a77'",
        "label 'drak' is no class",
        "fixes.csv:5: another label for 'a02'",
    ):
        assert any(part in line for line in lines), (part, lines)
    assert before == {path: path.read_bytes() for path in small_competition.rglob("*") if path.is_file()}


def test_a_row_that_is_left_out_is_wrong_no_more(small_competition, small_settings, tmp_path):
    with (small_competition / "train.csv").open("a") as file:
        file.write("gone,dark,g1\n../x,dark,g1\nodd,drak,g1\n")
    settings = changed(small_settings, classes=["bright", "dark"])
    assert len(told(settings)) == 4  # `odd` has no image either
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("image_id,label\ngone,\n../x,\nodd,\n")
    assert told(changed(settings, fixes_csv=str(fixes))) == []


def test_pictures_that_no_row_names_are_counted(small_competition, small_settings):
    assert n_unused(read(small_settings)) == 0
    (small_competition / "images" / "extra.jpg").touch()
    (small_competition / "images" / ".hidden.jpg").touch()
    (small_competition / "images" / "notes.txt").touch()
    assert n_unused(read(small_settings)) == 1


def test_a_folder_is_listed_once_however_many_files_end_otherwise(small_competition, small_settings, monkeypatch):
    """Once a hint, of which three are given, and never once a row."""
    for path in (small_competition / "images").glob("*.png"):
        path.rename(path.with_suffix(".jpg"))
    listings = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listings.append(folder) or listdir(folder))
    missing = missing_images(read(small_settings))
    assert len(missing) == 30 and len(listings) <= 3
    assert "is there: with `.*`" in missing[0].found


def test_a_table_of_thirty_thousand_columns_is_read_and_its_messages_stay_short(small_competition, small_settings):
    wide = [f"c{i}" for i in range(30_000)]
    text = (small_competition / "train.csv").read_text().splitlines()
    header, rows = ",".join([text[0], *wide]), [",".join([row, *["0"] * len(wide)]) for row in text[1:5]]
    (small_competition / "train.csv").write_text("\n".join([header, *rows, "a20,dark"]))
    started = time.process_time()
    lines = told(small_settings)
    assert time.process_time() - started < 10
    assert any("2 values under 30003 columns" in line for line in lines) and max(map(len, lines)) < 2000
    (small_competition / "train.csv").write_text("\n".join([f"{header},label", *rows]))
    assert any("each once" in line and len(line) < 2000 for line in told(small_settings))
