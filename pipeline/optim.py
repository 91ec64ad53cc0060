"""Optimizers and learning-rate schedules, by the names in the settings.

A schedule is a pure function of the step and of the validation scores so far, ReduceLROnPlateau too. It has no state
that a resumed run could lose, and `lr` at any step can be drawn without training.
"""

import math
from collections.abc import Sequence
from typing import Any

import timm.optim
import torch

from pipeline.config.metric import Metric
from pipeline.config.training import (
    Constant,
    Cosine,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Schedule,
    Step,
    Train,
)

FUSED = ("adam", "adamw")  # torch's own, which have a fused form on every device
ROLE = "role"  # likewise: `head` or `body`, with its layer's share of the rate where layers have their own
PEAK = "peak_lr"  # key in a parameter group: its learning rate where the schedule's factor is 1


def build_optimizer(model: torch.nn.Module, head: set[str], settings: Train) -> torch.optim.Optimizer:
    """timm's factory. head: names of the parameters of the fresh head.

    Weight decay on weight matrices only: decaying a norm's scale or a bias regularises nothing. Layer-wise decay of the
    learning rate by timm's own grouping of an architecture's layers (Clark et al. 2020, arXiv 2003.10555). Raises
    ValueError, RuntimeError or TypeError for a name or an option that the factory does not take.
    """
    decay = settings.optimizer.weight_decay
    exempt: Any = getattr(model, "no_weight_decay", tuple)()  # timm: what an architecture does not want decayed
    if settings.layer_decay < 1:
        layered = timm.optim.param_groups_layer_decay(
            model, decay, no_weight_decay_list=exempt, layer_decay=settings.layer_decay
        )
    else:
        layered = timm.optim.param_groups_weight_decay(model, decay, no_weight_decay_list=exempt)
    in_head = {id(parameter) for name, parameter in model.named_parameters() if name in head}
    groups = []
    for group in layered:
        scale = group.pop("lr_scale", 1.0)
        for is_head, ratio in ((False, 1.0), (True, settings.head_lr_ratio)):
            members = [p for p in group["params"] if (id(p) in in_head) == is_head]
            peak = settings.lr * scale * ratio
            if members:
                role = "head" if is_head else "body"
                role += f"_x{scale:.3g}" if settings.layer_decay < 1 else ""
                groups.append({**group, "params": members, "lr": peak, PEAK: peak, ROLE: role})
    # a list of YAML is a tuple of betas
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.optimizer.options.items()}
    if settings.optimizer.name in FUSED:
        options.setdefault("fused", True)  # one kernel for all parameters: a fifth of the time on a CPU
    name = "momentum" if settings.optimizer.name == "sgd" and not _nesterov(settings) else settings.optimizer.name
    return timm.optim.create_optimizer_v2(groups, opt=name, lr=settings.lr, weight_decay=decay, **options)


def _nesterov(settings: Train) -> bool:
    """timm's `sgd` is Nesterov's, which wants some momentum; its `momentum` is the plain one."""
    options = settings.optimizer.options
    return bool(options.get("nesterov", True)) and options.get("momentum", 0.9) != 0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK] * factor


def group_lrs(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Role -> learning rate, of groups whose rates differ; empty where there is one rate for all."""
    rates = {group[ROLE]: group[PEAK] * factor for group in optimizer.param_groups}
    return rates if len(set(rates.values())) > 1 else {}


def lr_factor(
    schedule: Schedule, step: int, steps_per_epoch: int, epochs: int, scores: Sequence[float], metric: Metric
) -> float:
    """The learning rate of optimizer step `step` (0, 1, ...) as a share of the peak.

    scores: of the validation rows after each finished epoch; only `plateau` looks at them. Warm-up is linear and ends
    at 1; what follows starts there.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    after, n = step - warmup, max(epochs * steps_per_epoch - warmup, 1)  # n: steps after the warm-up
    if isinstance(schedule, Constant):
        return 1.0
    if isinstance(schedule, Cosine):
        return _cosine(schedule, after, n)
    if isinstance(schedule, Step):
        return schedule.gamma ** (after // (schedule.step_size * steps_per_epoch))
    if isinstance(schedule, MultiStep):
        return schedule.gamma ** sum(after >= epoch * steps_per_epoch for epoch in schedule.milestones)
    if isinstance(schedule, Plateau):
        since = scores[math.ceil(schedule.warmup_epochs) :]  # while the rate rises, no score says that it is too high
        return max(schedule.factor ** n_drops(schedule, since, metric), schedule.final)
    if isinstance(schedule, OneCycle):
        # Smith & Topin 2017, arXiv 1708.07120, with torch's two cosines
        peak = schedule.rise * n - 1
        if after <= peak:
            return _between(schedule.start, 1.0, after / peak if peak > 0 else 1.0)
        return _between(1.0, schedule.final, (after - peak) / max(n - 1 - peak, 1e-9))
    assert isinstance(schedule, Polynomial)
    return schedule.final + (1 - schedule.final) * (1 - after / n) ** schedule.power


def _between(start: float, end: float, share: float) -> float:
    """On half a cosine from `start` (share 0) to `end` (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def _cosine(schedule: Cosine, step: int, n: int) -> float:
    """Loshchilov & Hutter 2017, arXiv 1608.03983, as torch and timm draw it: a step past the end it would be `final`.

    Not at the last step: a rate of 0 would waste it, which with one step an epoch is a whole epoch.
    """
    lengths = [schedule.cycle_growth**i for i in range(schedule.cycles)]
    ends = [n * sum(lengths[: i + 1]) / sum(lengths) for i in range(schedule.cycles)]
    cycle = next((i for i, end in enumerate(ends) if step < end), schedule.cycles - 1)
    start = ends[cycle - 1] if cycle else 0.0
    share = (step - start) / (ends[cycle] - start)
    peak = schedule.cycle_decay**cycle
    return _between(max(peak, schedule.final), schedule.final, share)


def n_drops(schedule: Plateau, scores: Sequence[float], metric: Metric) -> int:
    """How often ReduceLROnPlateau (torch's rules, absolute threshold) has dropped the rate after these scores."""
    margin = schedule.threshold if metric.greater_is_better else -schedule.threshold
    best, bad, cooling, drops = None, 0, 0, 0
    for score in scores:
        if best is None or metric.better(score, best + margin):
            best, bad = score, 0
        else:
            bad += 1
        if cooling:
            cooling, bad = cooling - 1, 0
        if bad > schedule.patience:
            drops, cooling, bad = drops + 1, schedule.cooldown, 0
    return drops


def clip(optimizer: torch.optim.Optimizer, max_norm: float) -> torch.Tensor:
    """The norm of the whole gradient, () on the device, before it was scaled down to at most `max_norm`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
