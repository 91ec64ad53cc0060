"""The embedded competition is what its description says, judged against scikit-learn's own data."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.competition import digits


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "digits"
    digits.write(root)
    return root


def test_images_are_the_bundled_digits(root):
    bundled = load_digits()
    assert len(list((root / "images").iterdir())) == 1797
    for index in (0, 7, 1796):
        with Image.open(root / "images" / f"{index:04d}.png") as image:
            assert image.mode == "L" and image.size == (8, 8)
            expected = [[round(value * 255 / 16) for value in row] for row in bundled.images[index]]
            assert np.asarray(image).tolist() == expected


def test_tables_have_the_promised_rows_stratified_and_disjoint(root):
    train, sample, answers = (
        pd.read_csv(root / name, dtype={"image_id": str})
        for name in ("train.csv", "sample_submission.csv", "answers.csv")
    )
    for table, n in ((train, 1197), (sample, 600), (answers, 600)):
        assert list(table.columns) == ["image_id", "label"] and len(table) == n
    assert not set(train["image_id"]) & set(sample["image_id"])
    assert list(sample["image_id"]) == list(answers["image_id"])
    assert set(sample["label"]) == {0}  # a placeholder: no answer leaks
    truth = load_digits().target
    for table in (train, answers):
        assert (table["label"] == truth[table["image_id"].astype(int)]).all()
    shares = answers["label"].value_counts(normalize=True) - train["label"].value_counts(normalize=True)
    assert shares.abs().max() < 0.002


def test_writing_it_again_gives_the_same_bytes_and_an_existing_one_is_left_alone(root, tmp_path):
    digits.write(tmp_path / "again")
    for name in ("train.csv", "sample_submission.csv", "answers.csv", "images/0000.png"):
        assert (tmp_path / "again" / name).read_bytes() == (root / name).read_bytes()
    (tmp_path / "again" / "train.csv").write_text("mine")
    digits.write(tmp_path / "again")
    assert (tmp_path / "again" / "train.csv").read_text() == "mine"


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(digits, "_write_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        digits.write(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []
