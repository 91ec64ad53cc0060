"""The first look: shift against memory, forgotten groups against chance, and what stands apart."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import f1_score, roc_auc_score

from pipeline.competition.contract import SEVERAL, VALUE, WHERE, Competition
from pipeline.eda import shift
from pipeline.eda import shortcuts as measured
from pipeline.eda.groups import _auc_by_group, possible_groups
from pipeline.eda.pictures import describe_images, outliers
from pipeline.eda.shift import measure_shift
from pipeline.eda.shortcuts import _score, in_words, measure_shortcuts
from pipeline.eda.tables import conflicts, describe_tables
from pipeline.images.facts import RECORD


def facts(n: int, people: np.ndarray, seed: int, brighter: float = 0.0) -> np.ndarray:
    """Records of photos: what a person looks like, and a little of each shot's own."""
    rng = np.random.default_rng(seed)
    out = np.zeros(n, RECORD)
    out["width"], out["height"], out["mode"], out["format"] = 100, 80, b"RGB", b"JPEG"
    looks = np.stack([np.random.default_rng([77, p]).normal(0.5, 0.12, 48) for p in people])
    own = (looks + rng.normal(0, 0.03, (n, 48)) + brighter).clip(0, 1)
    out["colour"] = (own * 255).astype(np.uint8).reshape(n, 4, 4, 3)
    out["mean"] = own.reshape(n, 16, 3).mean(axis=1)
    out["sq"] = out["mean"] ** 2 + own.reshape(n, 16, 3).var(axis=1)
    out["brightness"], out["contrast"], out["blur"] = (
        out["mean"].mean(axis=1),
        own.std(axis=1),
        np.exp(rng.normal(-5, 0.3, n)),
    )
    out["thumb"] = rng.integers(0, 255, (n, 32, 32, 3))
    return out


def codes(people) -> np.ndarray:
    """Units in the order of the groups' names, as `grouping.units` gives them."""
    return np.unique(np.array(people).astype(str), return_inverse=True)[1]


@pytest.fixture
def few(monkeypatch) -> None:
    """Six comparisons of training parts, as with thousands of images, for the sake of seconds."""
    monkeypatch.setattr(shift, "N_NULL", (6, 6))


@pytest.mark.usefixtures("few")
def test_other_persons_are_no_shift_though_a_classifier_knows_them():
    train, test = np.repeat(np.arange(80), 6), np.repeat(np.arange(80, 130), 6)
    result = measure_shift(facts(480, train, 0), facts(300, test, 1), codes(train), 0)
    assert result["verdict"] == "alike"
    assert result["auc"] > 0.6  # naively read: a shift
    assert result["null_high"] > result["auc"] - 0.02


@pytest.mark.usefixtures("few")
def test_a_real_shift_is_found_and_named():
    train, test = np.repeat(np.arange(80), 6), np.repeat(np.arange(80, 130), 6)
    result = measure_shift(facts(480, train, 0), facts(300, test, 1, brighter=0.25), codes(train), 0)
    assert result["verdict"] == "shifted" and result["auc"] > 0.9 and result["low"] <= result["auc"] <= result["high"]
    assert measure_shift(facts(480, train, 0), facts(300, test, 1)[:0], codes(train), 0)["verdict"] == "not measured"


def competition(people, ids=None, groups=False, labels=None, **columns) -> Competition:
    rows = []
    for i, person in enumerate(people):
        row = {
            "image_id": ids[i] if ids else f"i{i}",
            "path": f"images/{i}.jpg",
            "label": labels[i] if labels else "ab"[person % 2],
            WHERE: f"t:{i}",
        }
        row |= {name: str(values[i]) for name, values in columns.items()}
        rows.append(row | ({"group": str(person)} if groups else {}))
    return Competition("c", "macro_f1", ("a", "b"), groups, rows, [], ("image_id", "label"), None, ("a", "b"))


@pytest.fixture
def people() -> np.ndarray:
    return np.repeat(np.arange(60), 4)


def test_a_forgotten_group_shows_in_a_column_or_in_the_ids_and_chance_does_not(people):
    seen = facts(240, people, 0)
    rng = np.random.default_rng(0)
    ids = [f"p{person:02d}_{i}" for i, person in enumerate(people)]
    noise, age = rng.integers(0, 60, 240), rng.integers(20, 70, 240)
    found = possible_groups(
        competition(people, ids, patient=people, noise=noise, age=age), seen["thumb"], seen["colour"], np.arange(240), 0
    )
    assert [(f["what"], f["setting"]) for f in found] == [("column 'patient'", "competition.group_column: patient")]
    assert found[0]["n_groups"] == 60 and found[0]["low"] > 0.8
    found = possible_groups(competition(people, ids), seen["thumb"], seen["colour"], np.arange(240), 0)
    assert [f["setting"] for f in found] == ["competition.group_pattern: '^([^_]+)_'"]
    numbered = [f"img_{i}" for i in range(240)]
    assert possible_groups(competition(people, numbered), seen["thumb"], seen["colour"], np.arange(240), 0) == []


def test_what_is_declared_is_not_suggested_again(people):
    seen = facts(240, people, 0)
    declared = competition(people, groups=True, patient=people)
    assert possible_groups(declared, seen["thumb"], seen["colour"], codes(people), 0) == []


def test_the_likeness_is_scikit_learns_auc():
    rng = np.random.default_rng(0)
    alike, other, group = rng.normal(1, 1, 300), rng.normal(0, 1, 300), rng.integers(0, 50, 300)
    auc, low, high = _auc_by_group(alike, other, group, rng)
    assert auc == pytest.approx(roc_auc_score([1] * 300 + [0] * 300, np.concatenate([alike, other])))
    assert low < auc < high and high - low < 0.15


def test_tables_are_counted(people):
    data = describe_tables(competition(people, groups=True))
    assert data["n_groups"] == 60 and data["group_sizes"] == {"4": 60} and data["imbalance_ratio"] == 1.0
    assert [(entry["name"], entry["n"], entry["share"]) for entry in data["classes"]] == [
        ("a", 120, 0.5),
        ("b", 120, 0.5),
    ]


def test_labels_that_vary_as_a_rule_are_no_contradiction(people):
    labels = ["ab"[p % 2] for p in people]
    assert conflicts(competition(people, groups=True, labels=labels)) == []
    labels[5] = "a"
    [conflict] = conflicts(competition(people, groups=True, labels=labels))
    assert conflict["group"] == "1" and conflict["counts"] == {"b": 3, "a": 1} and conflict["ids"]["a"] == ["i5"]
    varying = ["ab"[i % 2] for i in range(240)]
    assert conflicts(competition(people, groups=True, labels=varying)) == []


def test_means_and_deviations_are_those_of_all_pixels_and_histograms_share_their_edges():
    train, test = facts(200, np.arange(200), 0), facts(90, np.arange(90), 1, 0.1)
    data = describe_images(train, test)
    assert data["train"]["mean"] == pytest.approx(train["mean"].mean(axis=0), abs=1e-4)
    assert data["train"]["std"] == pytest.approx(
        np.sqrt(train["sq"].mean(axis=0) - train["mean"].mean(axis=0) ** 2), abs=1e-4
    )
    assert data["train"]["brightness"]["edges"] == data["test"]["brightness"]["edges"]
    assert sum(data["train"]["brightness"]["counts"]) == 200 and sum(data["test"]["contrast"]["counts"]) == 90
    assert describe_images(train, test[:0])["test"]["n"] == 0


def test_what_stands_apart_is_found_and_ordinary_images_are_not():
    seen = facts(300, np.arange(300), 0)
    assert outliers(seen) == {}
    seen["brightness"][[3, 4]], seen["contrast"][5], seen["blur"][6] = (0.01, 0.02), 0.001, 1e-7
    found = outliers(seen)
    assert found["dark"].tolist() == [3, 4] and found["flat"].tolist() == [5] and found["blurred"].tolist() == [6]


def shortcuts(labels, ids=None, groups=None, target="class", test=0, **columns) -> dict[str, dict]:
    """What `measure_shortcuts` finds, by what it is of; columns: facts of each row, beside those of plain photos."""
    n = len(labels)
    rng = np.random.default_rng(0)
    rows = facts(n + test, np.arange(n + test), 0)
    rows["width"], rows["n_bytes"] = rng.integers(90, 110, len(rows)), rng.integers(4000, 9000, len(rows))
    for name, values in columns.items():
        rows[name][:n] = values
    given = Competition(
        "c", "macro_f1", tuple(sorted(set(map(str, labels)))), groups is not None,
        [{"image_id": ids[i] if ids else f"{(i * 7919) % 1000003}", "path": f"i/{i}.jpg", "label": str(label),
          WHERE: f"t.csv:{2 + i}", **{"regression": {VALUE: str(label)}, "multilabel": {SEVERAL: label}}.get(target, {})}
         for i, label in enumerate(labels)],
        [{"image_id": f"{9000 + i}", "path": f"i/t{i}.jpg"} for i in range(test)],
        ("image_id", "label"), None, (), target=target)  # fmt: skip
    return {
        found["of"]: found
        for found in measure_shortcuts(given, rows[:n], rows[n:], np.arange(n) if groups is None else groups, 0)
    }


@pytest.fixture
def few_shuffles(monkeypatch) -> None:
    monkeypatch.setattr(measured, "N_NULL", (4, 6))


THREE = np.random.default_rng(5).integers(0, 3, 150)


@pytest.mark.parametrize(
    ("columns", "fact"),
    [
        ({"width": np.where(THREE == 1, 103, 100)}, "width"),
        ({"quantisation": np.where(THREE == 2, 15.9, 7.2)}, "JPEG quantisation"),
        ({"extras": np.where(THREE == 0, b"exif jfif", b"jfif")}, "EXIF"),
        ({"mode": np.where(THREE == 0, b"L", b"RGB")}, "colour mode"),
    ],
)
@pytest.mark.usefixtures("few_shuffles")
def test_a_fact_of_the_file_that_goes_with_a_class_is_told_with_what_to_do(columns, fact):
    found = shortcuts(THREE.tolist(), test=60, **columns)
    assert found["the file"]["told"] and found["the file"]["facts"][0][0] == fact and not found["the name"]["told"]
    level, title, seen, do, setting = in_words(found["the file"])
    assert level == "warning" and title.lower().startswith(fact.lower()) and do and setting
    if fact == "width":
        assert "Its median is 103 in class 1 and 100 elsewhere." in seen and "spread otherwise" in seen


@pytest.mark.usefixtures("few_shuffles")
def test_ids_in_the_order_of_the_classes_are_told_and_plain_files_are_not():
    in_order = {int(row): place for place, row in enumerate(np.argsort(THREE, kind="stable"))}
    found = shortcuts(THREE.tolist(), ids=[f"img_{in_order[i]:04d}" for i in range(150)], test=60)
    assert found["the name"]["told"] and found["the name"]["facts"][0][0] == "number in the id"
    assert found["the name"]["on_test"] == "other" and in_words(found["the name"])[0] == "note"
    assert not found["the file"]["told"]
    spread = shortcuts(THREE.tolist(), ids=[f"{9000 + in_order[i]}" for i in range(150)], test=150)["the name"]
    assert spread["on_test"] == "alike" and in_words(spread)[0] == "warning" and "leak" in in_words(spread)[3]
    # the size of a file follows from what it shows: a plain set of discs and rings differs by it throughout
    plain = shortcuts(THREE.tolist(), test=60, n_bytes=3000 + 900 * THREE)
    assert not any(entry["told"] for entry in plain.values())
    assert plain["the file"]["score_with_bytes"] > 0.8


@pytest.mark.usefixtures("few_shuffles")
def test_groups_are_kept_whole_and_their_labels_shuffled_as_one():
    """Each group has one width and one label, by chance: row by row the widths would know the labels."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 8)
    labels, widths = rng.integers(0, 2, 40)[group], (100 + rng.permutation(40))[group]
    shuffled = rng.permutation(320)
    apart = shortcuts(labels[shuffled].tolist(), width=widths[shuffled])
    whole = shortcuts(labels[shuffled].tolist(), groups=group[shuffled], width=widths[shuffled])
    assert apart["the file"]["told"] and not whole["the file"]["told"] and whole["the file"]["score"] < 0.75


@pytest.mark.usefixtures("few_shuffles")
def test_numbers_and_several_labels_are_told_as_well_and_thirty_rows_are_no_trouble():
    rng = np.random.default_rng(0)
    ages = rng.normal(40, 12, 120).round(1)
    found = shortcuts(ages.tolist(), target="regression", width=100 + ages.astype(int))
    assert found["the file"]["told"] and found["the file"]["facts"][0][0] == "width"
    assert found["the file"]["score"] > 0.9 and not found["the name"]["told"]
    tags = ["\x1f".join(tag for tag in "abc" if rng.random() < 0.4) for _ in range(150)]
    found = shortcuts(tags, target="multilabel", quantisation=[9 if "b" in tag else 5 for tag in tags])
    assert found["the file"]["told"] and found["the file"]["class"] == "b"
    assert not any(entry["told"] for entry in shortcuts(THREE[:30].tolist()).values())
    assert shortcuts([0, 1])["the file"]["why_not"] and "none varies" in in_words(shortcuts([0, 1])["the file"])[2]


def test_scores_of_shortcuts_are_those_of_the_libraries():
    rng = np.random.default_rng(0)
    y, said = rng.random((2, 90, 4)) < 0.3
    sums = np.hstack([2 * (y * said), y.astype(int) + said]).sum(axis=0)
    assert _score(sums, 2) == pytest.approx(f1_score(y, said, average="macro"))
    a, b = rng.integers(0, 9, (2, 90)).astype(float)
    x, y = (rankdata(values) for values in (a, b))
    sums = np.array([90, x.sum(), y.sum(), (x * y).sum(), (x * x).sum(), (y * y).sum()])
    assert _score(sums, 1) == pytest.approx(spearmanr(a, b).statistic)
