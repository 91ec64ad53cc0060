"""Optimizers and schedules against torch's own."""

import pytest
import torch

from pipeline.config.settings import Constant, Cosine, Step, Train
from pipeline.optim import build_optimizer, build_scheduler, lr_factor


def curve(settings: Train, steps_per_epoch: int) -> list[float]:
    """The learning rate that each step is taken with."""
    optimizer = build_optimizer(torch.nn.Linear(2, 2), settings)
    scheduler = build_scheduler(optimizer, settings, steps_per_epoch)
    rates = []
    for _ in range(settings.epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def torch_curve(make, n: int, lr: float) -> list[float]:
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs():
    settings = Train(epochs=4, lr=0.1, schedule=Cosine(name="cosine", final=0.05))
    theirs = torch_curve(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=39, eta_min=0.005), 40, 0.1)
    assert curve(settings, 10) == pytest.approx(theirs)


def test_step_is_torchs_step_lr():
    settings = Train(epochs=6, lr=0.1, schedule=Step(name="step", step_size=2, gamma=0.3))
    theirs = torch_curve(lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=10, gamma=0.3), 30, 0.1)
    assert curve(settings, 5) == pytest.approx(theirs)


@pytest.mark.parametrize("schedule", [Constant, Cosine, Step])
def test_warm_up_rises_in_equal_steps_to_the_peak_and_the_schedule_starts_there(schedule):
    settings = Train(epochs=5, lr=1.0, schedule=schedule(name=schedule.__name__.lower(), warmup_epochs=1.5))
    rates = curve(settings, 6)  # 9 steps of warm-up
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == pytest.approx(1.0)


def test_the_last_cosine_step_is_the_final_one():
    assert lr_factor(Cosine(name="cosine", final=0.01), 99, 10, 10) == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_spares_norms_and_biases(name):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    optimizer = build_optimizer(model, Train.model_validate({"optimizer": {"name": name, "weight_decay": 0.1}}))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model[0].weight), id(model[2].weight)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
