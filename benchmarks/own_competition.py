"""facemask3 as a stranger would download it: a zip of a competition that nobody here prepared, its answers kept away.

    .venv/bin/python benchmarks/own_competition.py FACEMASK3 masks.zip ANSWERS.csv

FACEMASK3 holds train.csv (`image_id,label,group,face_px`) and images/. Whole source photos are drawn by a fixed seed
until a fifth of the faces is held out; those are the test set. Every face gets a number, in an order that tells nothing
of photo or class. The zip holds what hosts hold, snags included:

    train.csv                file,mask_status,photo   the number without an extension (00042: not to be read as 42)
    sample_submission.csv    file,mask_status         the test numbers, shuffled, all of one label
    train_images/ test_images/                        NUMBER.jpg, every tenth a NUMBER.png of the same pixels
    README.txt, __MACOSX/                             what nobody asked for

ANSWERS.csv (`file,mask_status`) is written elsewhere and never goes into the zip. `docs/own-competition.md` was tried
on the result, and scored by

    .venv/bin/python benchmarks/own_competition.py score SUBMISSION.csv ANSWERS.csv

which is scikit-learn alone: it knows nothing of Podium, as a leaderboard would not.
"""

import csv
import io
import random
import sys
import zipfile
from pathlib import Path

from PIL import Image
from sklearn.metrics import f1_score

COLUMNS = ("file", "mask_status", "photo")
HELD_OUT = 0.2  # of the faces
SEED = 20261124


def lay_out(source: Path, target: Path, answers: Path) -> tuple[int, int]:
    """Writes the zip and, elsewhere, the answers. Gives the numbers of training and test faces."""
    rows = list(csv.DictReader((source / "train.csv").read_text().splitlines()))
    draw = random.Random(SEED)  # noqa: S311 (nothing is to be kept secret)
    photos = sorted({row["group"] for row in rows})
    draw.shuffle(photos)
    held_out: set[str] = set()
    while sum(row["group"] in held_out for row in rows) < HELD_OUT * len(rows):
        held_out.add(photos.pop())
    draw.shuffle(rows)
    for number, row in enumerate(rows):
        row["file"], row["mask_status"], row["photo"] = f"{number:05d}", row["label"], f"ph{row['group'][1:]}"
    train = [row for row in rows if row["group"] not in held_out]
    test = [row for row in rows if row["group"] in held_out]
    draw.shuffle(test)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("README.txt", "Faces cut from photos. Score: macro F1.\n")
        archive.writestr("__MACOSX/._train.csv", b"\0\5\x16\7")
        archive.writestr("train.csv", table(train, COLUMNS))
        archive.writestr("sample_submission.csv", table([row | {"mask_status": "with_mask"} for row in test]))
        for folder, kept in (("train_images", train), ("test_images", test)):
            for row in kept:
                picture = (source / "images" / row["image_id"]).read_bytes()
                ending = "png" if int(row["file"]) % 10 == 0 else "jpg"
                archive.writestr(f"{folder}/{row['file']}.{ending}", as_png(picture) if ending == "png" else picture)
    answers.write_text(table(test))
    return len(train), len(test)


def table(rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS[:2]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([columns, *([row[name] for name in columns] for row in rows)])
    return out.getvalue()


def as_png(picture: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).save(out, "PNG")
    return out.getvalue()


def score(submission: Path, answers: Path) -> float:
    given, right = (dict(line.split(",") for line in p.read_text().splitlines()[1:]) for p in (submission, answers))
    assert given.keys() == right.keys(), "other ids than the answers'"
    return f1_score(list(right.values()), [given[name] for name in right], average="macro")


if __name__ == "__main__":
    if sys.argv[1] == "score":
        print(f"macro F1 {score(Path(sys.argv[2]), Path(sys.argv[3])):.4f}")
    else:
        n_train, n_test = lay_out(*map(Path, sys.argv[1:4]))
        print(f"{n_train} training faces, {n_test} test faces")
