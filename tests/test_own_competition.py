"""docs/own-competition.md is true: its files and commands are run here, in its order, on a tiny zip of the same layout.

The network is the smallest there is and learns little, so its scores mean nothing; every printed line must still be of
the shape that the document shows.
"""

import csv
import importlib.util
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import Checkout
from PIL import Image
from sklearn.metrics import f1_score
from test_docs import python_call

from pipeline.config.settings import ROOT

DOC = (ROOT / "docs/own-competition.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", DOC, re.DOTALL)
CLASSES = ("incorrect_mask", "with_mask", "without_mask")
SMALL = {
    "images": {"px": 32},
    "model": {"name": "test_resnet", "pretrained": False},
    "train": {"epochs": 3, "batch_size": 8},
}
# What depends on how good a model is, or on how fast the machine is. Everything else must be printed as shown.
OF_THE_SCORES = (
    r"train (fp32|bf16|fp16)",  # what is fastest here
    r"train N labels look wrong",
    r"train version N of the model masks",  # whether it became the champion
    r"submit (no bias|a bias|equal weights|\w+ weights|weights)",
    r"submit (warning: |N rows each the mean)",  # the latter with the number of rows that differ from before
    r"submit (ID|equal|greedy|simplex)\b",  # a row of the table of blends: which one is taken
    r"submit N predicted",  # told where it takes long
    r"compare (both|more than noise|not more)",
    r"board (select|rank correlation|public less)",  # an interval only where three files differ
)


@pytest.fixture(scope="module")
def benchmark():
    """`benchmarks/own_competition.py`, which laid out the data that the document was tried on."""
    spec = importlib.util.spec_from_file_location("own_competition", ROOT / "benchmarks/own_competition.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faces(folder: Path) -> Path:
    """facemask3's layout: 270 pictures in 90 photos, three unequal classes, some copies and some long ones."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, pictures = ["image_id,label,group,face_px"], []
    for n in range(270):
        place = 0 if n % 12 == 0 else 2 if n % 5 == 0 else 1
        pattern = rng.integers(40, 216, (8, 8, 3), dtype=np.uint8)
        pattern[..., place] //= 3  # what there is to learn
        size = (36, 80) if n % 20 == 7 else tuple(rng.integers(40, 56, 2).tolist())
        picture, label = Image.fromarray(pattern).resize(size, Image.Resampling.BICUBIC), CLASSES[place]
        if n >= 250:  # copies of the first ones, in other photos
            label = rows[1 + n - 250].split(",")[1]
            picture = pictures[n - 250].resize((52, 52))
        pictures.append(picture)
        rows.append(f"p{n // 3:03d}_f{n % 3:02d}.jpg,{label},p{n // 3:03d},{min(size)}")
        picture.save(folder / "images" / rows[-1].split(",")[0], quality=95)
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


def shape(text: str) -> list[str]:
    """The lines, with what differs between two competitions put alike: numbers, ids, classes, the model, spaces."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"\b(?=\w*\d)[0-9a-f]{16}\b|(?<=sha256 )\w+", "HASH", line)
        line = re.sub(r"\b[0-9a-f]{8}\b", "ID", line)
        line = re.sub("|".join(CLASSES[i] for i in (0, 2, 1)), "CLASS", line)
        line = re.sub(r" +(select|deviates: \S+)?$", "", line)  # which submission is the one
        line = re.sub(r"EXP=/\S+/(?=experiments/)", "EXP=", line)  # `Checkout.main` makes paths absolute
        line = re.sub(r"tf_efficientnet_lite0|test_resnet", "MODEL", line)
        line = re.sub(r", did you mean '[^']*'\?|(?<= CLASS), CLASS", "", line)
        line = re.sub(r"[+-]?\d[\d.,e%-]*(?=\W|$|s\b)|[+-]?\d[\d.,e]*", "N", line)
        if line.strip() and not line.startswith("make: ***"):
            lines.append(re.sub(" +", " ", line).strip())
    return lines


def of_the_layout(lines: list[str]) -> list[str]:
    """In order, each kind of line once, without what depends on scores."""
    return [line for line in dict.fromkeys(lines) if not any(re.match(part, line) for part in OF_THE_SCORES)]


def run(checkout: Checkout, line: str, home: Path) -> str:
    """What a line of the document prints. A line marked `# fails` must, and says why."""
    command, _, comment = line.partition("#")
    if command.strip() == "make setup":
        return checkout.make("setup").stdout
    if not command.startswith("make"):
        environment = checkout.environment(HOME=str(home))
        done = subprocess.run(
            ["bash", "-ec", command], cwd=checkout.root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    expect = 2 if comment.strip() == "fails" else 0
    return "".join(checkout.main(*python_call(checkout, command.strip()), expect=expect))


def test_every_file_command_and_output_of_the_document(make_checkout, benchmark, tmp_path):
    checkout, zipped = make_checkout("own"), tmp_path / "Downloads/masks.zip"
    zipped.parent.mkdir()
    benchmark.lay_out(faces(tmp_path / "facemask3"), zipped, tmp_path / "answers.csv")
    n_outputs, printed = 0, ""
    for place, (language, text) in enumerate(BLOCKS):
        if language == "yaml":  # its first line names the file
            path = re.match(r"# (experiments/[\w-]+\.yaml)\n", text)
            assert path, text
            (checkout.root / path[1]).write_text(text)
            if "base: base/" in text:
                checkout.edit(path[1], **SMALL)
        elif language == "sh":
            printed = "".join(run(checkout, line, tmp_path) for line in text.splitlines() if line.strip())
        elif language == "":
            shown, now = of_the_layout(shape(text)), of_the_layout(shape(printed))
            if "..." in shown:  # for lines that were left out
                shown.remove("...")
                now = [line for line in now if line in shown]
            assert sorted(shown) == sorted(now), f"block {place}, after {BLOCKS[place - 1][1]}"
            n_outputs += 1
    assert n_outputs >= 6
    submitted = table(checkout.root / "mlruns/masks-rare/submission.csv")
    sample = table(checkout.root / "data/masks/sample_submission.csv")
    assert [row["file"] for row in submitted] == [row["file"] for row in sample]  # in its order, with leading zeros
    assert not (checkout.root / "data/masks/answers.csv").exists()


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_layout_keeps_photos_whole_and_its_answers_away(benchmark, tmp_path):
    source, zipped, answers = faces(tmp_path / "facemask3"), tmp_path / "masks.zip", tmp_path / "answers.csv"
    n_train, n_test = benchmark.lay_out(source, zipped, answers)
    first = answers.read_text()
    assert n_train + n_test == 270 and 54 <= n_test < 60
    benchmark.lay_out(source, tmp_path / "again.zip", answers)
    subprocess.run(["python3", "-m", "zipfile", "-e", str(zipped), str(tmp_path / "all")], check=True)
    root = tmp_path / "all"
    train, sample = (table(root / f) for f in ("train.csv", "sample_submission.csv"))
    right = {row["file"]: row["mask_status"] for row in table(answers)}
    assert answers.read_text() == first  # nothing but the seed decides
    assert {row["file"] for row in sample} == right.keys() and {row["mask_status"] for row in sample} == {"with_mask"}
    assert not right.keys() & {row["file"] for row in train} and len(train) == n_train
    before = table(source / "train.csv")
    photos = {row["photo"] for row in train}
    in_photos = sum(f"ph{row['group'][1:]}" in photos for row in before)
    assert in_photos == n_train  # no photo on both sides
    for folder, names in (("train_images", {row["file"] for row in train}), ("test_images", right.keys())):
        files = list((root / folder).iterdir())
        assert {path.stem for path in files} == names and {path.suffix for path in files} == {".jpg", ".png"}


def test_the_leaderboards_score_is_scikit_learns(benchmark, tmp_path):
    right, given = tmp_path / "right.csv", tmp_path / "given.csv"
    right.write_text("file,mask_status\n00,a\n01,b\n02,b\n")
    given.write_text("file,mask_status\n02,b\n01,a\n00,a\n")
    assert benchmark.score(given, right) == f1_score(["a", "b", "b"], ["a", "a", "b"], average="macro")


def test_the_document_is_short_and_names_no_machine_and_no_registry():
    lines = DOC.splitlines()
    assert len(lines) <= 240 and max(map(len, lines)) <= 210
    assert not re.search(r"(?<![\w.~])/(?:work|root|home|tmp)/\w|pypi\.|python" + "hosted", DOC)
    prose = re.sub(r"```.*?```", "", DOC, flags=re.DOTALL)
    assert max(map(len, prose.splitlines())) <= 120
    for target in re.findall(r"\]\(([^)#]+)\)", DOC):
        assert (ROOT / "docs" / target).exists(), target
