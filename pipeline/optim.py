"""Optimizers and learning-rate schedules, by the names in the settings."""

import math
from typing import Any

import timm.optim
import torch

from pipeline.config.settings import Constant, Cosine, Sgd, Step, Train


def build_optimizer(model: torch.nn.Module, settings: Train) -> torch.optim.Optimizer:
    """timm's factory. Weight decay on weight matrices only: decaying a norm's scale or a bias regularises nothing."""
    optimizer = settings.optimizer
    name: str = optimizer.name
    extra: dict[str, Any] = {}
    if isinstance(optimizer, Sgd):
        extra = {"momentum": optimizer.momentum}
        name = "sgd" if optimizer.momentum else "momentum"  # timm's `sgd` is Nesterov's and wants some momentum
    return timm.optim.create_optimizer_v2(
        model, opt=name, lr=settings.lr, weight_decay=optimizer.weight_decay, filter_bias_and_bn=True, **extra
    )


def build_scheduler(
    optimizer: torch.optim.Optimizer, settings: Train, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Steps once an optimizer step, so a schedule means the same for every accumulation."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(settings.schedule, step, steps_per_epoch, settings.epochs)
    )


def lr_factor(schedule: Constant | Cosine | Step, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of optimizer step `step` (0, 1, ...) as a share of `train.lr`.

    Warm-up is linear and ends at 1; what follows starts there and, for cosine, ends at `final` with the last step.
    Cosine: Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if isinstance(schedule, Cosine):
        last = epochs * steps_per_epoch - 1
        progress = min((step - warmup) / max(last - warmup, 1), 1.0)
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
    if isinstance(schedule, Step):
        return schedule.gamma ** ((step - warmup) // (schedule.step_size * steps_per_epoch))
    return 1.0
