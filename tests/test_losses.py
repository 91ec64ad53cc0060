"""Losses: by hand, by torch and timm where they have them, and what each claims about itself."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy

from pipeline.config.losses import LOSSES_OF
from pipeline.config.settings import Experiment
from pipeline.config.training import Train
from pipeline.losses import build_loss, class_weights
from pipeline.task import Task

CLASSES = ("a", "b", "c")
TARGETS = torch.tensor([0] * 6 + [1] * 3 + [2])  # of all training rows: 6, 3, 1
SOFTMAX = Task("class", "softmax", CLASSES)


def rows(loss: dict, logits, targets, task: Task = SOFTMAX, training=TARGETS, **train) -> torch.Tensor:
    return build_loss(Train(loss=loss, **train), task, training)(torch.tensor(logits), torch.tensor(targets))


def logits(*probs: float) -> list[list[float]]:
    return [[math.log(p) for p in probs]]


BY_HAND = {  # probabilities .7 .2 .1, true class b
    "cross_entropy": ({"name": "cross_entropy"}, -math.log(0.2)),
    "smoothed": (
        {"name": "cross_entropy", "label_smoothing": 0.3},
        -(0.8 * math.log(0.2) + 0.1 * math.log(0.7) + 0.1 * math.log(0.1)),
    ),
    "focal": ({"name": "focal", "gamma": 2.0}, -(0.8**2) * math.log(0.2)),
    "focal without focus": ({"name": "focal", "gamma": 0.0}, -math.log(0.2)),
    "logit_adjustment": (
        {"name": "logit_adjustment", "tau": 1.0},
        -math.log(0.2 * 0.3 / (0.7 * 0.6 + 0.2 * 0.3 + 0.1 * 0.1)),
    ),
    "half": (
        {"name": "logit_adjustment", "tau": 0.5},
        -math.log(0.2 * 0.3**0.5 / (0.7 * 0.6**0.5 + 0.2 * 0.3**0.5 + 0.1 * 0.1**0.5)),
    ),
    "balanced_softmax": ({"name": "balanced_softmax"}, -math.log(0.2 * 0.3 / (0.7 * 0.6 + 0.2 * 0.3 + 0.1 * 0.1))),
    "generalized": ({"name": "generalized_cross_entropy", "q": 0.7}, (1 - 0.2**0.7) / 0.7),
    "generalized as absolute error": ({"name": "generalized_cross_entropy", "q": 1.0}, 0.8),
    # reverse cross entropy: -(0.7 * log_zero + 0.2 * log 1 + 0.1 * log_zero)
    "symmetric": (
        {"name": "symmetric_cross_entropy", "alpha": 0.5, "beta": 2.0, "log_zero": -4.0},
        -0.5 * math.log(0.2) + 2 * 4 * 0.8,
    ),
    # one row: class b hits .2; 2 * .2 / (.2 + 1); the others have nothing to hit
    "soft_f1": ({"name": "soft_f1"}, 1 - (2 * 0.2 / 1.2) / 3),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_loss_by_hand(name):
    loss, expected = BY_HAND[name]
    assert rows(loss, logits(0.7, 0.2, 0.1), [1]).item() == pytest.approx(expected, rel=1e-5)


def test_every_loss_gives_a_value_a_row_and_a_finite_gradient_where_it_is_sure_of_itself():
    for name in BY_HAND:
        sure = torch.tensor([[90.0, -90.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
        value = build_loss(Train(loss=BY_HAND[name][0]), SOFTMAX, TARGETS)(sure, torch.tensor([1, 0]))
        assert value.shape == (2,) and value.isfinite().all(), name
        value.sum().backward()
        assert sure.grad.isfinite().all(), name


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_is_timms(smoothing):
    x, y = torch.randn(7, 3), torch.randint(0, 3, (7,))
    mine = build_loss(Train(loss={"name": "bce", "label_smoothing": smoothing}), SOFTMAX, TARGETS)(x, y)
    theirs = BinaryCrossEntropy(smoothing=smoothing, reduction="none")(x, y).mean(dim=1)
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_multilabel_losses_are_torchs():
    task = Task("multilabel", "sigmoid", CLASSES)
    x, y = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    mine = build_loss(Train(loss={"name": "bce"}), task, y)(x, y)
    assert torch.allclose(mine, F.binary_cross_entropy_with_logits(x, y, reduction="none").mean(dim=1))
    focal = build_loss(Train(loss={"name": "focal", "gamma": 0.0}), task, y)(x, y)
    assert torch.allclose(focal, mine, atol=1e-6)
    # one label by hand: p = .8, true: (1 - .8)^2 * -log .8
    one = build_loss(Train(loss={"name": "focal"}), task, y)(torch.full((1, 3), math.log(4.0)), torch.ones(1, 3))
    assert one.item() == pytest.approx(-(0.2**2) * math.log(0.8), rel=1e-5)


@pytest.mark.parametrize(
    ("rule", "raw"),
    [
        ({"name": "inverse"}, [1 / 6, 1 / 3, 1.0]),
        ({"name": "inverse", "power": 0.5}, [6**-0.5, 3**-0.5, 1.0]),
        ({"name": "effective", "beta": 0.9}, [0.1 / (1 - 0.9**6), 0.1 / (1 - 0.9**3), 1.0]),
        ({"name": "given", "weights": {"a": 1.0, "b": 2.0, "c": 5.0}}, [1.0, 2.0, 5.0]),
    ],
)
def test_class_weights_have_their_proportions_and_a_mean_of_one(rule, raw):
    config = Train(class_weights=rule)
    weights = class_weights(config, SOFTMAX, torch.tensor([6, 3, 1]))
    assert weights.tolist() == pytest.approx((np.array(raw) / (np.array(raw) @ [6, 3, 1]) * 10).tolist())
    assert weights[TARGETS].mean().item() == pytest.approx(1)
    x, y = torch.randn(10, 3), TARGETS
    mine = build_loss(config, SOFTMAX, TARGETS)(x, y)
    theirs = F.cross_entropy(x, y, weight=weights)  # which divides by the sum of the weights, here the number of rows
    assert mine.mean().item() == pytest.approx(theirs.item(), rel=1e-5)


def test_a_class_without_training_rows_breaks_no_weight():
    weights = class_weights(Train(class_weights={"name": "inverse"}), SOFTMAX, torch.tensor([6, 0, 2]))
    assert weights.isfinite().all() and weights[1] == 0


def test_heads_of_a_label_in_parts_are_trained_each_by_itself_and_sum_up():
    """Six classes of two parts; the loss is -log of the product of the parts' probabilities."""
    classes = tuple(str(i) for i in range(6))
    task = Task("class", "parts", classes, parts=((0, 0, 0, 1, 1, 1), (0, 1, 2, 0, 1, 2)))
    assert task.n_logits == 5
    x, y = torch.randn(8, 5), torch.arange(8) % 6
    mine = build_loss(Train(), task, y)(x, y)
    probs = task.outputs(x)
    assert torch.allclose(probs.sum(dim=1), torch.ones(8), atol=1e-6)
    assert torch.allclose(mine, -probs[torch.arange(8), y].log(), atol=1e-5)
    by_hand = x[0, :2].softmax(0)[1] * x[0, 2:].softmax(0)[2]
    assert probs[0, 5].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_corn_by_hand_and_its_outputs_are_probabilities():
    task = Task("ordinal", "corn", ("low", "middle", "high"))
    x = torch.tensor([[math.log(0.6 / 0.4), math.log(0.3 / 0.7)]])  # P(y > 0) = .6, P(y > 1 | y > 0) = .3
    assert task.outputs(x)[0].tolist() == pytest.approx([0.4, 0.6 * 0.7, 0.6 * 0.3])
    for target, expected in ((0, -math.log(0.4)), (1, -math.log(0.6) - math.log(0.7)), (2, -math.log(0.6 * 0.3))):
        value = build_loss(Train(loss={"name": "corn"}), task, torch.tensor([0, 1, 2]))(x, torch.tensor([target]))
        assert value.item() == pytest.approx(expected / 2, rel=1e-5)
    probs = task.outputs(torch.randn(100, 2) * 5)
    assert (probs >= 0).all() and torch.allclose(probs.sum(dim=1), torch.ones(100), atol=1e-6)


@pytest.mark.parametrize(("name", "of"), [("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.huber_loss)])
def test_regression_is_learned_in_standard_deviations_and_answered_in_the_organisers_units(name, of):
    targets = torch.tensor([100.0, 300.0, 200.0])
    task = Task("regression", "number", ()).fitted(targets)
    x = torch.tensor([[-0.5], [2.0], [0.1]])
    mine = build_loss(Train(loss={"name": name}), task, targets)(x, targets)
    standard = (targets - targets.mean()) / targets.std(correction=0)
    assert torch.allclose(mine, of(x[:, 0], standard, reduction="none"), atol=1e-6)
    assert task.outputs(torch.zeros(1, 1)).item() == pytest.approx(200.0)


def test_one_vs_all_outputs_are_shares_of_the_sigmoids():
    out = Task("class", "one_vs_all", CLASSES).outputs(torch.tensor([[0.0, 0.0, math.log(3.0)]]))
    assert out[0].tolist() == pytest.approx([0.5 / 1.75, 0.5 / 1.75, 0.75 / 1.75])


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"loss": {"name": "focal"}}, "competition": {"target": "regression", "metric": "rmse"}}, "focal"),
        ({"augment": {"mixup": 0.2}, "competition": {"target": "ordinal"}}, "mixup"),
        ({"train": {"loss": {"name": "soft_f1"}}, "augment": {"cutmix": 1.0}}, "soft_f1"),
        ({"train": {"sampler": {"name": "balanced"}}, "competition": {"target": "multilabel"}}, "sampler"),
        ({"train": {"class_weights": {"name": "inverse"}}, "competition": {"target": "multilabel"}}, "class_weights"),
        ({"model": {"heads": "parts"}}, "competition.parts"),
        ({"competition": {"metric": "rmse"}}, "competition.metric=rmse"),
        ({"competition": {"metric": "auc", "target": "regression"}}, "rmse"),
        ({"train": {"freeze_epochs": 10}}, "freeze_epochs"),
        ({"train": {"seeds": [1, 1]}}, "seed"),
        ({"augment": {"crop_area": [0.9, 0.2]}}, "crop_area"),
    ],
)
def test_settings_that_cannot_work_together_are_refused_with_the_reason(sections, words):
    competition = {"source": "digits", **sections.pop("competition", {})}
    with pytest.raises(ValueError, match=words):
        Experiment.model_validate({"competition": competition, **sections})


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("class", "ordinal", "multilabel") for name in LOSSES_OF[kind]]
)
def test_a_class_without_training_rows_becomes_improbable(kind, name):
    """The second of three, as `Task.outputs` says it, after one vector of logits has learnt the other two."""
    links = {"corn": "corn", "bce": "sigmoid" if kind == "multilabel" else "one_vs_all"}
    link = "sigmoid" if kind == "multilabel" else links.get(name, "softmax")
    task, targets = Task(kind, link, CLASSES), torch.tensor([0, 0, 0, 2, 2])
    targets = F.one_hot(targets, 3).float() if kind == "multilabel" else targets
    loss = build_loss(Train(loss={"name": name}), task, targets)
    learnt = torch.zeros(1, task.n_logits, requires_grad=True)
    optimizer = torch.optim.Adam([learnt], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(learnt.expand(len(targets), -1), targets).mean().backward()
        optimizer.step()
    [probs] = task.outputs(learnt.detach())
    assert 0 <= probs[1] < 0.1 and probs.isfinite().all()
    assert probs[[0, 2]].min() > 0.02 or name == "soft_f1"
