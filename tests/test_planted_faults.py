"""A competition with known faults: every one is reported, none is missed, and the clean version raises no alarm."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from pipeline.config.explain import section_classes
from pipeline.config.settings import Experiment

N_PEOPLE, SHOTS = 30, 4


def portrait(person: int, shot: int) -> Image.Image:
    """Photo-like, a colour and shapes of the person's own, with what differs from shot to shot."""
    rng = np.random.default_rng([person, 99])
    base = rng.integers(60, 200, 3)
    coarse = (base + rng.integers(-45, 45, (5, 5, 3))).clip(0, 255).astype(np.uint8)
    shot_rng = np.random.default_rng([person, shot])
    fine = shot_rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
    size = (96, 80)
    large = [np.asarray(Image.fromarray(a).resize(size, Image.Resampling.BICUBIC), float) for a in (coarse, fine)]
    return Image.fromarray(
        (0.55 * large[0] + 0.45 * large[1] + shot_rng.normal(0, 2, (80, 96, 3))).clip(0, 255).astype(np.uint8)
    )


def lay_out(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    rows = []
    for person in range(N_PEOPLE):
        for shot in range(SHOTS):
            name = f"i{person * SHOTS + shot:03d}"
            portrait(person, shot).save(root / "images" / f"{name}.jpg", quality=92)
            rows.append([name, "ab"[person % 2], f"person{person}"])
    write(root / "train.csv", ["image_id", "label", "person"], rows)
    tests = [[f"t{n:03d}", "a"] for n in range(40)]
    for n, (name, _) in enumerate(tests):
        portrait(1000 + n // SHOTS, n % SHOTS).save(root / "images" / f"{name}.jpg", quality=92)
    write(root / "sample_submission.csv", ["image_id", "label"], tests)


def write(path: Path, header, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture
def planted(finished):
    """A checkout with the clean competition and its experiment."""
    lay_out(finished.root / "data/planted")
    settings = {
        "competition": {
            "source": "csv", "name": "planted", "root": "data/planted", "group_column": "person",
            "train_images": "images/{image_id}.jpg", "test_images": "images/{image_id}.jpg",
        },
        "images": {"px": 64, "crop": 1.0},
        "model": {"name": "test_resnet"},
        "folds": {"k": 3},
    }  # fmt: skip
    (finished.root / "experiments/planted.yaml").write_text(yaml.safe_dump(settings))
    return finished


def findings(checkout) -> dict:
    return json.loads((checkout.runs / "planted/eda/findings.json").read_text())


def names_settings_that_are_there(checkout) -> bool:
    """Every setting that a finding names is one that the file may hold."""
    named = [f["setting"] for f in findings(checkout)["findings"] if f["setting"]]
    for text in named:
        section, _, key = text.partition(":")[0].partition(".")
        classes = section_classes(Experiment.model_fields[section].annotation)
        assert any(key in each.model_fields for each in classes), text
    return bool(named)


def titles(checkout, *levels: str) -> str:
    return " | ".join(f["title"] for f in findings(checkout)["findings"] if f["level"] in levels)


def test_the_clean_competition_raises_no_alarm(planted):
    out, _ = planted.main("folds", "experiments/planted.yaml")
    assert titles(planted, "error", "warning") == "" and "warning" not in out
    data = findings(planted)
    assert data["duplicates"] == {"exact_sets": 0, "exact_rows": 0, "copy_sets": 0, "copy_rows": 0,
                                  "across_train_test": 0, "conflicting": 0}  # fmt: skip
    assert data["shift"]["verdict"] == "alike" and data["possible_groups"] == []
    assert "0 of 30 groups on both sides" in out and "no sets of duplicates" in out


def test_every_fault_that_stops_is_told_at_once_with_its_row_and_nothing_is_written(planted, tmp_path):
    root = planted.root / "data/planted"
    images = root / "images"
    (images / "i000.jpg").write_bytes((images / "i000.jpg").read_bytes()[:900])  # truncated
    (images / "i001.jpg").write_bytes(b"")  # empty
    (images / "i002.jpg").write_text("<html>404</html>")  # no image
    (images / "i003.jpg").unlink()
    outside = tmp_path / "outside.jpg"
    portrait(1, 1).save(outside)
    (images / "i004.jpg").unlink()
    os.symlink(outside, images / "i004.jpg")
    (images / "i005.jpg").unlink()
    os.symlink("/dev/zero", images / "i005.jpg")  # whoever reads it never ends
    (images / "t001.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("L", (12_000, 8_000)).save(images / "i006.jpg", quality=1)  # a bomb
    rows = rows_of(root / "train.csv")
    rows[7][1], rows[8][2] = "", ""
    rows += [["../../../../etc/passwd", "a", "p"], ["/etc/passwd", "a", "p"], ["i010", "a", "p"], ["i011"]]
    write(root / "train.csv", ["image_id", "label", "person"], rows)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "i005.jpg"}
    settings = planted.root / "experiments/planted.yaml"
    settings.write_text(settings.read_text().replace("name: planted", "name: planted\n  classes: [a, b]"))

    _, told = planted.main("folds", "experiments/planted.yaml", "--fix", expect=2)
    for place, part in [
        ("train.csv:2", "'i000' is unreadable"), ("train.csv:3", "'i001' is unreadable"), ("train.csv:4", "'i002' is unreadable"),
        ("train.csv:5", "'i003' is missing"), ("train.csv:6", "'i004' is a link to outside"), ("train.csv:7", "'i005' is a link to outside"),
        ("train.csv:8", "bomb"), ("train.csv:9", "label '' is no class"),
        ("train.csv:122", "leaves the competition's folder"), ("train.csv:123", "'/etc/passwd' is missing"),
        ("train.csv:124", "duplicate id 'i010'"), ("train.csv:125", "1 values under 3 columns"),
        ("sample_submission.csv:3", "'t001' is unreadable"),
    ]:  # fmt: skip
        assert any(f"{place}:" in line and part in line for line in told.splitlines()), (place, part, told)
    assert told.startswith("13 mistakes in the input:")
    assert not (planted.runs / "planted/folds.csv").exists() and not (planted.runs / "planted/eda.json").exists()
    assert before == {path: path.read_bytes() for path in before}

    # what --fix wrote leaves out just the training rows, and then only the organisers' own mistakes remain
    fixes = planted.root / "experiments/planted-fixes.csv"
    assert {row[0] for row in rows_of(fixes)} == {f"i{n:03d}" for n in range(8)} | {
        "../../../../etc/passwd",
        "/etc/passwd",
    }
    assert "3 mistakes remain" in told and "competition.fixes_csv: experiments/planted-fixes.csv" in told
    _, told = planted.main(
        "folds", "experiments/planted.yaml", "competition.fixes_csv=experiments/planted-fixes.csv", expect=2
    )
    assert told.startswith("3 mistakes in the input:")
    portrait(1000, 1).save(images / "t001.jpg")
    write(root / "train.csv", ["image_id", "label", "person"], rows[:-2])
    out, _ = planted.main("folds", "experiments/planted.yaml", "competition.fixes_csv=experiments/planted-fixes.csv")
    assert "112 rows, each validated exactly once" in out


def test_every_fault_of_the_data_is_found_and_the_folds_heal_what_they_can(planted):
    root = planted.root / "data/planted"
    images = root / "images"

    def copy(source: str, target: str, change=lambda image: image, **options) -> None:
        with Image.open(images / source) as image:
            change(image).save(images / target, **options)

    (images / "i008.jpg").write_bytes((images / "i040.jpg").read_bytes())  # persons 2 and 10, both labelled a
    (images / "i012.jpg").write_bytes((images / "i048.jpg").read_bytes())  # persons 3 (b) and 12 (a): labels differ
    copy("i060.jpg", "i021.jpg", lambda image: image.resize((48, 40)), quality=70)  # persons 15 and 5
    copy("i064.jpg", "i029.jpg", ImageOps.mirror)  # 16 (a) and 7 (b), mirrored: labels differ
    copy("i068.jpg", "i033.jpg", lambda image: image.convert("L"))  # 17 (b) and 8 (a): labels differ
    copy("i072.jpg", "i037.jpg", lambda image: image.rotate(90, expand=True))  # 18 (a) and 9 (b)
    (images / "t000.jpg").write_bytes((images / "i076.jpg").read_bytes())  # a training image in the test set
    copy("i080.jpg", "t009.jpg", lambda image: image.crop((2, 2, 94, 78)), quality=60)
    copy("i084.jpg", "i084.png")
    (images / "i084.png").rename(images / "i084.jpg")  # PNG by content
    Image.new("RGB", (96, 80), (3, 3, 3)).save(images / "i088.jpg")  # a black slide
    (images / "extra.jpg").write_bytes((images / "i000.jpg").read_bytes())
    out, _ = planted.main("folds", "experiments/planted.yaml")

    data = findings(planted)
    known = json.loads((planted.runs / "planted/eda/duplicates.json").read_text())
    assert known["exact"] == [["i008", "i040"], ["i012", "i048"]]
    assert known["copies"] == [["i021", "i060"], ["i029", "i064"], ["i033", "i068"], ["i037", "i072"]]
    assert known["with_test"] == [
        {"kind": "exact", "ids": ["i076", "t000"], "n_train": 1},
        {"kind": "copies", "ids": ["i080", "t009"], "n_train": 1},
    ]
    assert data["duplicates"]["conflicting"] == 4 and data["duplicates"]["across_train_test"] == 2
    assert data["duplicates"]["copy_sets"] == 4 and data["duplicates"]["copy_rows"] == 8
    assert data["duplicates"]["exact_sets"] == 2 and data["duplicates"]["exact_rows"] == 4
    warnings, notes = titles(planted, "warning"), titles(planted, "note")
    for part in (
        "4 sets of copies with different labels",
        "2 pictures in several training rows",
        "4 sets of copies in the training set",
        "2 test images also",
    ):
        assert part in warnings, warnings
    for part in (
        "1 image with another format",
        "1 image of one colour",
        "1 image nearly black",
        "1 image file in no table",
        "grey among",
    ):
        assert part in notes, notes
    assert names_settings_that_are_there(planted)
    said = {f["title"]: f["seen"] for f in data["findings"]}
    assert said["2 pictures in several training rows"].startswith("4 rows show 2 pictures, the same to the pixel")
    assert "4 sets reach over declared groups" in said["4 sets of copies in the training set"]
    assert "2 of 40 test rows (5.0%): 1 with the same pixels" in said["2 test images also in the training set"]

    # persons 2 and 10 share a picture, so they stay together, with nobody on both sides
    table = rows_of(planted.runs / "planted/folds.csv")
    fold_of = {row[0]: row[1] for row in table}
    for pair in [*known["exact"], *known["copies"]]:
        assert len({fold_of[image_id] for image_id in pair}) == 1
    people = {row[0]: row[2] for row in rows_of(root / "train.csv")}
    assert all(len({fold_of[i] for i in fold_of if people[i] == person}) == 1 for person in set(people.values()))
    assert "0 of 6 sets of duplicates on both sides" in out and "folds   warning" not in out
    out, _ = planted.main("folds", "experiments/planted.yaml", "folds.duplicates=off")
    assert re.search(r"folds   warning: [1-6] sets of duplicates are on both sides", out)


def test_a_group_that_nobody_declared_is_told_before_training(planted):
    path = planted.root / "experiments/planted.yaml"
    path.write_text(re.sub("  group_column: person\n", "", path.read_text()))
    out, _ = planted.main("eda", "experiments/planted.yaml")
    assert "A forgotten group? Column 'person'" in out and "competition.group_column: person" in out
    out, _ = planted.main("folds", "experiments/planted.yaml")
    assert "folds   warning: a forgotten group? column 'person'" in out
    [candidate] = findings(planted)["possible_groups"]
    assert candidate["n_groups"] == N_PEOPLE and candidate["low"] > 0.6


def test_a_test_set_from_elsewhere_is_told(planted):
    images = planted.root / "data/planted/images"
    for n in range(40):
        with Image.open(images / f"t{n:03d}.jpg") as image:
            image.point(lambda v: v * 0.25).save(images / f"t{n:03d}.jpg")
    out, _ = planted.main("eda", "experiments/planted.yaml")
    assert "warning: The test set differs from the training set" in out and findings(planted)["shift"]["auc"] > 0.9


def test_labels_that_contradict_each_other_in_a_group_are_told(planted):
    root = planted.root / "data/planted"
    rows = rows_of(root / "train.csv")
    rows[5][1] = "a"  # one of person1's four, the others are b
    write(root / "train.csv", ["image_id", "label", "person"], rows)
    planted.main("eda", "experiments/planted.yaml")
    [finding] = [f for f in findings(planted)["findings"] if "contradict" in f["title"]]
    assert finding["images"] == [["train:i005"]] and "group person1: b x3, a x1" in finding["seen"].replace(
        "a x1, b x3", "b x3, a x1"
    )


def test_a_first_look_that_is_killed_while_it_writes_is_made_again(planted, monkeypatch):
    planted.main("folds", "experiments/planted.yaml")

    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.work.Work.finish", killed)
        planted.main("eda", "experiments/planted.yaml", "--force", expect=130)
    out, _ = planted.main("folds", "experiments/planted.yaml")
    assert "page mlruns/planted/eda/eda.html" in out and "folds   up to date" in out


def test_every_unusual_kind_of_file_is_read_and_reported(planted):
    images = planted.root / "data/planted/images"
    path = planted.root / "experiments/planted.yaml"
    path.write_text(path.read_text().replace("images/{image_id}.jpg", "images/{image_id}.*"))

    def again(name: str, extension: str, change, **options) -> None:
        with Image.open(images / f"{name}.jpg") as image:
            changed = change(image.convert("RGB"))
        (images / f"{name}.jpg").unlink()
        changed.save(images / f"{name}.{extension}", **options)

    def clear(image: Image.Image) -> Image.Image:
        alpha = Image.new("L", image.size, 255)
        alpha.paste(0, (0, 0, 30, 30))
        image.putalpha(alpha)
        return image

    exif = Image.Exif()
    exif[0x0112] = 3
    again("i000", "png", lambda image: image.quantize(64))
    again("i004", "png", clear)
    again("i008", "tif", lambda image: image.convert("CMYK"))
    again("i012", "png", lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256))
    again("i016", "gif", lambda image: image, save_all=True, append_images=[Image.new("RGB", (96, 80))])
    again("i020", "jpg", lambda image: image, exif=exif)
    again("i024", "bmp", lambda image: image)
    (images / "i024.bmp").rename(images / "i024.PNG")
    planted.main("eda", "experiments/planted.yaml")
    notes = titles(planted, "note")
    for part in (
        "2 images with a palette",  # a GIF is one, too
        "1 image with transparency", "1 image in CMYK", "1 image of 16 bits", "1 image with several frames",
        "1 image turned by EXIF", "1 image with another format than their name says", "1 image grey among coloured ones",
    ):  # fmt: skip
        assert part in notes, (part, notes)
    assert findings(planted)["images"]["train"]["formats"] == {"JPEG": 114, "PNG": 3, "TIFF": 1, "GIF": 1, "BMP": 1}


def test_many_copies_of_one_picture_are_one_set_beside_others(planted):
    root = planted.root / "data/planted"
    with Image.open(root / "images/i100.jpg") as image:
        for n in range(36):
            image.save(root / "images" / f"h{n:02d}.jpg", quality=60 + n)
        image.copy().save(root / "images/t003.jpg", quality=55)
    with Image.open(root / "images/i060.jpg") as image:
        image.resize((48, 40)).save(root / "images/i021.jpg")
    rows = rows_of(root / "train.csv")
    write(
        root / "train.csv",
        ["image_id", "label", "person"],
        [*rows, *([f"h{n:02d}", "a", f"heap{n}"] for n in range(36))],
    )
    planted.main("eda", "experiments/planted.yaml")
    known = json.loads((planted.runs / "planted/eda/duplicates.json").read_text())
    assert known["copies"][0] == ["i021", "i060"] and len(known["copies"]) == 2
    assert sorted(known["copies"][1]) == sorted(["i100", *(f"h{n:02d}" for n in range(36))])
    assert findings(planted)["duplicates"]["across_train_test"] == 1


def test_a_forgotten_column_called_group_is_named_too(planted):
    path = planted.root / "experiments/planted.yaml"
    path.write_text(re.sub("  group_column: person\n", "", path.read_text()))
    table = planted.root / "data/planted/train.csv"
    table.write_text(table.read_text().replace("image_id,label,person", "image_id,label,group"))
    out, _ = planted.main("eda", "experiments/planted.yaml")
    assert "A forgotten group? Column 'group'" in out
    table.write_text(table.read_text().replace(",group\n", ",patient\n", 1))
    out, _ = planted.main("eda", "experiments/planted.yaml")  # only a column changed, and it is looked at again
    assert "Column 'patient'" in out


def test_a_class_that_only_a_typo_made_is_gone_when_it_is_mended_and_two_groups_crash_nothing(planted):
    root = planted.root / "data/planted"
    rows = rows_of(root / "train.csv")
    rows[0][1] = "aa"
    rows = [[i, label, f"half{n % 2}"] for n, (i, label, _) in enumerate(rows)]
    write(root / "train.csv", ["image_id", "label", "person"], rows)
    (planted.root / "experiments/f.csv").write_text("image_id,label\ni000,a\n")
    out, _ = planted.main("eda", "experiments/planted.yaml", "competition.fixes_csv=experiments/f.csv", "folds.k=2")
    assert "2 classes of 60 to 60" in out


def test_an_image_that_would_fill_the_memory_when_enlarged_is_refused(planted):
    Image.new("L", (1, 60_000), 7).save(planted.root / "data/planted/images/i000.jpg")
    _, told = planted.main("folds", "experiments/planted.yaml", "images.px=224", expect=2)
    assert "train.csv:2: image 'i000' is unreadable: 1 x 60000 px" in told and "is a bomb" in told
