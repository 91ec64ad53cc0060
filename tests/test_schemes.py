"""Whole runs over other layouts and other splits: each ends in models, an out-of-fold table and, where there is a test set, a submission."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.metrics import f1_score

SETTINGS = {
    "images": {"mode": "L", "px": 32, "crop": 1.0, "interpolation": "bicubic", "mean": [0.5], "std": [0.5]},
    "model": {"name": "test_resnet"},
    "folds": {"k": 3},
    "train": {"epochs": 1, "batch_size": 8, "lr": 3e-3},
}


def photo(seed: int, bright: bool) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(130, 255, (5, 6, 3)) if bright else rng.integers(0, 125, (5, 6, 3))
    return Image.fromarray(pixels.astype(np.uint8)).resize((44, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def pets(finished):
    """A checkout with a competition of folders, no tables at all: 36 photos of 12 animals, and a test folder."""
    root = finished.root / "data/pets"
    for n in range(36):
        folder = root / "train" / ("cat" if n // 3 % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        photo(n, n // 3 % 2 == 1).save(folder / f"animal{n // 3}_{n}.png")
    (root / "test").mkdir()
    for n in range(5):
        photo(100 + n, n % 2 == 1).save(root / "test" / f"t{n}.png")
    competition = {"source": "folder", "name": "pets", "root": "data/pets", "group_pattern": r"/(\w+)_\d+"}
    (finished.root / "experiments/pets.yaml").write_text(yaml.safe_dump({"competition": competition, **SETTINGS}))
    return finished


def oof(checkout) -> pd.DataFrame:
    receipt = json.loads((checkout.runs / "pets/train.json").read_text())
    return pd.read_parquet(checkout.runs / "pets" / receipt["artifacts"]["oof.parquet"]["path"])


def models(checkout) -> dict[str, str]:
    receipt = json.loads((checkout.runs / "pets/train.json").read_text())
    return {name: made["sha256"] for name, made in receipt["artifacts"].items() if name.endswith(".safetensors")}


def test_folders_alone_lead_to_a_submission(pets):
    out, _ = pets.main("submit", "experiments/pets.yaml")
    submission = pd.read_csv(pets.runs / "pets/submission.csv")
    assert list(submission.columns) == ["image_id", "label"] and list(submission["image_id"]) == [
        f"t{n}.png" for n in range(5)
    ]
    assert set(submission["label"]) <= {"cat", "dog"} and "0 of 12 groups on both sides" in out
    out, _ = pets.main("submit", "experiments/pets.yaml")
    assert "decoded" not in out and out.count("up to date") == 4
    _, told = pets.main("submit", "experiments/pets.yaml", "competition.test_folder=none", expect=2)
    assert "there is no test set" in told


def test_the_store_and_the_files_give_the_same_weights(pets):
    pets.main("train", "experiments/pets.yaml")
    stored = models(pets)
    pets.main("train", "experiments/pets.yaml", "images.store=off")
    assert list(stored) == list(models(pets))
    receipts = oof(pets)
    pets.main("train", "experiments/pets.yaml")
    assert models(pets) == stored and oof(pets).equals(receipts)
    _, told = pets.main("train", "experiments/pets.yaml", "images.store=32", "images.crop=0.5", expect=2)
    assert "images.store: found 32" in told and "short side of 64" in told


def test_repeats_train_as_many_models_and_average_them(pets):
    out, _ = pets.main("submit", "experiments/pets.yaml", "folds.repeats=2")
    assert len(models(pets)) == 6 and "fold 6/6" in out and "each the mean of 6 models" in out
    assert "each validated exactly once in each of 2 repeats" in out
    table = oof(pets)
    assert len(table) == 36 and np.allclose(table[["p_0", "p_1"]].sum(axis=1), 1, atol=1e-5)
    receipt = json.loads((pets.runs / "pets/train.json").read_text())
    expected = f1_score(table["target"], table[["p_0", "p_1"]].to_numpy().argmax(axis=1), average="macro")
    assert receipt["figures"]["score"] == pytest.approx(expected) and len(receipt["figures"]["fold_scores"]) == 6


def test_a_hold_out_trains_one_model_and_scores_its_rows(pets):
    out, _ = pets.main("submit", "experiments/pets.yaml", "folds.holdout=0.25")
    folds = pd.read_csv(pets.runs / "pets/folds.csv")
    held = set(folds.loc[folds["fold"] == 0, "image_id"])
    assert len(models(pets)) == 1 and set(oof(pets)["image_id"]) == held and len(held) == 9
    assert "9 of them validated, once" in out and "a hold-out of 25%" in out


def test_ones_own_folds_are_trained_on_and_a_leak_in_them_stops_everything(pets):
    ids = sorted(
        str(p.relative_to(pets.root / "data/pets/train")) for p in (pets.root / "data/pets/train").rglob("*.png")
    )
    animal = {i: int(Path(i).name.removeprefix("animal").partition("_")[0]) for i in ids}
    own = pets.root / "experiments/own.csv"
    own.write_text("image_id,fold\n" + "".join(f"{i},{animal[i] // 2 % 2}\n" for i in ids))
    out, _ = pets.main("train", "experiments/pets.yaml", "folds.file=experiments/own.csv")
    assert len(models(pets)) == 2 and "your own table, experiments/own.csv" in out
    table = oof(pets)
    assert all(table["fold"] == [animal[i] // 2 % 2 for i in table["image_id"]])
    own.write_text("image_id,fold\n" + "".join(f"{i},{n % 2}\n" for n, i in enumerate(ids)))
    _, told = pets.main("train", "experiments/pets.yaml", "folds.file=experiments/own.csv", expect=2)
    assert "own.csv: group animal" in told and "each group on one side" in told


def test_another_bound_for_training_leaves_folds_and_targets_alone(pets):
    root = pets.root / "data/pets"
    ages = {
        i: 10 + 5 * n for n, i in enumerate(sorted(p.relative_to(root).as_posix() for p in root.rglob("train/*/*.png")))
    }
    (root / "train.csv").write_text("path,age\n" + "".join(f"{i},{age}\n" for i, age in ages.items()))
    (root / "sample.csv").write_text("path,class\ntest/t0.png,0\n")
    competition = {
        "source": "csv", "name": "ages", "root": "data/pets", "id_column": "path", "sample_csv": "sample.csv", "test_csv": "sample.csv",
        "train_images": "{path}", "test_images": "{path}", "parts": {"age": {"column": "age", "values": ["young", "old"], "bounds": [100]}},
        "formula": "age",
    }  # fmt: skip
    (pets.root / "experiments/pets.yaml").write_text(yaml.safe_dump({"competition": competition, **SETTINGS}))
    pets.main("train", "experiments/pets.yaml")
    before, folds = models(pets), (pets.runs / "pets/folds.csv").read_bytes()
    targets = oof(pets)["target"].tolist()
    out, _ = pets.main("train", "experiments/pets.yaml", "train.label_bounds={age: [90]}")
    assert "2 of 36 rows are trained on under another label" in out
    assert (pets.runs / "pets/folds.csv").read_bytes() == folds and oof(pets)["target"].tolist() == targets
    assert models(pets) != before
    _, told = pets.main("train", "experiments/pets.yaml", "train.label_bounds={aeg: [90]}", expect=2)
    assert "train.label_bounds.aeg: no part with bounds, did you mean 'age'?" in told
