"""What stands in a cell follows from metric and sample, and every score is one of the cells, as scikit-learn judges them."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk

from pipeline.answers import Answers
from pipeline.competition.csv import read
from pipeline.competition.folder import read as read_folder
from pipeline.config.data import CsvCompetition, FolderCompetition
from pipeline.config.mistakes import Mistakes
from pipeline.metrics import bootstrap_interval, score
from pipeline.score import score_submission
from pipeline.submit import check_submission, write_submission

N = 30


@pytest.fixture
def lay_out(tmp_path: Path):
    """A competition of tables: labels of its training rows, the sample's header and its cells, settings."""

    def make(labels, sample=("id", "label"), cells=("",), n=N, **settings):
        rows = [(f"a{i}", labels[i % len(labels)]) for i in range(4 * len(labels))]
        for name, table in (
            ("train.csv", [("image_id", "label"), *rows]),
            ("sample_submission.csv", [sample, *((f"t{i}", *cells) for i in range(n))]),
        ):
            with (tmp_path / name).open("w", newline="") as file:
                csv.writer(file).writerows(table)
        return read(CsvCompetition(source="csv", name="x", root=str(tmp_path), **settings))

    return make


def drawn(n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(targets, outputs) that know something of them, as float32, which is what models know."""
    rng = np.random.default_rng(seed)
    targets = np.arange(N) % n_classes
    logits = rng.normal(size=(N, n_classes)) + 1.5 * np.eye(n_classes)[targets]
    return targets, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def scored(competition, outputs: np.ndarray, truth: dict[str, list], folder: Path) -> float:
    """Of the file that is written of the outputs, with the answers in another order and with another column."""
    write_submission(competition, outputs, folder / "submission.csv")
    table = pd.DataFrame({"Usage": "Public", "id": [f"t{i}" for i in range(N)], **truth})
    table.sample(frac=1, random_state=1).to_csv(folder / "answers.csv", index=False)
    value, n = score_submission(folder / "submission.csv", folder / "answers.csv", competition)
    assert n == N
    return value


COLUMNS = ("id", "c", "a", "b")
THREE, FIVE = ["a", "b", "c"], ["a", "b", "c", "d", "e"]
FORMS = [  # classes, target, sample, its cells, settings
    (["0", "1"], "class", ("id", "label"), ("0",), {"metric": "auc"}),
    (["0", "1"], "class", ("id", "label"), ("0.5",), {"metric": "log_loss"}),
    (["0", "1"], "class", ("id", "label"), ("0",), {"metric": "mean_average_precision"}),
    (["cat", "dog"], "class", ("id", "label"), ("0.5",), {"metric": "log_loss", "positive": "cat"}),
    (["0", "1"], "class", ("id", "label"), ("0",), {"metric": "auc", "answer": "label"}),
    (["0", "1"], "class", ("id", "label"), ("0",), {"metric": "log_loss", "answer": "label"}),
    (["0", "1"], "class", ("id", "label"), ("0",), {"metric": "accuracy"}),
    (["0", "1"], "class", ("id", "label"), ("0.5",), {"metric": "macro_f1", "answer": "probability"}),
    (["0", "1"], "class", ("id", "label"), ("0.5",), {"metric": "macro_f1", "answer": "label"}),
    (THREE, "class", ("id", "label"), ("a",), {"metric": "macro_f1"}),
    (THREE, "class", ("id", "label"), ("a",), {"metric": "log_loss", "answer": "label"}),
    (THREE, "class", ("id", "label"), ("a",), {"metric": "top_1_accuracy"}),
    (THREE, "class", COLUMNS, ("0",) * 3, {"metric": "log_loss"}),
    (THREE, "class", COLUMNS, ("0",) * 3, {"metric": "auc"}),
    (THREE, "class", COLUMNS, ("0.3",) * 3, {"metric": "macro_f1"}),
    (THREE, "class", COLUMNS, ("0.3",) * 3, {"metric": "log_loss", "answer": "label"}),
    (THREE, "class", COLUMNS, ("0.3",) * 3, {"metric": "map_at_2"}),
    (["0", "1", "2"], "ordinal", ("id", "label"), ("0",), {"metric": "quadratic_kappa"}),
    (THREE, "ordinal", COLUMNS, ("0",) * 3, {"metric": "accuracy", "classes": THREE}),
    (["0", "1", "2"], "ordinal", ("id", "label"), ("0",), {"metric": "top_1_accuracy"}),
    (FIVE, "class", ("id", "label"), ("a b c",), {"metric": "map_at_3"}),
    (FIVE, "class", ("id", "label"), ("a;b;c",), {"metric": "top_3_accuracy"}),
    (FIVE, "class", ("id", "label"), ("a",), {"metric": "map_at_3", "answer": "label"}),
    (FIVE, "class", ("id", "one", "two", "three"), ("a", "b", "c"), {"metric": "map_at_3"}),
    (["a", "b"], "class", ("id", "label"), ("a b",), {"metric": "map_at_5"}),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{FORMS.index(form)}-{form[4]['metric']}")
def test_the_score_of_the_outputs_is_that_of_the_file(lay_out, tmp_path, form):
    labels, target, sample, cells, settings = form
    competition = lay_out(labels, sample, cells, target=target, **settings)
    assert competition.mistakes == []
    targets, outputs = drawn(len(labels))
    of_file = scored(competition, outputs, {"label": [labels[t] for t in targets]}, tmp_path)
    assert score(competition.rule, targets, outputs, target) == pytest.approx(of_file, rel=1e-6)
    assert check_submission(tmp_path / "submission.csv", competition) == []
    interval = bootstrap_interval(competition.rule, targets, outputs, np.arange(N), target, n_resamples=50)
    assert interval.low <= of_file <= interval.high
    written = pd.read_csv(tmp_path / "submission.csv", dtype=str, keep_default_na=False)
    decided = Answers.of(competition).decided(written)
    assert np.array_equal(decided, Answers.of(competition).answered(outputs)) and len(set(decided)) > 1


def test_one_column_of_two_classes_holds_the_probability_of_the_second(lay_out, tmp_path):
    targets, outputs = drawn(2)
    for metric, judge in (("auc", sk.roc_auc_score), ("mean_average_precision", sk.average_precision_score)):
        competition = lay_out(["0", "1"], cells=("0",), metric=metric)
        value = scored(competition, outputs, {"label": targets}, tmp_path)
        cells = pd.read_csv(tmp_path / "submission.csv")["label"]
        assert np.allclose(cells, outputs[:, 1], atol=1e-6) and cells.nunique() > 20
        assert value == pytest.approx(judge(targets, cells))
    assert "probability of class '1'" in competition.cells


@pytest.mark.parametrize(
    ("labels", "column", "settings", "place"),
    [
        (["cat", "dog"], "label", {}, 1),
        (["cat", "dog"], "label", {"classes": ["dog", "cat"]}, 1),
        (["cat", "dog"], "label", {"positive": "cat"}, 0),
        (["cactus", "none"], "Cactus", {}, 0),
        (["cactus", "none"], "Cactus", {"positive": "none"}, 1),
    ],
)
def test_which_class_is_positive(lay_out, tmp_path, labels, column, settings, place):
    competition = lay_out(labels, ("id", column), metric="log_loss", **settings)
    assert competition.mistakes == []
    targets, outputs = drawn(2)
    value = scored(competition, outputs, {column: (targets == place).astype(int)}, tmp_path)  # answers of 0 and 1
    cells = pd.read_csv(tmp_path / "submission.csv")[column]
    assert np.allclose(cells, outputs[:, place], atol=1e-6)
    assert value == pytest.approx(sk.log_loss(targets == place, cells))
    names = [competition.classes[t] for t in targets]
    assert scored(competition, outputs, {column: names}, tmp_path) == pytest.approx(value)  # or by name


@pytest.mark.parametrize(
    ("cell", "by"),
    [("a b c", " "), ("a,b,c", ","), ("a, b, c", ", "), ("c|b|a", "|"), ("x1;x2;x3", ";"), ("a", " "), ("", " ")],
)
def test_the_best_k_are_divided_as_in_the_sample(lay_out, tmp_path, cell, by):
    competition = lay_out(FIVE, cells=(cell,), metric="map_at_3")
    assert competition.mistakes == []
    outputs = np.tile([0.1, 0.4, 0.05, 0.3, 0.15], (N, 1))
    write_submission(competition, outputs, tmp_path / "submission.csv")
    with (tmp_path / "submission.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == [by.join(["b", "d", "e"])] * N


def place_of_truth(cell: str, truth: str, by: str, k: int) -> float:
    """As a host counts: one over the place of the right guess among the first k."""
    guesses = cell.split(by)[:k]
    return 1 / (guesses.index(truth) + 1) if truth in guesses else 0.0


def test_guesses_that_are_missing_strange_or_named_twice_are_misses(lay_out, tmp_path):
    competition = lay_out(FIVE, cells=("a b c",), metric="map_at_3", n=7)
    cells = ["a", "b", "", "zebra a", "b b a", "c d e", "c d e a"]
    truths = ["b", "b", "a", "a", "a", "e", "a"]
    ids = [f"t{i}" for i in range(7)]
    pd.DataFrame({"id": ids, "label": cells}).to_csv(tmp_path / "submission.csv", index=False)
    pd.DataFrame({"id": ids, "label": truths}).to_csv(tmp_path / "answers.csv", index=False)
    value, n = score_submission(tmp_path / "submission.csv", tmp_path / "answers.csv", competition)
    by_hand = [place_of_truth(cell, truth, " ", 3) for cell, truth in zip(cells, truths, strict=True)]
    assert by_hand == pytest.approx([0, 1, 0, 0.5, 1 / 3, 1 / 3, 0]) and n == 7
    assert value == pytest.approx(np.mean(by_hand))


def test_six_wrong_answers_are_worth_nothing(lay_out, tmp_path):
    competition = lay_out(FIVE, cells=("a b c d e",), metric="map_at_5", n=6)
    ids = [f"t{i}" for i in range(6)]
    pd.DataFrame({"id": ids, "label": "e"}).to_csv(tmp_path / "submission.csv", index=False)
    pd.DataFrame({"id": ids, "label": list("abcdab")}).to_csv(tmp_path / "answers.csv", index=False)
    assert score_submission(tmp_path / "submission.csv", tmp_path / "answers.csv", competition) == (0.0, 6)


SEVERAL = np.array([[0.9, 0.2, 0.6], [0.1, 0.3, 0.4]] * (N // 2))


@pytest.mark.parametrize("placeholder", ["a b", "a|b", ""])
def test_several_labels_in_a_cell(lay_out, tmp_path, placeholder):
    competition = lay_out(["a b", "b c", "", "a"], cells=(placeholder,), target="multilabel", metric="micro_f1")
    assert competition.mistakes == [] and competition.classes == ("a", "b", "c")
    by = "|" if "|" in placeholder else " "
    truth = [f"a{by}b", "a"] * (N // 2)  # nobody has c
    value = scored(competition, SEVERAL, {"label": truth}, tmp_path)
    written = pd.read_csv(tmp_path / "submission.csv", keep_default_na=False)["label"]
    assert list(written[:2]) == [f"a{by}c", ""]
    right, said = np.array([[1, 1], [1, 0]] * (N // 2)), np.array([[1, 0], [0, 0]] * (N // 2))
    assert value == pytest.approx(sk.f1_score(right, said, average="micro"))  # labels that occur in the answers


def test_several_labels_in_columns(lay_out, tmp_path):
    labels, settings = ["a b", "b c", "", "a"], {"target": "multilabel", "label_separator": " "}
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]] * (N // 3))
    columns = dict(zip("abc", truth.T, strict=True))
    competition = lay_out(labels, COLUMNS, ("0",) * 3, metric="macro_f1", **settings)
    value = scored(competition, SEVERAL, columns, tmp_path)
    written = pd.read_csv(tmp_path / "submission.csv")[["a", "b", "c"]]
    assert value == pytest.approx(sk.f1_score(truth, written, average="macro"))  # refuses anything but 0 and 1
    competition = lay_out(labels, COLUMNS, ("0",) * 3, metric="log_loss", **settings)
    value = scored(competition, SEVERAL, columns, tmp_path)
    written = pd.read_csv(tmp_path / "submission.csv")[["a", "b", "c"]].to_numpy()
    assert np.allclose(written, SEVERAL) and value == pytest.approx(
        np.mean([sk.log_loss(truth[:, c], written[:, c], labels=[0, 1]) for c in range(3)])
    )


@pytest.mark.parametrize(
    ("labels", "sample", "cells", "settings", "parts"),
    [
        (THREE, ("id", "label"), ("a",), {"metric": "auc"}, ["auc judges probabilities", "one column 'label' for 3 classes", "answer: label (a cell like `a`)", "0.71, 0.22"]),
        (["0", "1"], ("id", "label"), ("0.5",), {"metric": "macro_f1"}, ["judges labels", "with 0.5 in it", "answer: label (a cell like `0`)", "answer: probability (a cell like `0.7134`)"]),
        (["a b", "c"], ("id", "label"), ("a",), {"metric": "auc", "target": "multilabel"}, ["judges probabilities", "answer: label"]),
        (THREE, ("id", "label"), ("a",), {"metric": "macro_f1", "answer": "probability"}, ["found probability", "one column 'label' for 3"]),
        (THREE, COLUMNS, ("0",) * 3, {"metric": "macro_f1", "answer": "best"}, ["found best", "columns c, a, b"]),
        (THREE, ("id", "label"), ("a",), {"metric": "macro_f1", "answer": "number"}, ["found number"]),
        (["1", "2", "3"], ("id", "label"), ("0",), {"metric": "rmse", "target": "regression", "answer": "label"}, ["found label", "answer: number"]),
        (["0", "1"], ("id", "label"), ("0",), {"metric": "auc", "positive": "2"}, ["competition.positive: no class '2'", "auto, 0, 1"]),
        (["0", "1"], ("id", "label"), ("0",), {"metric": "accuracy", "positive": "0"}, ["competition.positive", "valid: auto"]),
        (FIVE, ("id", "label"), ("b c a",), {"metric": "accuracy"}, ["`b c a` in it", "more than 1"]),
        (FIVE, ("id", "label"), ("b c a",), {"metric": "map_at_2"}, ["`b c a` in it", "more than 2"]),
        (["red fox", "b", "c"], ("id", "label"), ("b c",), {"metric": "map_at_2"}, ["class 'red fox' holds the ' '"]),
        (["a;b", "b", "c"], ("id", "label"), ("b;c",), {"metric": "map_at_2"}, ["class 'a;b' holds the ';'"]),
        (FIVE, ("id", "label"), ("b;c",), {"metric": "map_at_2", "label_separator": ","}, ["label_separator", "divides by ';'"]),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_asked_for_before_any_training(lay_out, labels, sample, cells, settings, parts):
    mistakes = " | ".join(map(str, lay_out(labels, sample, cells, **settings).mistakes))
    assert all(part in mistakes for part in parts), mistakes


def test_a_placeholder_does_not_decide(lay_out):
    for cell in ("0", "0.5", "0.0", "", "1"):
        for metric, answer in (("auc", "probability"), ("log_loss", "probability")):
            competition = lay_out(["0", "1"], cells=(cell,), metric=metric)
            assert competition.mistakes == [] and competition.form.answer == answer
        if cell != "0.5":
            assert lay_out(["0", "1"], cells=(cell,), metric="accuracy").form.answer == "label"
    for metric in ("macro_f1", "accuracy"):  # a probability of what?
        competition = lay_out(THREE, cells=("0.5",), metric=metric)
        assert (
            competition.mistakes == []
            and competition.form.answer == "label"
            and competition.label_texts == ("a", "b", "c")
        )


def test_names_that_hold_a_blank_may_be_divided_otherwise(lay_out, tmp_path):
    labels = ["red fox", "grey wolf", "lynx"]
    for settings, cell in (({"label_separator": ";"}, ""), ({}, "red fox;lynx")):
        competition = lay_out(labels, cells=(cell,), metric="map_at_2", **settings)
        assert competition.mistakes == []
        assert list(Answers.of(competition).cells(np.array([[0.2, 0.5, 0.3]]))["label"]) == ["lynx;red fox"]


def test_a_folder_without_a_sample_chooses_its_columns(tmp_path):
    for n, (metric, cells) in enumerate(
        [
            ("log_loss", {"grey wolf": [0.2], "lynx": [0.5], "red fox": [0.3]}),
            ("macro_f1", {"label": ["lynx"]}),
            ("map_at_2", {"label": ["lynx;red fox"]}),
        ]
    ):
        for name in ("grey wolf", "lynx", "red fox"):
            (tmp_path / str(n) / "train" / name).mkdir(parents=True)
            (tmp_path / str(n) / "train" / name / "x.png").touch()
        (tmp_path / str(n) / "test").mkdir()
        (tmp_path / str(n) / "test" / "y.png").touch()
        competition = read_folder(
            FolderCompetition(source="folder", name="x", root=str(tmp_path / str(n)), metric=metric)
        )
        assert competition.mistakes == []
        outputs = np.array([[0.2, 0.5, 0.3]], np.float32)
        found = Answers.of(competition).cells(outputs)
        assert {key: pytest.approx(list(found[key])) if n == 0 else list(found[key]) for key in found} == cells
        write_submission(competition, outputs, tmp_path / str(n) / "submission.csv")


def test_labels_that_no_training_row_has_are_missed_and_told(lay_out, tmp_path):
    competition = lay_out(THREE, metric="macro_f1")
    targets, outputs = drawn(3)
    truth = [THREE[t] for t in targets]
    truth[:4] = ["x", "x", "y", "b"]
    assert scored(competition, outputs, {"label": truth}, tmp_path) == pytest.approx(
        sk.f1_score(truth, [THREE[i] for i in outputs.argmax(axis=1)], average="macro")
    )
    told: list[str] = []
    score_submission(tmp_path / "submission.csv", tmp_path / "answers.csv", competition, told.append)
    assert told == ["3 rows have labels that no training row has (x, y): missed"]
    with pytest.raises(Mistakes, match="none of its labels is a class"):
        scored(competition, outputs, {"label": ["z"] * N}, tmp_path)


def test_rows_that_a_host_ignores_do_not_count_and_numbers_are_read_by_value(lay_out, tmp_path):
    competition = lay_out(["0", "1", "2"], cells=("0",), metric="accuracy")
    targets, outputs = drawn(3)
    write_submission(competition, outputs, tmp_path / "submission.csv")
    usage = ["Ignored" if i < 10 else "Private" for i in range(N)]
    table = pd.DataFrame({"id": [f"t{i}" for i in range(N)], "label": targets.astype(float), "Usage": usage})
    table.to_csv(tmp_path / "answers.csv", index=False)
    expected = (outputs.argmax(axis=1) == targets)[10:].mean()
    assert score_submission(tmp_path / "submission.csv", tmp_path / "answers.csv", competition) == (expected, 20)


def test_a_file_of_another_form_is_not_verified_against_this_one(lay_out):
    from types import SimpleNamespace

    from pipeline.receipts import sha256
    from pipeline.stages.verify import _check_data

    def check(competition, answer: str) -> None:
        recorded = {"competition": "x", "answer": answer, "test_images": "t", "sample": sha256(competition.sample_csv)}
        _check_data(SimpleNamespace(competition=competition, image_hashes=("", "t")), SimpleNamespace(**recorded))

    labels = lay_out(["0", "1"], metric="auc", answer="label")
    made_of_labels = labels.cells
    check(labels, made_of_labels)
    check(labels, "")  # of a record that does not say it
    with pytest.raises(Mistakes, match="answer: here"):
        check(lay_out(["0", "1"], metric="auc"), made_of_labels)


@pytest.mark.parametrize("target", ["class", "ordinal"])
def test_a_grade_that_only_the_answers_have_is_scored_by_its_number(lay_out, tmp_path, target):
    """scikit-learn counts places, so it is given every step of the scale."""
    competition = lay_out(["0", "1", "2", "4"], cells=("0",), target=target, metric="quadratic_kappa")
    _, outputs = drawn(4)
    truth = (["3.0", "0", "1", "2", "4", "3"] * N)[:N]
    value = scored(competition, outputs, {"label": truth}, tmp_path)
    answers = pd.read_csv(tmp_path / "submission.csv")["label"]
    judge = sk.cohen_kappa_score([int(float(cell)) for cell in truth], answers, weights="quadratic", labels=range(5))
    assert value == pytest.approx(judge)
    with pytest.raises(Mistakes, match=r"has answer 'worse'.*competition.classes"):
        scored(competition, outputs, {"label": ["worse", *truth[1:]]}, tmp_path)


def test_an_order_of_words_takes_no_grade_that_it_does_not_name(lay_out, tmp_path):
    classes = ["low", "mid", "high"]
    competition = lay_out(classes, cells=("low",), target="ordinal", metric="quadratic_kappa", classes=classes)
    with pytest.raises(Mistakes, match=r"has answer 'top'.*competition.classes names"):
        scored(competition, drawn(3)[1], {"label": ["top", *["low"] * (N - 1)]}, tmp_path)
