"""Whole runs over labels of every kind, from the tables to a submission and its score."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import yaml
from PIL import Image

COMMON = {
    "images": {"px": 32, "crop": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3},
    "model": {"name": "test_resnet"},
    "folds": {"k": 2},
    "augment": {"flip": 0.5},
    "train": {"epochs": 10, "batch_size": 8, "lr": 5e-3},
}
N, N_TEST = 64, 24
COLOURS = ("red", "green", "blue")


def level(n: int) -> np.ndarray:
    """(3,) how much of each colour picture n holds: 0 or 1 each, and a brightness from 0.2 to 1."""
    rng = np.random.default_rng(n)
    return np.array([*rng.integers(0, 2, 3), rng.uniform(0.2, 1)])


def picture(n: int) -> Image.Image:
    *has, brightness = level(n)
    noise = np.random.default_rng(n).integers(0, 30, (20, 24, 3))
    return Image.fromarray((np.array(has) * 220 * brightness + noise).astype(np.uint8))


@pytest.fixture
def run(finished):
    """Lays out a competition whose label is a function of the picture, submits and scores it."""
    root = finished.root / "data/kinds"
    (root / "images").mkdir(parents=True)
    for n in range(N + N_TEST):
        picture(n).save(root / f"images/p{n:03d}.png")

    def submit(label, competition: dict, sample: pd.DataFrame | None = None, expect: int = 0, columns=None, **sections):
        ids = [f"p{n:03d}" for n in range(N + N_TEST)]
        labels = [label(n) for n in range(N + N_TEST)]
        table = pd.DataFrame({"image_id": ids[:N], "label": labels[:N], **(columns or {})})
        table.to_csv(root / "train.csv", index=False)
        blank = sample if sample is not None else pd.DataFrame({"image_id": ids[N:], "label": labels[N]})
        blank.to_csv(root / "sample_submission.csv", index=False)
        pd.DataFrame({"image_id": ids[N:], "label": labels[N:]}).to_csv(root / "answers.csv", index=False)
        settings = {"competition": {"source": "csv", "name": "kinds", "root": "data/kinds", **competition}, **COMMON}
        settings["train"] = {**COMMON["train"], **sections.pop("train", {})}
        (finished.root / "experiments/kinds.yaml").write_text(yaml.safe_dump({**settings, **sections}))
        out, told = finished.main("score", "experiments/kinds.yaml", expect=expect)
        if expect:
            return told
        folder = finished.runs / "kinds"
        receipt = json.loads((folder / "train.json").read_text())
        oof = pd.read_parquet(folder / receipt["artifacts"]["oof.parquet"]["path"])
        submission = pd.read_csv(folder / "submission.csv", dtype=str, keep_default_na=False)
        answers = pd.read_csv(root / "answers.csv", dtype=str, keep_default_na=False)
        figure = json.loads((folder / "score.json").read_text())["figures"]["score"]
        return oof, submission, answers, receipt["figures"]["score"], figure, out

    return submit


def test_several_labels_a_picture_or_none(run):
    def label(n):
        return " ".join(c for c, has in zip(COLOURS, level(n), strict=False) if has)

    competition = {"target": "multilabel", "metric": "macro_f1"}
    oof, submission, answers, score, test, out = run(label, competition)
    truth, outputs = oof.filter(like="target_").to_numpy(), oof.filter(like="p_").to_numpy()
    assert truth.shape == outputs.shape == (N, 3) and truth.sum(axis=1).min() == 0  # some hold none
    assert score == pytest.approx(sk.f1_score(truth, outputs > 0.5, average="macro")) and score > 0.8
    index = ["blue", "green", "red"]  # as sorted
    table = np.array([[c in text.split() for c in index] for text in submission["label"]])
    right = np.array([[c in text.split() for c in index] for text in answers["label"]])
    assert test == pytest.approx(sk.f1_score(right, table, average="macro", zero_division=0)) and test > 0.8
    assert "3 classes of" in out


def test_a_column_of_probabilities_for_each_class(run):
    def label(n):
        return COLOURS[int(level(n)[0] + level(n)[1])]

    ids = [f"p{n:03d}" for n in range(N, N + N_TEST)]
    sample = pd.DataFrame({"image_id": ids, "green": 0.3, "blue": 0.3, "red": 0.4})
    oof, submission, answers, score, test, _ = run(label, {"metric": "log_loss"}, sample)
    assert list(submission.columns) == ["image_id", "green", "blue", "red"] and list(submission["image_id"]) == ids
    probs = submission[["blue", "green", "red"]].astype(float)
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)
    probs = probs.div(probs.sum(axis=1), axis=0)
    assert test == pytest.approx(sk.log_loss(answers["label"], probs, labels=["blue", "green", "red"]), rel=1e-5)
    of_fold = oof.filter(like="p_").astype(float)
    assert score == pytest.approx(sk.log_loss(oof["target"], of_fold.div(of_fold.sum(axis=1), axis=0)), rel=1e-5)
    told = run(label, {"metric": "log_loss"}, sample.rename(columns={"red": "rot"}), expect=2)
    assert "no column red; no class rot" in told


def test_classes_that_have_an_order(run):
    def label(n):
        return int(level(n)[:3].sum())  # 0 to 3 colours

    competition = {"target": "ordinal", "metric": "quadratic_kappa"}
    oof, submission, answers, score, test, _ = run(label, competition)
    probs = oof.filter(like="p_").to_numpy()
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)
    median = (probs.cumsum(axis=1)[:, :-1] < 0.5).sum(axis=1)
    assert score == pytest.approx(sk.cohen_kappa_score(oof["target"], median, weights="quadratic", labels=range(4)))
    kappa = sk.cohen_kappa_score(answers["label"].astype(int), submission["label"].astype(int), weights="quadratic")
    assert test == pytest.approx(kappa) and test > 0.6


def test_a_number(run):
    def label(n):
        return round(50 + 100 * level(n)[3] * level(n)[:3].sum(), 2)

    competition = {"target": "regression", "metric": "rmse"}
    oof, submission, answers, score, test, out = run(label, competition, train={"loss": {"name": "huber"}})
    assert list(oof.columns) == ["image_id", "fold", "target", "p_0"]
    assert score == pytest.approx(sk.root_mean_squared_error(oof["target"], oof["p_0"]))
    truth = answers["label"].astype(float)
    assert test == pytest.approx(sk.root_mean_squared_error(truth, submission["label"].astype(float)))
    assert test < 0.7 * truth.std() and score < 0.8 * oof["target"].std()
    assert "10 classes of" in out  # tenths, which the folds share out
    told = run(lambda n: label(n) if n != 3 else "much", competition, expect=2)
    assert "train.csv:5: label 'much' is no number" in told


def test_a_label_in_parts_with_a_head_for_each(run):
    """Two parts, four classes; what is predicted for a class is the product of its parts."""

    def label(n):
        return int(2 * level(n)[0] + level(n)[1])

    heads = {"name": "test_resnet", "heads": "parts"}
    told = run(label, {}, expect=2, model=heads)
    assert "model.heads=parts needs competition.parts" in told
    parts = {name: {"column": name, "values": ["no", "yes"]} for name in ("red", "green")}
    columns = {name: ["yes" if level(n)[i] else "no" for n in range(N)] for i, name in enumerate(("red", "green"))}
    competition = {"parts": parts, "formula": "2 * red + green"}
    stranger = {**competition, "classes": ["0", "1", "2", "3", "9"]}
    told = run(label, stranger, expect=2, columns=columns, model=heads)
    assert "no combination of the parts gives 9" in told and "Traceback" not in told
    told = run(label, {**competition, "formula": "2 * red +"}, expect=2, columns=columns, model=heads)
    assert "competition.formula" in told and "Traceback" not in told
    oof, submission, answers, score, test, _ = run(label, competition, columns=columns, model=heads)
    probs = oof.filter(like="p_").to_numpy()
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)
    red = probs[:, 2:].sum(axis=1)  # the product of two independent answers, so that the table is one of rank one
    assert np.allclose(probs[:, 3], red * probs[:, [1, 3]].sum(axis=1), atol=1e-5)
    assert score > 0.9 and test == pytest.approx(sk.f1_score(answers["label"], submission["label"], average="macro"))


@pytest.mark.parametrize(
    "train",
    [
        {"select": "best", "early_stopping": 2},
        {"select": "swa", "swa_start": 0.5},
        {"select": "ema", "ema_decay": 0.9, "accumulation": 2},
        {"loss": {"name": "focal"}, "class_weights": {"name": "effective"}, "freeze_epochs": 1, "head_lr_ratio": 3.0},
        {"loss": {"name": "bce"}, "sampler": {"name": "balanced"}, "schedule": {"name": "plateau", "patience": 1}},
        {"seeds": [1, 2], "layer_decay": 0.8, "precision": "bf16", "schedule": {"name": "onecycle"}},
        {"optimizer": {"name": "lion", "weight_decay": 0.1}, "lr": 1e-3, "loss": {"name": "logit_adjustment"},
         "class_weights": {"name": "inverse"}},
    ],
)  # fmt: skip
def test_recipes_learn(run, train):
    """Two classes that anyone can tell apart: every way to train comes to know them."""

    def label(n):
        return "warm" if level(n)[0] else "cold"

    oof, _, _, score, test, out = run(label, {}, train=train, augment={"preset": "light", "mixup": 0.1})
    assert score > 0.8 and test > 0.8
    assert len(oof) == N and ("corrected twice" in out) == (train.get("class_weights", {}).get("name") == "inverse")
    assert ("better than it is" in out) == (train.get("select") == "best")
