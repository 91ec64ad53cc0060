"""Folds: each row validated once, no group on both sides, for any table; and the same folds for the same rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.competition.contract import WHERE, Competition
from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import Folds
from pipeline.folds import audit_folds, check_folds, folds_hash, make_folds, read_folds, write_folds


def competition(labels, groups=None) -> Competition:
    rows = [{"image_id": f"i{n:04d}", "path": "", "label": label, WHERE: ""} for n, label in enumerate(labels)]
    if groups is not None:
        rows = [{**row, "group": str(group)} for row, group in zip(rows, groups, strict=True)]
    classes = tuple(sorted(set(labels)))
    return Competition("c", "macro_f1", classes, groups is not None, rows, [], ("image_id", "label"), Path(), classes)


@given(k=st.integers(2, 6), sizes=st.lists(st.integers(6, 25), min_size=2, max_size=5), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_every_row_is_validated_exactly_once_and_classes_are_shared_out(k, sizes, seed):
    labels = [f"class{c}" for c, size in enumerate(sizes) for _ in range(size)]
    table = make_folds(competition(labels), Folds(k=k, seed=seed))
    assert sorted(table["image_id"]) == [f"i{n:04d}" for n in range(len(labels))]
    assert set(table["fold"]) == set(range(k))
    per_fold = pd.crosstab(table["label"], table["fold"])
    assert (per_fold.max(axis=1) - per_fold.min(axis=1)).max() <= 1  # as even as whole rows allow


@given(k=st.integers(2, 5), n_groups=st.integers(12, 60), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_no_group_is_on_both_sides(k, n_groups, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, n_groups)
    of_group = np.concatenate([np.arange(2 * k) % 2, rng.integers(2, size=n_groups)])[
        :n_groups
    ]  # both classes everywhere
    groups = np.repeat(np.arange(n_groups), sizes)
    table = make_folds(competition([f"c{c}" for c in of_group[groups]], groups), Folds(k=k, seed=seed))
    assert table.groupby("group")["fold"].nunique().max() == 1
    assert len(table) == len(groups) and table["image_id"].is_unique


def test_the_order_of_the_table_does_not_matter_and_the_seed_does(tmp_path):
    labels = ["a", "b"] * 30
    one = competition(labels)
    other = Competition(**{**one.__dict__, "train_rows": one.train_rows[::-1]})
    hashes = [write_folds(make_folds(c, Folds(k=3)), tmp_path / "folds.csv") for c in (one, other)]
    assert hashes[0] == hashes[1]
    assert write_folds(make_folds(one, Folds(k=3, seed=1)), tmp_path / "folds.csv") != hashes[0]


def test_a_written_table_is_read_as_it_was_down_to_ids_like_0007_and_NA(tmp_path):
    table = pd.DataFrame(
        {"image_id": ["0007", "NA", "1e5"], "fold": [0, 1, 0], "label": ["1", "nan", "01"], "group": ""}
    )
    hash_ = write_folds(table, tmp_path / "folds.csv")
    again = read_folds(tmp_path / "folds.csv")
    assert again.to_dict("list") == table.to_dict("list")
    assert folds_hash(tmp_path / "folds.csv") == hash_
    assert (tmp_path / "folds.csv").read_text().splitlines()[1] == "0007,0,1,"


@pytest.mark.parametrize(
    ("column", "row", "value", "part"),
    [
        ("image_id", 1, "i0", "twice"),
        ("fold", 1, 7, "in no fold"),
        ("group", 1, "g0", "'g0' is in 2 folds"),
    ],
)
def test_the_audit_finds_each_fault(column, row, value, part):
    table = pd.DataFrame({"image_id": ["i0", "i1"], "fold": [0, 1], "label": ["a", "a"], "group": ["g0", "g1"]})
    audit_folds(table, 2)  # in order as it is
    table.loc[row, column] = value
    with pytest.raises(Mistakes, match=part):
        audit_folds(table, 2)


def test_a_class_smaller_than_k_is_told_with_what_would_do():
    [mistake] = check_folds(competition(["a"] * 9 + ["b"] * 3), Folds(k=5))
    assert "folds.k" in str(mistake) and "'b' (3)" in str(mistake) and "2 to 3" in str(mistake)
    [mistake] = check_folds(competition(["a", "b"] * 9, [n // 9 for n in range(18)]), Folds(k=5))
    assert "groups" in str(mistake)
    assert check_folds(competition(["a"] * 9 + ["b"] * 5), Folds(k=5)) == []
