"""Shares of classes: a wrong order of labels is told, a faithful sample is not, and the limits are worked by hand."""

import numpy as np
import pytest

from pipeline.shares import Moved, moved_since, shares, told, unlike_training

SKEWED = np.array([0.30, 0.20, 0.15, 0.10, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01])
NAMES = tuple("abcdefghij")


def test_shares_are_counted_by_row_or_by_label():
    assert shares(np.array([0, 2, 2, 2]), 4).tolist() == [0.25, 0, 0.75, 0]
    assert shares(np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]]), 3).tolist() == [0.75, 0, 0.5]
    assert shares(np.array([], int), 2).tolist() == [0, 0]


def test_a_share_is_told_beyond_four_standard_errors_worked_by_hand():
    """0.2 of 1,000 looks against 0.3 of 400: together 0.22857, so the standard error is
    (0.17633 (1/1000 + 1/400)) ** 0.5 = 0.02484, and four of them are 0.0994."""
    before = np.array([0.2, 0.8])
    assert unlike_training("ab", before, np.array([0.298, 0.702]), 1000, 400) == []
    assert unlike_training("ab", before, np.array([0.3, 0.7]), 1000, 400) == [Moved("a", 0.2, 0.3)]
    assert unlike_training("ab", before, np.array([0.112, 0.888]), 1000, 400) == []
    assert unlike_training("ab", before, np.array([0.104, 0.896]), 1000, 400) == [Moved("a", 0.2, 0.104)]


def test_with_many_rows_a_quarter_more_or_a_fifth_less_is_what_is_told():
    before = np.array([0.4, 0.6])
    for share, is_told in ((0.499, False), (0.501, True), (0.321, False), (0.319, True)):
        found = unlike_training("ab", before, np.array([share, 1 - share]), 1e6, 1e6)
        assert [moved.label for moved in found if moved.label == "a"] == ["a"] * is_told


def test_a_class_that_was_never_answered_needs_five_rows():
    before = np.array([0.0, 1.0])
    assert unlike_training("ab", before, np.array([0.04, 0.96]), 500, 100) == []
    assert unlike_training("ab", before, np.array([0.05, 0.95]), 500, 100) == [Moved("a", 0.0, 0.05)]


def test_a_class_that_is_answered_no_more_is_told():
    assert unlike_training("ab", np.array([0.1, 0.9]), np.array([0.0, 1.0]), 1000, 1000) == [Moved("a", 0.1, 0.0)]


@pytest.mark.parametrize(("n_training", "n_test"), [(2000, 1000), (500, 200), (5000, 5000)])
@pytest.mark.parametrize("classes", [SKEWED, np.full(18, 1 / 18)])
def test_a_faithful_sample_is_seldom_told(n_training, n_test, classes):
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(len(classes))]
    alarms = 0
    for _ in range(300):
        before, now = (rng.multinomial(n, classes) / n for n in (n_training, n_test))
        alarms += bool(unlike_training(names, before, now, n_training, n_test))
    assert alarms <= 9


def test_nor_is_one_of_whole_groups_which_would_be_told_if_rows_were_counted():
    """Ten photos of one person are one look, not ten."""
    rng = np.random.default_rng(1)
    by_group = by_row = 0
    for _ in range(300):
        before, now = (rng.multinomial(n, SKEWED) / n for n in (500, 200))
        by_group += bool(unlike_training(NAMES, before, now, 500, 200))
        by_row += bool(unlike_training(NAMES, before, now, 5000, 2000))
    assert by_group <= 9 and by_row > 100


def test_a_wrong_order_of_labels_is_told_with_the_classes_that_it_moved():
    rng = np.random.default_rng(2)
    for _ in range(50):
        before, now = (rng.multinomial(n, SKEWED) / n for n in (2000, 1000))
        backwards = unlike_training(NAMES, before, now[::-1], 2000, 1000)
        assert {"a", "b", "i", "j"} <= {moved.label for moved in backwards}
        swapped = now.copy()
        swapped[[0, 3]] = now[[3, 0]]  # 0.30 and 0.10
        assert [moved.label for moved in unlike_training(NAMES, before, swapped, 2000, 1000)] == ["a", "d"]
        sorted_as_text = now[[0, 9, *range(1, 9)]]  # 0, 10, 1, 2, ...
        assert "b" in {moved.label for moved in unlike_training(NAMES, before, sorted_as_text, 2000, 1000)}


def test_what_moved_by_more_than_two_percent_of_the_rows_is_told_the_furthest_first():
    before, now = np.array([0.50, 0.20, 0.20, 0.10]), np.array([0.47, 0.219, 0.13, 0.181])
    assert moved_since("abcd", before, now) == [
        Moved("d", 0.10, 0.181), Moved("c", 0.20, 0.13), Moved("a", 0.50, 0.47)
    ]  # fmt: skip
    assert moved_since("abcd", before, before) == []


def test_the_words_name_the_class_and_both_shares_and_count_what_is_left_out():
    moved = [Moved(name, 0.1234, 0.05) for name in "abcdefg"]
    assert told(moved[:1]) == "a 12.3 to 5.0 %"
    assert told(moved, most=2) == "a 12.3 to 5.0 %; b 12.3 to 5.0 %; and 5 more"
    assert told(moved).count(" to ") == 5 and told([]) == ""
