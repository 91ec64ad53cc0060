"""Leaderboard and cross-validation: scipy's and hand-worked figures, and what is said where there is little to go by."""

import numpy as np
import pytest
from scipy import stats

from pipeline.leaderboard import Entry, agreement, deviating, expected, rank_correlation, recommended


def test_the_expected_score_is_the_mean_shift_with_its_prediction_interval_worked_by_hand():
    """Shifts -0.02, 0, -0.01, 0.01: mean -0.005, variance 0.0005 / 3; t(0.975, 3) = 3.182446."""
    found = expected(0.85, [(0.80, 0.78), (0.82, 0.82), (0.81, 0.80), (0.84, 0.85)])
    half = 3.182446 * (0.0005 / 3) ** 0.5 * 1.25**0.5
    assert found is not None and found.n == 4
    assert (found.shift, found.value) == (pytest.approx(-0.005), pytest.approx(0.845))
    assert (found.low, found.high) == (pytest.approx(0.845 - half, abs=1e-7), pytest.approx(0.845 + half, abs=1e-7))


@pytest.mark.parametrize("n", [3, 6])
def test_the_interval_holds_the_next_pair_in_95_of_100_competitions(n):
    rng = np.random.default_rng(n)
    held = 0
    for _ in range(2000):
        cv = rng.uniform(0.7, 0.8, n + 1)
        board = cv - 0.03 + 0.01 * rng.normal(size=n + 1)
        found = expected(cv[-1], list(zip(cv[:-1], board[:-1], strict=True)))
        held += found.low <= board[-1] <= found.high
    low, high = stats.binom.interval(0.999, 2000, 0.95)
    assert low <= held <= high


@pytest.mark.parametrize(
    ("pairs", "value"), [([(0.8, 0.7)], 0.8), ([(0.8, 0.7), (0.6, 0.7)], 0.9)]
)  # fmt: skip
def test_with_one_pair_or_two_there_is_a_value_and_no_interval(pairs, value):
    found = expected(0.9, pairs)
    assert found is not None and found.value == pytest.approx(value) and found.n == len(pairs)
    assert found.low is None and found.high is None


def test_without_pairs_nothing_is_expected_and_equal_pairs_leave_no_doubt():
    assert expected(0.9, []) is None
    found = expected(0.75, [(0.5, 0.25)] * 5)
    assert found is not None and (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("decimals", [4, 1])
def test_the_rank_correlation_is_scipys_ties_included(decimals):
    rng = np.random.default_rng(0)
    cv = rng.random(12)
    pairs = np.stack([cv, cv + 0.4 * rng.normal(size=12)], axis=1).round(decimals)
    theirs = stats.pearsonr(stats.rankdata(pairs[:, 0]), stats.rankdata(pairs[:, 1])).statistic
    assert rank_correlation([tuple(pair) for pair in pairs.tolist()]) == pytest.approx(theirs)


def test_the_rank_correlation_of_opposite_orders_is_minus_one_and_few_or_equal_pairs_have_none():
    assert rank_correlation([(0.1, 0.9), (0.2, 0.5), (0.7, 0.4)]) == pytest.approx(-1)
    for pairs in ([], [(0.1, 0.2)], [(0.1, 0.2), (0.3, 0.4)], [(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)],
                  [(0.1, 0.5), (0.2, 0.5), (0.3, 0.5)], [(0.5, 0.5)] * 4):  # fmt: skip
        assert rank_correlation(pairs) is None


def of_shifts(*shifts: float) -> list[tuple[float, float]]:
    return [(0.5 + 0.01 * i, 0.5 + 0.01 * i + shift) for i, shift in enumerate(shifts)]


def test_a_pair_deviates_from_the_mean_of_the_others_worked_by_hand():
    """Shifts 0, 1, 2, 3 hundredths have mean 1.5 and deviation 1.29099; t(0.995, 3) = 5.84091; so x is odd beyond
    1.5 + 5.84091 x 1.29099 x 1.25 ** 0.5 = 9.9306 hundredths."""
    assert deviating(of_shifts(0, 0.01, 0.02, 0.03, 0.0992)) == [False] * 5
    assert deviating(of_shifts(0, 0.01, 0.02, 0.03, 0.0994)) == [False] * 4 + [True]
    assert deviating(of_shifts(-0.05, 0.01, 0.02, 0.03, 0.02)) == [True] + [False] * 4


def test_the_odd_one_does_not_hide_itself_and_its_shift_alone_counts():
    """By mean and standard deviation none of six can be further off than 2.04 deviations, however far it lies."""
    pairs = of_shifts(-0.011, -0.010, -0.009, -0.012, -0.010, 0.6)
    assert deviating(pairs) == [False] * 5 + [True]
    wide = [(0.1, 0.1100), (0.9, 0.9112), (0.5, 0.5090), (0.3, 0.3121), (0.7, 0.7105)]  # the scores, not the shifts
    assert not any(deviating(wide))


@pytest.mark.parametrize("n", [4, 8, 20])
def test_among_equals_somebody_is_named_on_one_board_of_twenty_at_most(n):
    rng = np.random.default_rng(n)
    named = sum(any(deviating(of_shifts(*0.01 * rng.normal(size=n)))) for _ in range(1000))
    assert named <= stats.binom.ppf(0.999, 1000, 0.05)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_fewer_than_four_pairs_deviate_from_nothing(n):
    assert deviating(of_shifts(0.25, 0.25, 0.75)[:n]) == [False] * n


def test_where_all_shifts_are_equal_none_deviates_and_one_that_a_board_shows_does():
    assert deviating([(0.5, 0.5)] * 4) == [False] * 4
    assert deviating([(0, 0.25)] * 4 + [(0, 0.25 + 1e-9)]) == [False] * 5  # equal but for what no board shows
    assert deviating(of_shifts(0.1, 0.1, 0.1, 0.1, 0.101)) == [False] * 4 + [True]


def entry(name: str, cv: float, answers: str, half: float = 0.02) -> Entry:
    return Entry(name, cv, cv - half, cv + half, tuple(answers))


def test_the_best_and_the_most_different_of_the_good_are_recommended_worked_by_hand():
    entries = [
        entry("near", 0.899, "aaaaaaaaab"),
        entry("best", 0.900, "aaaaaaaaaa"),
        entry("other", 0.891, "aaaaaaabbb"),  # within half of 0.02, and alike in 7 of 10
        entry("bad", 0.889, "bbbbbbbbbb"),
    ]
    assert recommended(entries, True) == (1, 2, pytest.approx(0.7))
    assert recommended(entries[:2], True) == (1, 0, pytest.approx(0.9))
    assert recommended([entries[1], entries[3]], True) == (0, None, 1.0)


def test_where_less_is_better_the_least_is_the_best_and_the_upper_side_counts():
    uneven = [Entry("best", 0.30, 0.10, 0.34, ("a", "b")), Entry("near", 0.319, 0.2, 0.4, ("b", "b")),
              Entry("far", 0.33, 0.2, 0.4, ("b", "a"))]  # fmt: skip
    assert recommended(uneven, False) == (0, 1, 0.5)
    assert recommended([uneven[0], uneven[2]], False) == (0, None, 1.0)
    upside = [Entry("best", 0.70, 0.66, 0.90, ("a", "b")), Entry("near", 0.681, 0.6, 0.8, ("b", "b")),
              Entry("far", 0.67, 0.6, 0.8, ("b", "a"))]  # fmt: skip
    assert recommended(upside, True) == (0, 1, 0.5)


def test_what_answers_alike_is_one_try_twice_and_other_rows_cannot_be_compared():
    assert recommended([entry("a", 0.9, "ab"), entry("b", 0.9, "ab")], True) == (0, None, 1.0)
    assert recommended([entry("a", 0.9, "ab"), entry("b", 0.9, "abb")], True) == (0, None, 1.0)
    assert recommended([entry("alone", 0.9, "ab")], True) == (0, None, 1.0)


def test_of_equals_the_first_is_taken():
    entries = [entry("a", 0.9, "ab"), entry("b", 0.9, "bb"), entry("c", 0.9, "aa")]
    assert recommended(entries, True) == (0, 1, 0.5) == recommended(entries, False)


def test_agreement_is_the_share_of_equal_answers():
    assert agreement("abcd", "abdc") == 0.5 and agreement((), ()) == 1.0
    with pytest.raises(ValueError, match="shorter"):
        agreement("abc", "ab")
