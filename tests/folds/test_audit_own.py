"""The audit finds every way in which a table can lie, and a user's own file is judged like ours."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_split import competition

from pipeline.competition.contract import labels_of
from pipeline.competition.kinds import split_labels
from pipeline.config.data import Folds
from pipeline.config.mistakes import Mistakes
from pipeline.folds.audit import audit_folds, audit_lines
from pipeline.folds.own import read_own_folds
from pipeline.folds.split import make_folds, write_folds

LABELS = ["a", "b", "b", "c"] * 15
GROUPS = [n // 3 for n in range(60)]
COPIES = [["i00000", "i00030"], ["i00007", "i00050"]]


@pytest.fixture
def c():
    return competition(LABELS, GROUPS)


@pytest.fixture
def table(c) -> pd.DataFrame:
    return make_folds(c, Folds(k=3), COPIES)


def told(table, c, copies=COPIES) -> str:
    with pytest.raises(Mistakes) as caught:
        audit_folds(table, c, copies)
    return str(caught.value)


def moved(table: pd.DataFrame, image_id: str) -> pd.DataFrame:
    other = table.copy()
    row = other["image_id"] == image_id
    other.loc[row, "fold"] = (other.loc[row, "fold"] + 1) % 3
    return other


def test_a_good_table_has_its_figures(table, c):
    audit = audit_folds(table, c, COPIES)
    assert (audit.n_rows, audit.n_validated, audit.n_models, audit.n_groups, audit.n_duplicate_sets) == (
        60,
        60,
        3,
        20,
        2,
    )
    counts = pd.crosstab(table["fold"], table["label"])
    for fold in audit.folds:
        assert fold["classes"] == counts.loc[fold["fold"]].to_dict() and fold["rows"] == counts.loc[fold["fold"]].sum()
    shares = counts.div(counts.sum(axis=1), axis=0) - table["label"].value_counts(normalize=True)
    assert audit.deviation == pytest.approx(shares.abs().to_numpy().max())
    assert audit.group_sizes == {"3": 16, "6": 2} and audit.absent == []
    assert set(audit.metrics()) >= {"n_folds", "largest_share_deviation"}


def test_every_way_of_tampering_is_found(table, c):
    assert "group 1 is in folds" in told(moved(table, "i00004"), c)
    assert "'i00007' and its duplicates is in folds" in told(
        moved(moved(moved(table, "i00006"), "i00007"), "i00008"), c
    )
    assert "training image 'i00009' is missing" in told(table[table["image_id"] != "i00009"], c)
    assert "image 'i00009' stands twice" in told(pd.concat([table, table[table["image_id"] == "i00009"]]), c)
    assert "'zzz' is no training image" in told(table.assign(image_id=table["image_id"].replace("i00009", "zzz")), c)
    assert "image 'i00000' has label 'b'" in told(table.assign(label="b"), c)
    assert "holds folds [1, 2, 3]" in told(table.assign(fold=table["fold"] + 1), c)
    out = table.copy()
    out.loc[table["group"] == "1", "fold"] = -1
    assert "is in no fold" in told(out, c)
    assert "nothing to train on" in told(table.assign(fold=0), c)
    edited = moved(table, "i00004")
    edited["group"] = [f"g{n}" for n in range(60)]  # a table that claims other groups than the competition's
    assert "group 1 is in folds" in told(edited, c)


def test_a_leak_in_a_repeat_is_found_too(c):
    table = make_folds(c, Folds(k=3, repeats=2))
    row = table["image_id"] == "i00004"
    table.loc[row, "fold_1"] = (table.loc[row, "fold_1"] + 1) % 3
    assert "group 1 is in folds" in told(table, c, []) and "of fold_1" in told(table, c, [])


def test_classes_that_a_fold_lacks_are_named():
    c = competition(["a"] * 20 + ["b"], None)
    audit = audit_folds(make_folds(c, Folds(k=3, stratify="off")), c)
    assert len(audit.absent) == 3 and audit.absent[0].startswith("class b in fold")
    assert any("in all that fold" in words and "trains on" in words for words in audit.absent)
    assert any("a fold lacks a class: class b" in line for line in audit_lines(audit, c.classes))


@pytest.mark.parametrize("n_classes", [2, 18, 500])
def test_the_printed_audit_fits_a_terminal(n_classes):
    labels = [f"a-rather-long-class-name-{n % n_classes}" for n in range(3 * n_classes)]
    c = competition(labels)
    lines = audit_lines(audit_folds(make_folds(c, Folds(k=3)), c), c.classes)
    assert lines[0] == f"{3 * n_classes:,} rows, each validated exactly once"
    assert any("no sets of duplicates" in line for line in lines)
    assert max(map(len, lines)) <= 112 and len(lines) <= 12


def write(tmp_path, text: str):
    (tmp_path / "mine.csv").write_text(text)
    return tmp_path / "mine.csv"


def test_ones_own_folds_are_taken_when_they_pass(table, c, tmp_path):
    shuffled = table.sample(frac=1, random_state=0).rename(columns={"group": "whatever"})
    write_folds(shuffled, tmp_path / "mine.csv")
    own = read_own_folds(tmp_path / "mine.csv", c, COPIES)
    assert own.equals(table)
    two = make_folds(c, Folds(k=3, repeats=2), COPIES)
    write_folds(two, tmp_path / "two.csv")
    assert read_own_folds(tmp_path / "two.csv", c, COPIES).equals(two)


def test_ones_own_folds_with_mistakes_are_refused_with_all_of_them(c, tmp_path):
    rows = [f"i{n:05d},{n // 20}" for n in range(60)]
    rows[3], rows[5], rows[8], rows[9] = "i00003,x", "i0005,0", "i00008,1.0", "i00008,0"
    with pytest.raises(Mistakes) as caught:
        read_own_folds(write(tmp_path, "image_id,fold\n" + "\n".join(rows) + "\n"), c, [])
    lines = str(caught.value)
    for part in (
        "mine.csv:5: fold is 'x'", "mine.csv:7: no training image 'i0005', did you mean 'i00", "mine.csv:10: fold is '1.0'",
        "mine.csv:11: duplicate id 'i00008', first in", "training image 'i00005' is missing", "'i00009' is missing",
    ):  # fmt: skip
        assert part in lines, (part, lines)
    with pytest.raises(Mistakes, match="columns image_id, split"):
        read_own_folds(write(tmp_path, "image_id,split\ni00000,0\n"), c)
    with pytest.raises(Mistakes, match="no such file"):
        read_own_folds(tmp_path / "none.csv", c)


def test_ones_own_folds_that_leak_are_refused(c, tmp_path):
    random = np.random.default_rng(0).integers(0, 3, 60)
    text = "image_id,fold\n" + "".join(f"i{n:05d},{fold}\n" for n, fold in enumerate(random))
    with pytest.raises(Mistakes, match="group 0 is in folds"):
        read_own_folds(write(tmp_path, text), c)


def test_each_of_several_labels_is_counted_and_a_strange_one_is_refused():
    """As anybody counts them, row by row; the classes are not in the order of the alphabet."""
    said = [["b c", "a", "", "c", "a b c"][n % 5] for n in range(60)]
    many = replace(competition(said), target="multilabel", classes=("c", "a", "b"))
    split_labels(many.train_rows, " ")
    folds = make_folds(many, Folds(k=3))
    audit = audit_folds(folds, many)
    sides = dict(zip(folds["image_id"], folds["fold"], strict=True))
    for fold in audit.folds:
        rows = [row for row in many.train_rows if sides[row["image_id"]] == fold["fold"]]
        assert fold["classes"] == {name: sum(name in labels_of(row) for row in rows) for name in many.classes}
    share = {name: sum(name in labels_of(row) for row in many.train_rows) / 60 for name in many.classes}
    off = [abs(f["classes"][name] / f["rows"] - share[name]) for f in audit.folds for name in many.classes]
    assert audit.deviation == pytest.approx(max(off))
    with pytest.raises(Mistakes, match="'b' is no class"):
        audit_folds(folds, replace(many, classes=("c", "a")))
