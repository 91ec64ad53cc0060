"""Labels of several parts: declared rules and a formula give the classes that the organisers' own table gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.competition.contract import PART, TEXT, WHERE
from pipeline.competition.labels import check_label_bounds, place_of, scheme, training_labels
from pipeline.config.data import CsvCompetition, Part

PARTS = {
    "mask": {"column": "file", "values": ["wear", "incorrect", "normal"],
             "match": {"mask*": "wear", "incorrect_mask": "incorrect", "normal": "normal"}},
    "gender": {"column": "gender", "values": ["male", "female"]},
    "age": {"column": "age", "values": ["<30", "30-59", ">=60"], "bounds": [30, 60]},
}  # fmt: skip


def declared(**changes) -> CsvCompetition:
    data = {"source": "csv", "name": "c", "root": "r", "parts": PARTS, "formula": "6 * mask + 3 * gender + age"}
    return CsvCompetition.model_validate(data | changes)


# the organisers' own table of the 18 classes, typed from their description, not computed
ORGANISERS = [
    ("mask1", "male", "29", "0"), ("mask5", "male", "30", "1"), ("mask3", "male", "60", "2"),
    ("mask2", "female", "18", "3"), ("mask4", "female", "59", "4"), ("mask1", "female", "75", "5"),
    ("incorrect_mask", "male", "20", "6"), ("incorrect_mask", "male", "45", "7"), ("incorrect_mask", "male", "60", "8"),
    ("incorrect_mask", "female", "29", "9"), ("incorrect_mask", "female", "30", "10"), ("incorrect_mask", "female", "61", "11"),
    ("normal", "male", "1", "12"), ("normal", "male", "59.5", "13"), ("normal", "male", "99", "14"),
    ("normal", "female", "29.9", "15"), ("normal", "female", "40", "16"), ("normal", "female", "60.0", "17"),
]  # fmt: skip


def test_the_eighteen_classes_of_the_mask_competition():
    own = scheme(declared(), [])
    for file, gender, age, expected in ORGANISERS:
        assert own.read({"file": file, "gender": gender, "age": age, WHERE: "t:1"}, "x", [])["label"] == expected
    assert own.classes == tuple(str(n) for n in range(18))
    assert own.means(["0", "11"]) == ("wear, male, <30", "incorrect, female, >=60")


@given(age=st.floats(-5, 130), low=st.integers(1, 60), more=st.integers(1, 40))
def test_bounds_cut_where_they_say(age, low, more):
    part = Part(column="age", values=("young", "middle", "old"), bounds=(float(low), float(low + more)))
    expected = 0 if age < low else 1 if age < low + more else 2
    assert place_of(part, str(age)) == expected


@pytest.mark.parametrize("text", ["", "unknown", "nan", "inf", "30 years"])
def test_what_is_no_number_is_told(text):
    mistakes = []
    row = scheme(declared(), []).read({"file": "mask1", "gender": "mael", "age": text, WHERE: "t.csv:7"}, "x", mistakes)
    assert row["label"] == ""
    assert [m.where for m in mistakes] == ["t.csv:7", "t.csv:7"]
    assert "did you mean 'male'" in str(mistakes[0]) and "is no age; valid: a number" in str(mistakes[1])


@pytest.mark.parametrize(
    ("formula", "part"),
    [
        ("mask + gender + age", "gives 1 for (wear, male, 30-59) and (wear, female, <30)"),
        ("6 * mask + 3 * gendre + age", "'gendre' is no part, did you mean 'gender'?"),
        ("6 * mask - 3 * gender + age", "gives -3 for (wear, female, <30)"),
        ("__import__('os').getcwd()", "something else than whole numbers"),
        ("mask ** 99999999", "something else"),
        ("6 * mask +", "invalid syntax"),
        ("(" * 500 + "mask" + ")" * 500, "too many nested"),
        ("1000000 * 1000000 * 1000000 * mask + gender", "beyond reason"),
    ],
)
def test_a_formula_gives_each_combination_a_class_of_its_own_or_is_told(formula, part):
    mistakes = []
    scheme(declared(formula=formula), mistakes)
    assert len(mistakes) == 1 and part in str(mistakes[0]) and "18 * " not in str(mistakes[0])
    assert "e.g. 6 * mask + 3 * gender + age" in str(mistakes[0])


@pytest.mark.parametrize(
    "part",
    [
        {"column": "age", "values": ["a", "b"], "bounds": [1, 2]},
        {"column": "age", "values": ["a", "b", "c"], "bounds": [60, 30]},
        {"column": "age", "values": ["a", "a"]},
        {"column": "age", "values": ["a", "b"], "match": {"x": "c"}},
        {"column": "age", "values": ["a", "b"], "bounds": [1], "match": {"x": "a"}},
    ],
)
def test_a_part_that_contradicts_itself_is_refused(part):
    with pytest.raises(ValidationError):
        Part.model_validate(part)


def rows(*people) -> list[dict]:
    own = scheme(declared(), [])
    raw = [{"file": f, "gender": g, "age": a, WHERE: "t:1"} for f, g, a in people]
    return [{**row, **own.read(row, "x", [])} for row in raw]


def test_other_bounds_change_what_is_trained_on_and_not_what_was_labelled_by_hand():
    table = rows(("mask1", "male", "57"), ("mask1", "male", "58"), ("mask1", "male", "60"), ("normal", "female", "59"))
    assert [row["label"] for row in table] == ["1", "1", "2", "16"]
    assert training_labels(table, declared(), {"age": (30.0, 58.0)}) == ["1", "2", "2", "17"]
    assert training_labels(table, declared(), {}) == ["1", "1", "2", "16"]
    scheme(declared(), []).set_label(table[1], "4")  # a person's gender, mended by hand
    assert table[1][PART + "gender"] == "female" and table[1][TEXT + "age"] == "58"
    assert training_labels(table, declared(), {"age": (30.0, 58.0)})[1] == "4"


def test_bounds_for_training_must_fit_the_part():
    assert check_label_bounds(declared(), {"age": (30.0, 59.0)}) == []
    told = [str(m) for m in check_label_bounds(declared(), {"aeg": (30.0, 58.0), "age": (58.0,), "mask": (1.0,)})]
    assert len(told) == 3 and "did you mean 'age'" in told[0] and "1 bounds for 3 values" in told[1]
