"""The submission has the sample's columns, ids, order and types, or is not written."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from pipeline.competition.csv import read
from pipeline.config.mistakes import Mistakes
from pipeline.score import score_submission
from pipeline.submit import check_submission, n_changed, read_submission, write_submission

PROBS = np.array([[0.9, 0.1], [0.2, 0.8]] * 3)


@pytest.fixture
def competition(small_settings):
    return read(small_settings)


def test_it_is_the_sample_with_other_labels(competition, tmp_path):
    write_submission(competition, PROBS, tmp_path / "submission.csv")
    sample = competition.sample_csv.read_text().splitlines()
    written = (tmp_path / "submission.csv").read_text().splitlines()
    assert written[0] == sample[0]
    assert [line.split(",")[0] for line in written] == [line.split(",")[0] for line in sample]
    assert [line.split(",")[1] for line in written[1:]] == ["bright", "dark"] * 3
    assert check_submission(tmp_path / "submission.csv", competition) == []


def test_columns_in_another_order_and_under_other_names_are_kept(
    small_settings, small_competition, write_csv, tmp_path
):
    write_csv(small_competition / "sample_submission.csv", ["ans", "image_id"], [["dark", f"t{i}"] for i in (3, 1, 2)])
    competition = read(small_settings)
    assert competition.sample_columns == ("image_id", "ans")
    write_submission(competition, PROBS[:3], tmp_path / "submission.csv")
    assert (tmp_path / "submission.csv").read_text() == "ans,image_id\nbright,t3\ndark,t1\nbright,t2\n"


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda t: t.replace("image_id,label", "id,label"), "columns id, label"),
        (lambda t: t.replace("t5,dark\n", ""), "5 rows"),
        (lambda t: t.replace("t3", "t9"), "row 5 has id 't9'"),
        (lambda t: t.replace("t0,bright\nt1,dark", "t1,dark\nt0,bright"), "'t0' there, ids in the sample's order"),
        (lambda t: t.replace("t4,bright", "t4,brigth"), "row 6 has label 'brigth'"),
        (lambda t: t.replace("t4,bright", "t4,"), "row 6 has label ''"),
    ],
)
def test_each_fault_is_found(competition, tmp_path, spoil, part):
    path = tmp_path / "submission.csv"
    write_submission(competition, PROBS, path)
    spoilt = spoil(path.read_text())
    assert spoilt != path.read_text()
    path.write_text(spoilt)
    assert any(part in str(mistake) for mistake in check_submission(path, competition))


@pytest.mark.parametrize(
    ("names", "placeholder", "written", "dtype"),
    [
        (("0", "1"), "0", ["0", "1"], "int64"),
        (("0", "1"), "0.0", ["0.0", "1.0"], "float64"),
        (("1.0", "2.0"), "0", ["1", "2"], "int64"),
        (("NA", "dog"), "dog", ["NA", "dog"], "str"),
        (("1", "10+"), "10+", ["1", "10+"], "str"),
    ],
)
def test_labels_are_written_in_the_samples_type_whatever_is_predicted(
    small_settings, small_competition, write_csv, tmp_path, names, placeholder, written, dtype
):
    rows = [(f"a{i:02d}", names[i % 2]) for i in range(24)]
    write_csv(small_competition / "train.csv", ["image_id", "label"], rows)
    write_csv(
        small_competition / "sample_submission.csv", ["image_id", "label"], [(f"t{i}", placeholder) for i in range(6)]
    )
    competition = read(small_settings)
    assert competition.mistakes == [] and competition.classes == names
    path = tmp_path / "submission.csv"
    write_submission(competition, PROBS, path)
    assert list(pd.read_csv(path, dtype=str, keep_default_na=False)["label"]) == written * 3
    assert pd.read_csv(path, keep_default_na=False)["label"].dtype == dtype
    for one in ([1.0, 0.0], [0.0, 1.0]):  # only one class predicted: it may look like another type by itself
        write_submission(competition, np.array([one] * 6), path)


def test_classes_that_the_samples_type_cannot_hold_are_told_before_any_training(
    small_settings, small_competition, write_csv
):
    write_csv(small_competition / "sample_submission.csv", ["image_id", "label"], [[f"t{i}", 0] for i in range(6)])
    [mistake] = read(small_settings).mistakes
    assert (
        "sample_submission.csv" in str(mistake)
        and "whole numbers such as 0" in str(mistake)
        and "bright" in str(mistake)
    )


def test_answers_are_read_by_their_columns_names(small_settings, small_competition, write_csv, tmp_path):
    write_csv(small_competition / "sample_submission.csv", ["label", "image_id"], [["dark", f"t{i}"] for i in range(6)])
    competition = read(small_settings)
    write_submission(competition, PROBS, tmp_path / "submission.csv")
    answers = tmp_path / "answers.csv"
    rows = [(f"t{i}", "Public", "dark" if i % 2 else "bright") for i in range(6)]
    write_csv(answers, ["image_id", "Usage", "label"], rows)
    assert score_submission(tmp_path / "submission.csv", answers, competition) == (1.0, 6)
    write_csv(answers, ["image_id", "truth"], [("t0", "dark")])
    with pytest.raises(Mistakes, match="image_id, truth"):
        score_submission(tmp_path / "submission.csv", answers, competition)


def test_a_failed_check_leaves_the_submission_before(competition, tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("the one before")
    spoilt = dataclasses.replace(competition, test_rows=competition.test_rows[:5])
    with pytest.raises(Mistakes, match="5 rows"):
        write_submission(spoilt, PROBS[:5], path)
    assert path.read_text() == "the one before" and len(list(tmp_path.glob("*submission*"))) == 1


def test_blank_labels_in_the_sample_promise_no_type(small_settings, small_competition, write_csv, tmp_path):
    write_csv(small_competition / "sample_submission.csv", ["image_id", "label"], [[f"t{i}", ""] for i in range(6)])
    write_submission(read(small_settings), PROBS, tmp_path / "submission.csv")


def test_probabilities_that_are_no_numbers_are_refused(competition, tmp_path):
    probs = PROBS.copy()
    probs[2, 0] = np.nan
    with pytest.raises(Mistakes, match="1 rows"):
        write_submission(competition, probs, tmp_path / "submission.csv")
    assert not (tmp_path / "submission.csv").exists()


def test_what_changed_since_the_last_one_is_counted(competition, tmp_path):
    path = tmp_path / "submission.csv"
    assert n_changed(read_submission(path), pd.DataFrame(), competition) == "no previous"
    first = write_submission(competition, PROBS, path)
    before = read_submission(path)
    assert n_changed(before, first, competition) == 0
    other = PROBS.copy()
    other[:2] = other[:2, ::-1]
    assert n_changed(before, write_submission(competition, other, path), competition) == 2


def test_the_score_is_scikit_learns_on_the_answered_rows(competition, tmp_path, write_csv):
    write_submission(competition, PROBS, tmp_path / "submission.csv")  # bright, dark, bright, dark, bright, dark
    answers = tmp_path / "answers.csv"
    write_csv(answers, ["image_id", "label"], [(f"t{i}", "dark" if i % 2 else "bright") for i in (4, 3, 2, 1, 0)])
    assert score_submission(tmp_path / "submission.csv", answers, competition) == (1.0, 5)
    write_csv(answers, ["image_id", "label"], [("t0", "dark"), ("t1", "dark")])
    # bright: never true, once predicted -> 0; dark: 1 hit of 1 predicted and 2 true -> 2/3
    assert score_submission(tmp_path / "submission.csv", answers, competition) == (pytest.approx(1 / 3), 2)
    write_csv(answers, ["image_id", "label"], [("t9", "dark"), ("t1", ""), ("t2", "dark"), ("t2", "dark")])
    with pytest.raises(Mistakes) as caught:
        score_submission(tmp_path / "submission.csv", answers, competition)
    assert len(caught.value.mistakes) == 3  # no row of the submission, no answer, an id again
    with pytest.raises(Mistakes, match="no answers"):
        score_submission(tmp_path / "submission.csv", tmp_path / "absent.csv", competition)
