"""Scores against scikit-learn; intervals against what resampling must do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from pipeline.metrics import _from_confusion, bootstrap_interval, score


def one_hot(predictions, n_classes):
    return np.eye(n_classes)[predictions]


@given(st.integers(2, 8), st.integers(1, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_scores_from_a_weighted_confusion_matrix_are_scikit_learns(n_classes, n, seed):
    rng = np.random.default_rng(seed)
    targets, predictions = rng.integers(n_classes, size=(2, n))
    times = rng.integers(0, 4, n)
    if times.sum() == 0:
        times[0] = 1
    confusion = np.bincount(targets * n_classes + predictions, weights=times, minlength=n_classes**2)
    drawn = np.repeat(np.arange(n), times)  # the resample, row by row
    expected = f1_score(targets[drawn], predictions[drawn], average="macro", zero_division=0)
    assert _from_confusion("macro_f1", confusion.reshape(n_classes, n_classes)) == pytest.approx(expected)
    expected = accuracy_score(targets[drawn], predictions[drawn])
    assert _from_confusion("accuracy", confusion.reshape(n_classes, n_classes)) == pytest.approx(expected)


def test_macro_f1_by_hand():
    # class 0: 1 hit of 2 predicted and 1 true -> 2/3; class 1: 1 hit of 1 predicted and 2 true -> 2/3; class 2: 1
    targets, predictions = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2])
    assert score("macro_f1", targets, one_hot(predictions, 3)) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert score("accuracy", targets, one_hot(predictions, 3)) == 0.75
    with pytest.raises(ValueError, match="macro_f1"):
        score("macro_f2", targets, one_hot(predictions, 3))


def test_the_interval_has_the_width_that_theory_gives():
    rng = np.random.default_rng(0)
    n, p = 2000, 0.8
    targets = rng.integers(2, size=n)
    predictions = np.where(rng.random(n) < p, targets, 1 - targets)
    interval = bootstrap_interval("accuracy", targets, one_hot(predictions, 2), None)
    accuracy = (targets == predictions).mean()
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / n)
    assert interval.low == pytest.approx(accuracy - half, abs=0.004)
    assert interval.high == pytest.approx(accuracy + half, abs=0.004)


def test_rows_that_err_together_make_the_interval_wider():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 7)
    right = np.repeat(rng.random(100) < 0.8, 7)  # seven photos of a person, all right or all wrong
    targets = rng.integers(2, size=700)
    probs = one_hot(np.where(right, targets, 1 - targets), 2)
    by_row = bootstrap_interval("accuracy", targets, probs, None)
    by_group = bootstrap_interval("accuracy", targets, probs, groups)
    ratio = (by_group.high - by_group.low) / (by_row.high - by_row.low)
    assert ratio == pytest.approx(np.sqrt(7), rel=0.15)


def test_the_interval_is_the_same_every_time():
    targets = np.array([0, 1, 1, 0, 1])
    probs = one_hot(np.array([0, 1, 0, 0, 1]), 2)
    assert bootstrap_interval("macro_f1", targets, probs, None) == bootstrap_interval("macro_f1", targets, probs, None)
