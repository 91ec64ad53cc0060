"""Optimizers and schedules against torch's own, timm's, and rules worked by hand."""

import warnings
from itertools import pairwise

import pytest
import timm
import timm.scheduler
import torch

from pipeline.config.metric import parse_metric
from pipeline.config.training import Plateau, Train
from pipeline.model import head_parameters
from pipeline.optim import PEAK, build_optimizer, lr_factor, n_drops, set_lr

F1 = parse_metric("macro_f1", "class")
RMSE = parse_metric("rmse", "regression")


def curve(schedule: dict, epochs: int, steps_per_epoch: int, lr: float = 0.1, scores=(), start: int = 0) -> list[float]:
    """The learning rate of every step from `start` on, set on an optimizer as the loop does."""
    settings = Train(epochs=epochs, lr=lr, schedule=schedule)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), set(), settings)
    rates = []
    for step in range(start, epochs * steps_per_epoch):
        seen = list(scores)[: step // steps_per_epoch]
        set_lr(optimizer, lr_factor(settings.schedule, step, steps_per_epoch, epochs, seen, F1))
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def torch_curve(make, n: int, lr: float = 0.1) -> list[float]:
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


S = torch.optim.lr_scheduler
CURVES = {
    "constant": ({"name": "constant"}, lambda o: S.ConstantLR(o, factor=1.0)),
    "step": ({"name": "step", "step_size": 2, "gamma": 0.3}, lambda o: S.StepLR(o, step_size=10, gamma=0.3)),
    "multistep": (
        {"name": "multistep", "milestones": [1, 4], "gamma": 0.5},
        lambda o: S.MultiStepLR(o, milestones=[5, 20], gamma=0.5),
    ),
    "cosine": ({"name": "cosine", "final": 0.05}, lambda o: S.CosineAnnealingLR(o, T_max=30, eta_min=0.005)),
    "onecycle": (
        {"name": "onecycle", "rise": 0.3, "start": 0.04, "final": 4e-6},
        lambda o: S.OneCycleLR(o, max_lr=0.1, total_steps=30, pct_start=0.3, cycle_momentum=False),
    ),
    "polynomial": ({"name": "polynomial", "power": 2.0}, lambda o: S.PolynomialLR(o, total_iters=30, power=2.0)),
}


@pytest.mark.parametrize("name", CURVES)
def test_each_curve_is_torchs_and_a_resumed_run_draws_the_rest_of_it(name):
    mine, theirs = CURVES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OneCycleLR steps once more than it has steps
        expected = torch_curve(theirs, 30)
    assert curve(mine, epochs=6, steps_per_epoch=5) == pytest.approx(expected, abs=1e-9)
    assert curve(mine, epochs=6, steps_per_epoch=5, start=15) == pytest.approx(expected[15:], abs=1e-9)


@pytest.mark.parametrize(("growth", "lengths"), [(1.0, [10, 10, 10]), (2.0, [5, 10, 20])])
def test_cosine_with_restarts_is_timms(growth, lengths):
    n = sum(lengths)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = timm.scheduler.CosineLRScheduler(
        optimizer, t_initial=lengths[0], cycle_mul=growth, cycle_decay=0.5, cycle_limit=3, t_in_epochs=False
    )
    expected = []
    for step in range(n):
        theirs.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    mine = curve({"name": "cosine", "cycles": 3, "cycle_growth": growth, "cycle_decay": 0.5}, 1, n)
    assert mine == pytest.approx(expected)
    assert min(mine) > 0  # no step is wasted


SCORES = [0.3, 0.5, 0.5, 0.49, 0.48, 0.51, 0.4, 0.4, 0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]


@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize(("metric", "mode"), [(F1, "max"), (RMSE, "min")])
@pytest.mark.parametrize("threshold", [0.0, 0.05])
def test_plateau_drops_when_torchs_would_on_the_validation_metric(metric, mode, patience, cooldown, threshold):
    scores = SCORES if mode == "max" else [1 - s for s in SCORES]
    settings = Plateau(name="plateau", factor=0.5, patience=patience, cooldown=cooldown, threshold=threshold)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = S.ReduceLROnPlateau(
        optimizer,
        mode,
        factor=0.5,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        threshold_mode="abs",
        eps=0,
    )
    for i, score in enumerate(scores):
        theirs.step(score)
        assert 0.5 ** n_drops(settings, scores[: i + 1], metric) == optimizer.param_groups[0]["lr"], i
    rising = curve(
        {"name": "plateau", "patience": 1, "warmup_epochs": 4.0}, 8, 3, 1.0, [0.3, 0.2, 0.1, 0.1, 0.5, 0.6, 0.7]
    )
    assert min(rising[12:]) == 1.0  # poor scores while the rate still rises are no plateau
    rates = curve(
        {"name": "plateau", "factor": 0.5, "patience": 1, "warmup_epochs": 1.0, "final": 0.3}, 17, 3, 1.0, SCORES
    )
    assert rates[:3] == pytest.approx([0.25, 0.5, 0.75]) and min(rates[3:]) == 0.3  # never below its floor


@pytest.mark.parametrize("name", sorted({*CURVES, "plateau"} - {"onecycle"}))  # whose rise is its warm-up
def test_warm_up_rises_in_equal_steps_to_the_peak_and_the_schedule_starts_there(name):
    schedule = {**CURVES.get(name, [{"name": name}])[0], "warmup_epochs": 1.5}
    rates = curve(schedule, epochs=5, steps_per_epoch=6, lr=1.0)  # 9 steps of warm-up
    assert rates[:9] == pytest.approx([(i + 1) / 10 for i in range(9)])
    assert rates[9] == pytest.approx(1.0) and max(rates) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "nadamw"])
def test_weight_decay_spares_norms_and_biases(name):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    settings = Train.model_validate({"optimizer": {"name": name, "weight_decay": 0.1}})
    optimizer = build_optimizer(model, set(), settings)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model[0].weight), id(model[2].weight)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_layers_further_from_the_head_learn_slower_and_the_head_at_a_rate_of_its_own():
    model = timm.create_model("test_vit", num_classes=3)
    head = head_parameters(model)
    assert head == {"head.weight", "head.bias"}
    settings = Train.model_validate({"lr": 1.0, "layer_decay": 0.5, "head_lr_ratio": 10.0})
    optimizer = build_optimizer(model, head, settings)
    rate = {id(p): group[PEAK] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert rate[id(named["head.weight"])] == 10.0
    depth = len(model.blocks)
    of_blocks = [rate[id(named[f"blocks.{i}.attn.qkv.weight"])] for i in range(depth)]
    assert all(b == pytest.approx(2 * a) for a, b in pairwise(of_blocks)) and of_blocks[-1] <= 1
    assert rate[id(named["patch_embed.proj.weight"])] < of_blocks[0]
    assert len(rate) == len(named)


def test_options_reach_the_optimizer():
    settings = Train.model_validate({"optimizer": {"name": "adamw", "options": {"betas": [0.8, 0.9], "eps": 1e-6}}})
    [group, *_] = build_optimizer(torch.nn.Linear(2, 2), set(), settings).param_groups
    assert group["betas"] == (0.8, 0.9) and group["eps"] == 1e-6
