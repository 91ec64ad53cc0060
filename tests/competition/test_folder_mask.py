"""Competitions given as folders, of classes or of persons: ids, labels, groups, and what is wrong with them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_labels import PARTS

from pipeline.competition.paths import missing_images
from pipeline.competition.sources import open_competition
from pipeline.config.data import FolderCompetition, MaskCompetition
from pipeline.config.settings import ROOT

STEMS = ("incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal")


def image(path: Path, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 8), value % 256, np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path) -> FolderCompetition:
    root = tmp_path / "pets"
    for n in range(6):
        image(root / "train" / ("cat" if n % 2 else "dog") / f"p{n // 2}_{n}.png", n)
    image(root / "test" / "b.png", 100)
    image(root / "test" / "a.jpg", 101)
    return FolderCompetition(source="folder", name="pets", root=str(root))


@pytest.fixture
def masks(tmp_path) -> MaskCompetition:
    root = tmp_path / "masks"
    people = [("000001", "male", "25"), ("000002", "female", "61"), ("000003", "female", "40")]
    rows = []
    for n, (person, gender, age) in enumerate(people):
        rows.append(f"{person},{gender},Asian,{age},{person}_{gender}_{age}\n")
        for i, stem in enumerate(STEMS):
            extension = (".jpg", ".png", ".jpeg")[(n + i) % 3]
            image(root / "train/images" / rows[-1].strip().split(",")[-1] / f"{stem}{extension}", 10 * n + i)
    (root / "train/train.csv").write_text("id,gender,race,age,path\n" + "".join(rows))
    image(root / "eval/images/x.jpg", 200)
    (root / "eval/info.csv").write_text("ImageID,ans\nx.jpg,0\n")
    return settings_of(root)


def settings_of(root: Path) -> MaskCompetition:
    data = {"source": "mask", "name": "m", "root": str(root), "parts": PARTS, "formula": "6 * mask + 3 * gender + age"}
    return MaskCompetition.model_validate(data)


def told(settings) -> list[str]:
    competition = open_competition(settings)
    return [str(m) for m in (*competition.mistakes, *missing_images(competition).values())]


def test_a_folder_a_class(pets):
    competition = open_competition(pets)
    assert told(pets) == [] and competition.classes == ("cat", "dog")
    assert [(r["image_id"], r["label"]) for r in competition.train_rows[:2]] == [
        ("cat/p0_1.png", "cat"),
        ("cat/p1_3.png", "cat"),
    ]
    assert [row["image_id"] for row in competition.test_rows] == ["a.jpg", "b.png"] and competition.sample_csv is None
    assert competition.sample_columns == ("image_id", "label")


def test_a_folders_sample_submission_gives_order_and_names(pets, tmp_path):
    sample = Path(pets.root) / "sample.csv"
    sample.write_text("file,class\nb,cat\na.jpg,cat\n")
    settings = pets.model_copy(update={"sample_csv": "sample.csv"})
    competition = open_competition(settings)
    assert told(settings) == [] and [row["image_id"] for row in competition.test_rows] == ["b", "a.jpg"]
    assert competition.sample_columns == ("file", "class") and competition.test_rows[0]["path"].endswith("b.png")
    sample.write_text("file,class\nb,cat\nc,cat\n")
    lines = told(settings)
    assert any("sample.csv:3" in line and "'c' is no test image" in line for line in lines)
    assert any("a.jpg" in line and "not in the sample" in line for line in lines)


def test_folders_links_out_strays_and_absent_folders_are_told(pets, tmp_path):
    root = Path(pets.root)
    outside = tmp_path / "outside"
    image(outside / "secret.png")
    os.symlink(outside, root / "train" / "linked")
    os.symlink(outside / "secret.png", root / "train" / "cat" / "one.png")
    os.symlink(root / "train", root / "train" / "dog" / "circle")
    image(root / "train" / "stray.png")
    (root / "train" / "dog" / "notes.txt").touch()
    (root / "train" / "dog" / ".DS_Store").touch()
    competition = open_competition(pets)
    assert any("train/linked: a link out of the folder" in line for line in told(pets))
    assert any("'cat/one.png' is a link to outside" in line for line in told(pets))
    assert not any("secret" in row["path"] for row in competition.train_rows)
    assert sorted(m.kind for m in competition.notes) == [
        "folders met twice",
        "images in no class folder",
        "other files",
    ]
    lines = told(pets.model_copy(update={"train_folder": "trian"}))
    assert any("no such folder, did you mean 'train'" in line for line in lines)


def test_the_groups_of_a_folder_come_by_pattern(pets):
    competition = open_competition(pets.model_copy(update={"group_pattern": r"/(p\d+)_"}))
    assert {row["group"] for row in competition.train_rows} == {"p0", "p1", "p2"}


def test_seven_photos_a_person_whatever_their_extension(masks):
    (Path(masks.root) / "train/images/000001_male_25/._mask1.jpg").touch()  # macOS leaves such files in archives
    competition = open_competition(masks)
    assert (
        told(masks) == [] and {m.kind for m in competition.notes} == {"classes"} and len(competition.train_rows) == 21
    )
    labels = {row["image_id"]: row["label"] for row in competition.train_rows}
    assert labels["000001_male_25/mask3"] == "0" and labels["000002_female_61/normal"] == "17"
    assert labels["000003_female_40/incorrect_mask"] == "10"
    assert {row["group"] for row in competition.train_rows} == {"000001", "000002", "000003"}
    assert [row["image_id"] for row in competition.test_rows] == ["x.jpg"] and "ans" not in competition.test_rows[0]


def test_what_is_wrong_with_persons_is_told_with_their_row(masks, tmp_path):
    root = Path(masks.root)
    folder = root / "train/images/000001_male_25"
    image(folder / "mask1.webp")  # beside mask1 of another extension
    image(folder / "selfie.png")
    next((root / "train/images/000002_female_61").glob("mask5.*")).unlink()
    outside = tmp_path / "elsewhere"
    image(outside / "mask1.png")
    os.symlink(outside, root / "train/images/linked")
    with (root / "train/train.csv").open("a") as file:
        file.write(
            "000004,male,Asian,20,../../../etc\n000005,male,Asian,20,/etc\n000006,male,Asian,20,000001_male_52\n"
        )
        file.write("000007,male,Asian,20,linked\n000008,male,Asian,20,000002_female_61\n000002,male,Asian,20,x\n")
    lines = told(masks)
    for row, part in [
        (2, "'mask1' of '000001_male_25' is there 2 times"), (2, "file 'selfie' is no mask"),
        (5, "leaves"), (6, "leaves"), (7, "did you mean '000001_male_25'"), (8, "leaves"), (9, "another person's"),
        (10, "duplicate id '000002'"),
    ]:  # fmt: skip
        assert any(f"train.csv:{row}:" in line and part in line for line in lines), (row, part, lines)
    assert len(lines) == 8
    notes = [m for m in open_competition(masks).notes if m.kind != "classes"]
    assert [m.where.rpartition(":")[2] for m in notes] == ["3"] and "no photo mask5" in str(notes[0])


@pytest.mark.skipif(
    not (ROOT.parent / "shared/data/mask18").is_dir(),
    reason="needs the mask18 photos in ../shared/data: for non-commercial research, not part of the repository",
)
def test_the_real_layout_reads_without_a_word(monkeypatch):
    settings = settings_of(ROOT.parent / "shared/data/mask18")
    competition = open_competition(settings)
    assert told(settings) == [] and competition.notes == []
    assert (len(competition.train_rows), len(competition.test_rows), len(competition.classes)) == (3500, 1400, 18)
    for row in competition.train_rows:  # judged by the folder's own name, which no rule reads
        _, gender, age = row["image_id"].split("/")[0].split("_")
        mask = {"incorrect_mask": 1, "normal": 2}.get(row["file"], 0)
        expected = 6 * mask + 3 * (gender == "female") + (int(age) >= 30) + (int(age) >= 60)
        assert row["label"] == str(expected)


def test_an_environment_variable_stands_in_for_the_data_folder(masks, monkeypatch):
    root = Path(masks.root)
    monkeypatch.setenv("PODIUM_DATA", str(root.parent))
    elsewhere = masks.model_copy(update={"root": f"data/{root.name}"})
    assert told(elsewhere) == [] and len(open_competition(elsewhere).train_rows) == 21
