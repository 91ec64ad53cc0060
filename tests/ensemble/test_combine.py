"""Means of outputs: judged by torch on the logits themselves, by scipy's ranks, and by votes counted by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from pipeline.ensemble.combine import mixed, settled, spread
from pipeline.ensemble.recipe import Recipe
from pipeline.metrics import decisions

NUMBERS = st.integers(0, 2**32 - 1)


def blended(members, average: str, kind: str, weights=None) -> np.ndarray:
    """As a submission does it: into the space, the mean, and back."""
    weights = [1 / len(members)] * len(members) if weights is None else weights
    return settled(mixed([spread(np.asarray(m), average, kind) for m in members], weights), average, kind)


@given(NUMBERS, st.integers(2, 4), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_the_mean_of_logits_is_the_softmax_of_the_mean_of_the_logits(seed, n_members, n_classes):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_members, 9, n_classes)) * 8)
    weights = np.random.default_rng(seed + 1).dirichlet(np.ones(n_members))
    mine = blended(logits.softmax(2).numpy(), "logits", "class", weights)
    theirs = torch.einsum("m,mnc->nc", torch.from_numpy(weights), logits).softmax(1)
    assert np.allclose(mine, theirs.numpy(), rtol=1e-7, atol=1e-12)


@given(NUMBERS, st.integers(2, 4), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_with_several_labels_it_is_the_sigmoid_of_the_mean_of_the_logits(seed, n_members, n_labels):
    logits = torch.from_numpy(np.random.default_rng(seed).uniform(-15, 15, size=(n_members, 9, n_labels)))
    weights = np.random.default_rng(seed + 1).dirichlet(np.ones(n_members))
    mine = blended(logits.sigmoid().numpy(), "logits", "multilabel", weights)
    theirs = torch.einsum("m,mnc->nc", torch.from_numpy(weights), logits).sigmoid()
    assert np.allclose(mine, theirs.numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["class", "ordinal"])
def test_a_probability_of_zero_in_float32_stays_a_number_and_leaves_the_others_their_say(kind):
    sure, unsure = np.array([[1, 0, 0]], np.float32), np.array([[0.2, 0.3, 0.5]], np.float32)
    mean = blended([sure, unsure], "logits", kind)
    assert np.isfinite(mean).all() and mean.sum() == pytest.approx(1) and mean.argmax() == 0
    assert mean[0, 2] / mean[0, 1] == pytest.approx((0.5 / 0.3) ** 0.5)  # both were 0 alike in the first one


@given(NUMBERS, st.sampled_from(["class", "multilabel", "ordinal", "regression"]))
@settings(max_examples=30, deadline=None)
def test_the_mean_of_probabilities_is_numpys_weighted_average(seed, kind):
    rng = np.random.default_rng(seed)
    members, weights = rng.random((3, 7, 1 if kind == "regression" else 4)), rng.dirichlet(np.ones(3))
    assert np.allclose(blended(members, "probs", kind, weights), np.average(members, axis=0, weights=weights))


def test_logits_of_a_number_are_the_number():
    members = [np.array([[-3.5], [2.0]]), np.array([[1.5], [4.0]])]
    assert blended(members, "logits", "regression").tolist() == [[-1.0], [3.0]]


def test_a_weight_of_zero_leaves_a_member_out_even_where_it_says_no_number():
    broken = np.full((2, 3), np.nan)
    own = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    assert (mixed([broken, own], [0, 1]) == own).all()


def test_ranks_are_shared_by_equals_and_scaled_by_one_more_than_the_rows():
    outputs = np.array([[0.1, 0.9], [0.4, 0.2], [0.4, 0.5], [0.8, 0.2]])
    assert np.allclose(spread(outputs, "ranks", "multilabel") * 5, [[1, 4], [2.5, 1.5], [2.5, 3], [4, 1.5]])


@given(NUMBERS)
@settings(max_examples=30, deadline=None)
def test_the_mean_of_ranks_is_that_of_scipys_column_by_column(seed):
    members = np.random.default_rng(seed).random((3, 11, 4)).round(1)  # with ties
    ranks = [[rankdata(member[:, c]) for c in range(4)] for member in members]
    mean = np.mean(ranks, axis=0).T / 12
    assert np.allclose(blended(members, "ranks", "multilabel"), mean)
    assert np.allclose(blended(members, "ranks", "class"), mean)  # and no row's sum moves the order within a class


def test_ranks_ask_for_the_order_alone_so_a_member_may_be_squeezed():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=(200, 3))
    first, second = (np.clip(truth * 0.3 + rng.random((200, 3)) * 0.7, 0, 1) for _ in range(2))
    plain = blended([first, second], "ranks", "multilabel")
    assert np.allclose(plain, blended([first**9, second**0.1], "ranks", "multilabel"))
    assert roc_auc_score(truth, plain) > max(roc_auc_score(truth, one) for one in (first, second))


def test_a_tie_of_votes_is_settled_in_what_is_written_as_in_what_was_scored():
    """.5 + .44 of 2 for the first class, .4 + .56 for the second: one vote each, and .48 against .47 on average."""
    votes = [spread(np.array([row]), "vote", "class") for row in ([0.50, 0.40, 0.10], [0.44, 0.56, 0.0])]
    assert Recipe("vote", (0.5, 0.5), ()).outputs(votes, "class").argmax() == 1
    labels = [spread(np.array([[p]]), "vote", "multilabel") for p in (0.9, 0.12)]
    assert Recipe("vote", (0.5, 0.5), ()).outputs(labels, "multilabel")[0, 0] > 0.5


def test_a_sure_yes_and_a_sure_no_count_alike_among_logits():
    sure = [spread(np.array([[p]], np.float32), "logits", "multilabel") for p in (1.0, 0.0)]
    assert np.isfinite(sure).all() and Recipe("logits", (0.5, 0.5), ()).outputs(sure, "multilabel") == pytest.approx(
        0.5
    )


def test_of_two_classes_ranks_keep_the_area_of_a_single_model():
    rng = np.random.default_rng(1)
    truth = rng.integers(2, size=300)
    p = np.clip(truth * 0.2 + rng.random(300) * 0.8, 0, 1)
    ranks = blended([np.stack([1 - p, p], axis=1)], "ranks", "class")
    assert roc_auc_score(truth, ranks[:, 1]) == pytest.approx(roc_auc_score(truth, p))


def test_the_most_votes_win_where_the_mean_probability_says_otherwise():
    members = [[[0.40, 0.35, 0.25]], [[0.40, 0.25, 0.35]], [[0.001, 0.009, 0.99]]]
    assert np.mean(members, axis=0).argmax() == 2
    assert blended(members, "vote", "class").argmax() == 0


@pytest.mark.parametrize("n", [3, 101, 5001])
def test_one_vote_more_wins_against_any_probabilities(n):
    """The majority is barely for class 0, and the minority as sure as can be of class 1."""
    half = n // 2
    members = [[[0.5001, 0.4999]]] * (half + 1) + [[[0.0, 1.0]]] * half
    mean = blended(members, "vote", "class")
    assert mean.argmax() == 0 and mean.sum() == pytest.approx(1)


def test_weights_count_as_votes():
    members = [[[0.9, 0.1]], [[0.2, 0.8]], [[0.4, 0.6]]]
    assert blended(members, "vote", "class", [0.51, 0.25, 0.24]).argmax() == 0
    assert blended(members, "vote", "class", [0.49, 0.26, 0.25]).argmax() == 1


def test_a_tie_goes_to_the_higher_mean_probability_and_then_to_the_first_class():
    later = [[[0.6, 0.4, 0.0]], [[0.1, 0.8, 0.1]]]  # means 0.35 and 0.6
    first = [[[0.8, 0.1, 0.1]], [[0.4, 0.6, 0.0]]]  # 0.6 and 0.35
    third = [[[0.55, 0.45, 0.0]], [[0.1, 0.2, 0.7]], [[0.0, 0.9, 0.1]], [[0.1, 0.15, 0.75]], [[0.5, 0.4, 0.1]]]
    assert blended(later, "vote", "class").argmax() == 1
    assert blended(first, "vote", "class").argmax() == 0
    assert blended(third, "vote", "class").argmax() == 2  # two votes each for 0 and 2; 0.25 against 0.33
    level = [[[0.25, 0.0, 0.75]], [[0.25, 0.75, 0.0]]]
    assert blended(level, "vote", "class").argmax() == 1


@given(NUMBERS, st.integers(2, 7), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_votes_are_those_that_are_counted_one_by_one(seed, n_members, n_classes):
    members = np.random.default_rng(seed).dirichlet(np.ones(n_classes) * 3, size=(n_members, 12))
    answers = blended(members, "vote", "class").argmax(axis=1)
    for row, answer in enumerate(answers):
        votes = Counter(max(range(n_classes), key=lambda c, p=p[row]: p[c]) for p in members)
        most = max(votes.values())
        tied = [c for c in range(n_classes) if votes[c] == most]
        assert answer == max(tied, key=lambda c: members[:, row, c].mean())


def test_each_label_has_a_vote_of_its_own_and_half_of_them_is_settled_by_the_mean():
    members = [[[0.51, 0.9, 0.90, 0.4]], [[0.52, 0.1, 0.20, 0.9]], [[0.01, 0.2, 0.45, 0.1]], [[0.6, 0.9, 0.9, 0.1]]]
    mean = blended(members, "vote", "multilabel")
    assert (np.asarray(members).mean(axis=0) > 0.5).tolist() == [[False, True, True, False]]
    assert decisions(mean, "multilabel").tolist() == [[1, 1, 1, 0]]  # 3 votes; 2 and 0.525; 2 and 0.6125; 1 vote
    low = [[[0.9, 0.6]], [[0.05, 0.45]]]  # one vote of two each; means 0.475 and 0.525
    assert decisions(blended(low, "vote", "multilabel"), "multilabel").tolist() == [[0, 1]]


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_one_model_alone_is_left_as_it_is(average):
    p = np.random.default_rng(3).dirichlet(np.ones(4), 20).astype(np.float32)
    assert np.allclose(blended([p], average, "class"), p, atol=1e-7)
    q = p.clip(1e-6, 1 - 1e-6)
    assert np.allclose(blended([q], average, "multilabel"), q, atol=1e-7)


def test_a_recipe_is_the_weighted_mean_and_its_shift_worked_by_hand():
    """0.75 x (0.8, 0.2) + 0.25 x (0.4, 0.6) = (0.7, 0.3); a shift of log 7 for the second gives 0.7 : 2.1."""
    members = [np.array([[0.8, 0.2]]), np.array([[0.4, 0.6]])]
    assert np.allclose(Recipe("probs", (0.75, 0.25), ()).outputs(members, "class"), [[0.7, 0.3]])
    moved = Recipe("probs", (0.75, 0.25), (0.0, np.log(7))).outputs(members, "class")
    assert np.allclose(moved, [[0.25, 0.75]])
    logs = [spread(member, "logits", "class") for member in members]
    of_logits = Recipe("logits", (0.5, 0.5), (np.log(2), 0.0)).outputs(logs, "class")
    odds = 2 * (4 * 2 / 3) ** 0.5
    assert np.allclose(of_logits, [[odds / (1 + odds), 1 / (1 + odds)]])
