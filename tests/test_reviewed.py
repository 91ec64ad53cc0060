"""What a hostile reader of the training engine found: each was wrong once."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn import metrics as sk

from pipeline.competition.csv import read
from pipeline.competition.labels import check_class_weights, part_values
from pipeline.config.data import CsvCompetition
from pipeline.config.settings import Experiment
from pipeline.losses import focal
from pipeline.metrics import score


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_a_row_that_is_learnt_by_heart_has_a_gradient(gamma):
    logits = torch.tensor([[40.0, 0.0], [0.3, 0.1]], requires_grad=True)
    focal(logits, torch.tensor([0, 1]), gamma, 0.0).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1].abs().sum() > 0
    several = torch.tensor([[40.0, -40.0]], requires_grad=True)
    focal(several, torch.tensor([[1.0, 0.0]]), gamma, 0.0).sum().backward()
    assert several.grad is not None and several.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:No positive class")
def test_average_precision_of_labels_that_nobody_or_everybody_has_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (40, 4))
    truth[:, 1], truth[:, 2] = 0, 1
    outputs = rng.random((40, 4))
    mine = score("mean_average_precision", truth, outputs, "multilabel")
    assert mine == pytest.approx(sk.average_precision_score(truth, outputs, average="macro"))
    assert score("auc", np.zeros(5, int), rng.random((5, 2))) == 0.5  # nothing to rank
    assert score("r2", np.full(4, 2.0), np.full((4, 1), 2.0), "regression") == sk.r2_score([2.0] * 4, [2.0] * 4)


def declared(root, write_csv, labels, **more) -> CsvCompetition:
    (root / "images").mkdir(parents=True)
    rows = [[f"i{k}", label] for k, label in enumerate(labels)]
    for name, _ in rows:
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "images" / f"{name}.png")
    write_csv(root / "train.csv", ["image_id", "label"], rows)
    return CsvCompetition.model_validate(
        {"source": "csv", "name": "x", "root": str(root), "sample_csv": "none", **more}
    )


def test_the_order_of_ordinal_classes_is_said_or_is_that_of_numbers(tmp_path, write_csv):
    words = declared(tmp_path / "a", write_csv, ["low", "medium", "high"] * 4, target="ordinal")
    assert "competition.classes, from the lowest to the highest" in str(read(words).mistakes[0])
    said = words.model_copy(update={"classes": ("low", "medium", "high")})
    assert read(said).mistakes == [] and read(said).classes == ("low", "medium", "high")
    numbers = declared(tmp_path / "b", write_csv, ["10", "-1", "2", "0.5"] * 3, target="ordinal")
    assert read(numbers).mistakes == [] and read(numbers).classes == ("-1", "0.5", "2", "10")


def test_a_number_that_is_mostly_zero_is_a_target(tmp_path, write_csv):
    found = read(
        declared(tmp_path / "c", write_csv, ["0"] * 95 + ["1.5", "2", "3", "7", "9"], target="regression", metric="mae")
    )
    assert found.mistakes == [] and len(found.classes) == 2
    same = read(declared(tmp_path / "d", write_csv, ["3"] * 20, target="regression", metric="mae"))
    assert "all labels are 3" in str(same.mistakes[0])


def test_heads_of_parts_go_by_the_classes_names_and_not_by_their_places():
    parts = {"sex": {"column": "sex", "values": ["m", "f"]}, "age": {"column": "age", "values": ["y", "o"]}}
    settings = CsvCompetition.model_validate(
        {"source": "csv", "name": "x", "root": ".", "parts": parts, "formula": "2 * sex + age"}
    )
    assert part_values(settings, ("0", "1", "2", "3")) == ((0, 0, 1, 1), (0, 1, 0, 1))
    assert part_values(settings, ("3", "0", "2")) == ((1, 0, 1), (1, 0, 0))


def test_class_weights_name_every_class_and_no_other():
    assert check_class_weights({"low": 1.0, "high": 2.0}, ("low", "high")) == []
    told = " ".join(map(str, check_class_weights({"low": 1.0, "hihg": 2.0}, ("low", "high"))))
    assert "no class 'hihg', did you mean 'high'?" in told and "none for high" in told


PARTS = {
    "source": "digits", "formula": "a", "classes": ["0", "1"],
    "parts": {"a": {"column": "label", "values": ["0", "1"]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"competition": PARTS, "model": {"heads": "parts"}, "train": {"loss": {"name": "bce"}}}, "no probabilities"),
        ({"competition": PARTS | {"target": "ordinal"}, "model": {"heads": "parts"}}, "no probabilities"),
        ({"train": {"loss": {"name": "soft_f1"}, "class_weights": {"name": "inverse"}}}, "has no effect"),
        ({"train": {"loss": {"name": "balanced_softmax", "tau": 3.0}}}, "tau"),
    ],
)
def test_what_would_be_ignored_is_refused(sections, told):
    with pytest.raises(ValidationError, match=told):
        Experiment.model_validate({"competition": {"source": "digits"}} | sections)


def test_another_kind_of_target_is_another_training(finished):
    said, _ = finished.main("train", "experiments/digits.yaml")
    assert "up to date" in said
    said, _ = finished.main(
        "train", "experiments/digits.yaml", "competition.target=ordinal", "train.loss.name=cross_entropy"
    )
    assert "target changed (class to ordinal)" in said
