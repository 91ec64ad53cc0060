"""What is said of out-of-fold rows, judged by scikit-learn, by hand, and by label errors that were planted."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.metrics import classification_report, precision_recall_fscore_support
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from pipeline.review import (
    N_BINS,
    calibration,
    in_words,
    most_confident_mistakes,
    per_class_table,
    suspected_label_errors,
)


def fake(n: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(targets, float32 probabilities that are right for about two rows of three)"""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, n_classes, n)
    z = rng.normal(size=(n, n_classes)) + 2 * np.eye(n_classes)[targets]
    return targets, (np.exp(2 * z) / np.exp(2 * z).sum(axis=1, keepdims=True)).astype(np.float32)


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_mistakes_are_the_wrong_rows_the_surest_first():
    targets, probs = fake(200, 4)
    table = most_confident_mistakes(targets, probs, 1000)
    wrong = np.flatnonzero(probs.argmax(axis=1) != targets)
    assert set(table["row"]) == set(wrong) and table["confidence"].is_monotonic_decreasing
    np.testing.assert_array_equal(table["given"], targets[table["row"]])
    np.testing.assert_array_equal(table["said"], probs.argmax(axis=1)[table["row"]])
    np.testing.assert_allclose(table["confidence"], probs.max(axis=1)[table["row"]])
    assert most_confident_mistakes(targets, probs, 3).equals(table.head(3))
    assert in_words(table.head(1), "said", list("abcd")) == ["abcd"[table["said"][0]]]


def test_ordered_classes_are_said_by_their_median():
    probs = np.array([[0.4, 0.25, 0.35], [0.1, 0.1, 0.8]])
    table = most_confident_mistakes(np.array([0, 2]), probs, 5, "ordinal")
    assert table.to_dict("list") == {"row": [0], "given": [0], "said": [1], "confidence": [0.25]}


def test_in_multilabel_each_label_is_a_decision():
    targets, probs = np.array([[1, 0], [0, 1]]), np.array([[0.1, 0.7], [0.2, 0.9]])
    table = most_confident_mistakes(targets, probs, 5, "multilabel")
    assert table.drop(columns="confidence").to_dict("list") == {
        "row": [0, 0], "label": [0, 1], "given": [1, 0], "said": [0, 1]
    }  # fmt: skip
    np.testing.assert_allclose(table["confidence"], [0.9, 0.7])
    assert in_words(table, "said", ["cat", "dog"], "multilabel") == ["no cat", "dog"]


def test_of_numbers_the_largest_residuals_are_shown():
    table = most_confident_mistakes(np.array([1.0, 2.0, 3.0]), np.array([[1.5], [-1.0], [3.0]]), 2, "regression")
    assert table.to_dict("list") == {"row": [1, 0], "given": [2, 1], "said": [-1, 1.5], "error": [3, 0.5]}
    assert in_words(table, "said", [], "regression") == ["-1", "1.5"]


# --- label errors --------------------------------------------------------------------------------------------------


MODEL = KNeighborsClassifier(10)  # its probabilities are exactly 0 and 1 often


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return images / 16, labels


def test_planted_label_errors_are_found_and_little_else_is(digits):
    images, truth = digits
    rng = np.random.default_rng(0)
    planted = rng.choice(len(truth), 50, replace=False)
    labels = truth.copy()
    labels[planted] = (truth[planted] + rng.integers(1, 10, 50)) % 10
    probs = cross_val_predict(MODEL, images, labels, cv=3, method="predict_proba")
    assert probs.min() == 0 and probs.max() == 1
    table = suspected_label_errors(labels, probs)
    hits = np.isin(table["row"], planted)
    assert hits.sum() >= 35 and hits.mean() >= 0.75, (hits.sum(), hits.mean())
    assert (table["suggested"][hits] == truth[table["row"][hits]]).mean() >= 0.9
    assert (table["given"] == labels[table["row"]]).all() and (table["suggested"] != table["given"]).all()
    assert table["self_confidence"].is_monotonic_increasing
    np.testing.assert_array_equal(table["self_confidence"], probs[table["row"], table["given"]])


def test_planted_errors_of_several_labels_are_found_by_label(digits):
    images, truth = digits
    truth = np.stack([truth % 2 == 0, truth < 5, np.zeros(len(truth))], axis=1).astype(int)  # the last: nobody's
    labels, rng = truth.copy(), np.random.default_rng(0)
    planted = rng.choice(len(truth), 50, replace=False)
    labels[planted, planted % 2] ^= 1
    each = [cross_val_predict(MODEL, images, labels[:, c], cv=3, method="predict_proba")[:, 1] for c in (0, 1)]
    table = suspected_label_errors(labels, np.stack([*each, np.full(len(truth), 0.01)], axis=1), "multilabel")
    hits = [row in planted and label == row % 2 for row, label in zip(table["row"], table["label"], strict=True)]
    assert sum(hits) >= 30 and np.mean(hits) >= 0.4, (sum(hits), np.mean(hits))
    assert np.mean(hits[:25]) >= 0.7 and (table["suggested"] == 1 - table["given"]).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 30])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("missing", [None, 0, 4])
def test_nothing_is_too_small_too_sure_or_missing(n, hard, missing):
    targets, probs = fake(n, 5)
    if missing is not None:
        targets[targets == missing] = 2
    if hard:
        probs = np.eye(5, dtype=np.float32)[probs.argmax(axis=1)]
    for kind, truth in (("class", targets), ("ordinal", targets), ("multilabel", np.eye(5)[targets])):
        suspects = suspected_label_errors(truth, probs, kind)
        assert set(suspects["row"]) <= set(range(n)) and suspects["self_confidence"].between(0, 1).all()
        assert calibration(truth, probs, kind)[0]["n"].sum() == n * (5 if kind == "multilabel" else 1)
        assert len(most_confident_mistakes(truth, probs, 5, kind)) <= 5
        if n:
            assert per_class_table(truth, probs, list("abcde"), kind)["support"].sum() == n
    assert suspected_label_errors(np.zeros(n, int), probs).empty  # one class alone


def test_numbers_have_no_label_errors_and_no_confidence():
    numbers, answers = np.array([1.0, 2.0]), np.array([[1.0], [2.0]])
    for call in (suspected_label_errors, calibration):
        with pytest.raises(ValueError, match="residuals"):
            call(numbers, answers, "regression")
    with pytest.raises(ValueError, match="residuals"):
        per_class_table(numbers, answers, [], "regression")


def test_cleanlab_is_imported_only_where_it_is_needed():
    code = "import sys, pipeline.review; sys.exit('cleanlab' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- calibration and classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["class", "multilabel"])
def test_calibration_is_scikit_learns(kind):
    targets, probs = fake(700, 4)
    if kind == "multilabel":
        targets = (np.random.default_rng(1).random(probs.shape) < probs).astype(int)
        right, sure = ((probs > 0.5) == targets).ravel(), np.maximum(probs, 1 - probs).ravel()
    else:
        right, sure = probs.argmax(axis=1) == targets, probs.max(axis=1)
    bins, error = calibration(targets, probs, kind)
    accuracy, confidence = calibration_curve(right, sure, n_bins=N_BINS)
    seen = bins[bins["n"] > 0]
    np.testing.assert_allclose(seen["accuracy"], accuracy)
    np.testing.assert_allclose(seen["confidence"], confidence, rtol=1e-6)
    by_hand = (seen["n"] / len(right) * np.abs(accuracy - confidence)).sum()
    assert error == pytest.approx(by_hand, rel=1e-6)
    assert bins["n"].sum() == len(right) and bins["accuracy"][bins["n"] == 0].isna().all()


def test_calibration_of_four_rows_by_hand():
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    bins, error = calibration(np.array([0, 1, 1, 1]), probs)
    assert bins["n"][bins["n"] > 0].tolist() == [1, 2, 1]
    assert error == pytest.approx((abs(1 - 0.6) + 2 * abs(0.5 - 0.9) + 0) / 4)


def test_a_confidence_on_an_edge_is_in_the_bin_below():
    edge = np.linspace(0, 1, N_BINS + 1)[9]
    bins, _ = calibration(np.array([0, 0]), np.array([[edge, 1 - edge], [edge + 0.01, 0.99 - edge]]))
    assert bins["n"][[8, 9]].tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["class", "multilabel"])
def test_the_table_of_classes_is_scikit_learns(kind):
    targets, probs = fake(300, 4)
    names = list("dabc")
    answers = probs.argmax(axis=1)
    if kind == "multilabel":
        targets, answers = np.eye(4, dtype=int)[targets], (probs > 0.5).astype(int)
    table = per_class_table(targets, probs, names, kind)
    assert table.columns.tolist() == ["class", "precision", "recall", "f1", "support"]
    report = classification_report(targets, answers, target_names=names, output_dict=True, zero_division=0)
    for _, row in table.iterrows():
        expect = report[row["class"]]
        assert [*row[1:]] == pytest.approx([expect[key] for key in ("precision", "recall", "f1-score", "support")])
    macro = precision_recall_fscore_support(targets, answers, average="macro", zero_division=0)[2]
    assert table["f1"].mean() == pytest.approx(macro)


def test_what_cannot_be_divided_is_no_number():
    probs = np.eye(4)[[0, 0, 2]]
    table = per_class_table(np.array([0, 1, 0]), probs, list("abcd")).set_index("class")
    assert table.loc["a"].tolist() == [0.5, 0.5, 0.5, 2]
    assert np.isnan(table.loc["b", "precision"]) and table.loc["b", "recall":].tolist() == [0, 0, 1]
    assert np.isnan(table.loc["c", "recall"]) and table.loc["c", "precision"] == 0 == table.loc["c", "f1"]
    assert table.loc["d"].isna().tolist() == [True, True, True, False]
