"""Which classes there are: those that are declared or have a column, spelt in one way, with or without training rows."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.competition.contract import labels_of
from pipeline.competition.csv import read
from pipeline.config.data import CsvCompetition


@pytest.fixture
def opened(tmp_path, write_csv):
    """A competition of these training labels. sample: a cell for each test row, or a header of class columns."""

    def make(labels, sample=("",), columns=(), **more):
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in [*(f"i{k}" for k in range(len(labels))), "t0"]:
            Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "images" / f"{name}.png")
        write_csv(tmp_path / "train.csv", ["image_id", "label"], [[f"i{k}", v] for k, v in enumerate(labels)])
        header = ["image_id", *(columns or ["label"])]
        cells = [["t0", *("0.5" for _ in columns)]] if columns else [["t0", cell] for cell in sample[:1]]
        write_csv(tmp_path / "sample_submission.csv", header, cells)
        return read(CsvCompetition.model_validate({"source": "csv", "name": "x", "root": str(tmp_path), **more}))

    return make


def counted(competition):
    return dict(Counter(label for row in competition.train_rows for label in labels_of(row)))


def notes(competition):
    return " | ".join(map(str, competition.notes))


def test_a_column_of_the_sample_is_a_class_though_no_row_has_it(opened):
    found = opened(["a", "b", "c"] * 4, columns=("c", "a", "e", "b"), metric="log_loss")
    assert found.mistakes == [] and found.classes == ("a", "b", "c", "e")
    assert "no row of 1 of 4 classes: 'e'" in notes(found)


def test_a_declared_class_needs_no_row_and_a_misspelt_one_is_told(opened):
    found = opened(["0", "1", "2", "4"] * 3, classes=["0", "1", "2", "3", "4"], metric="quadratic_kappa")
    assert found.mistakes == [] and found.classes == ("0", "1", "2", "3", "4") and "'3'" in notes(found)
    wrong = opened(["cat", "dog"] * 3, classes=["cat", "dgo"])
    assert len(wrong.mistakes) == 3 + 1 and "did you mean 'dgo'" in str(wrong.mistakes[0])
    column = opened(["cat", "dog"] * 3, columns=("cat", "Dog"))
    assert "no column dog; no class Dog" in str(column.mistakes[0])
    declared = opened(["cat", "dog"] * 3, columns=("cat", "dog"), classes=["cat", "dog", "eel"])
    assert "no column eel" in str(declared.mistakes[0])
    alone = opened(["cat"] * 6, classes=["cat", "dog"])
    assert "1 class in column 'label'" in str(alone.mistakes[0])


def test_a_gap_in_a_scale_is_noted_and_an_order_against_the_numbers_is_refused(opened):
    gap = opened(["0", "1", "2", "4"] * 3, target="ordinal", metric="quadratic_kappa")
    assert gap.mistakes == [] and gap.classes == ("0", "1", "2", "4") and "no row of '3' on the scale" in notes(gap)
    assert "scale" not in notes(opened(["0", "4"] * 3))
    mixed = opened(["1", "2", "3"] * 3, target="ordinal", metric="mae", classes=["1", "3", "2"])
    assert "neither rise nor fall" in str(mixed.mistakes[0])
    assert opened(["1", "2", "3"] * 3, target="ordinal", metric="mae", classes=["3", "2", "1"]).mistakes == []


def test_labels_that_went_through_a_column_of_floats_are_the_samples_classes(opened):
    found = opened(["0.0", "1.0", "2.0"] * 4, columns=("0", "1", "2"))
    assert found.mistakes == [] and found.classes == ("0", "1", "2") and counted(found) == {"0": 4, "1": 4, "2": 4}
    written = opened(["0.0", "1.0", "2.0"] * 4, sample=("0",))
    assert written.mistakes == [] and written.label_texts == ("0", "1", "2")
    declared = opened(["0.0", "1.0", "2.0"] * 4, classes=["0", "1", "2"])
    assert declared.mistakes == [] and counted(declared) == {"0": 4, "1": 4, "2": 4}
    mixed = opened(["0", "1", "1.0", "2"] * 4)
    assert mixed.mistakes == [] and counted(mixed) == {"0": 4, "1": 8, "2": 4} and "'1.0' (4 rows" in notes(mixed)
    several = opened(["0 1", "1.0", "0.0 2", ""] * 4, target="multilabel", columns=("0", "1", "2"))
    assert several.mistakes == [] and counted(several) == {"0": 8, "1": 8, "2": 4}


def test_spellings_of_one_number_stop_the_run_unless_declared(opened):
    labels = ["0", "1", "1.0", "01"] * 4
    [told] = map(str, opened(labels).mistakes)
    for part in ("'1' (4 rows, first in", "train.csv:3", "'1.0' (4 rows", "'01' (4 rows", "competition.classes"):
        assert part in told
    assert counted(opened(labels, classes=["0", "1"])) == {"0": 4, "1": 12}
    apart = opened(labels, classes=["0", "1", "1.0", "01"])
    assert apart.mistakes == [] and counted(apart) == {"0": 4, "1": 4, "1.0": 4, "01": 4}
    codes = opened(["01", "02", "12"] * 4)
    assert codes.mistakes == [] and codes.classes == codes.label_texts == ("01", "02", "12")


@pytest.mark.parametrize(
    ("labels", "cell", "texts"),
    [
        (["01", "02"], "0", ("01", "02")),  # the cell is no class and says the type alone
        (["01", "02"], "1", ("1", "2")),  # it is class 01, without its zero
        (["1", "12"], "01", ("01", "12")),
        (["1", "2"], "0.0", ("1.0", "2.0")),
        (["1.0", "2.5"], "2.5", ("1.0", "2.5")),
        (["a", "b"], "b", ("a", "b")),
    ],
)
def test_the_file_says_a_number_as_the_sample_does(opened, labels, cell, texts):
    found = opened(labels * 4, sample=(cell,))
    assert found.mistakes == [] and found.label_texts == texts
