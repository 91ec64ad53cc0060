"""The space that is searched where `tune.space` says nothing: loss, rate, decay, schedule, warm-up, batch,
augmentation, label rules.

In: the experiment. Out: plain data, as it could stand under `tune.space`; what means nothing to this experiment is
left out, and what the experiment says by hand lies inside, so that the search can come back to it. The ranges are the
ones that published recipes use (timm's, and the winners' repositories of image competitions), an order of magnitude
around the experiment's own values.
"""

from __future__ import annotations

from typing import Any

from pipeline.config.losses import LOSSES_OF
from pipeline.config.settings import Experiment

PLAIN = ("sgd", "momentum", "nesterov")  # what steps along the gradient as it is has one of these in its name
LOSSES = {  # by kind of target, the usual ones first; with parameters that only they have
    "class": ("cross_entropy", "focal", "bce", "logit_adjustment"),
    "multilabel": ("bce", "focal"),
    "ordinal": ("corn", "cross_entropy", "focal"),
    "regression": ("mse", "mae", "huber"),
}
SMOOTHED = ("cross_entropy", "focal", "bce", "logit_adjustment")
SPREAD = 10.0  # times the experiment's own rate, up and down
PRESETS = ("off", "light", "medium", "strong")


def default_space(settings: Experiment, n_rows: int) -> dict[str, list[dict[str, Any]]]:
    """n_rows: of training; a step for more than a tenth of them would leave hardly any steps."""
    return {key: value if isinstance(value, list) else [value] for key, value in (
        _loss(settings) | _rate(settings, n_rows) | _schedule(settings) | _augmentation(settings) | _labels(settings)
    ).items()}  # fmt: skip


def is_adaptive(optimizer: str) -> bool:
    """Whether steps are divided by the size of the gradient: then rates are small, and grow by the batch's root."""
    return not any(word in optimizer.lower() for word in PLAIN)


def _loss(settings: Experiment) -> dict[str, Any]:
    target, own, parts = settings.competition.target, settings.train.loss.name, settings.model.heads == "parts"
    names = [name for name in LOSSES[target] if name in LOSSES_OF[target] and not (parts and name in ("bce", "corn"))]
    names = names if own in names else [own, *names]
    found: dict[str, Any] = {"train.loss.name": {"choices": names}} if len(names) > 1 else {}
    if smoothed := [name for name in names if name in SMOOTHED and target != "regression"]:
        value = getattr(settings.train.loss, "label_smoothing", 0.0)
        found["train.loss.label_smoothing"] = _stepped(0.0, 0.2, 0.05, value, {"train.loss.name": smoothed})
    for name, key, low, high, step in (
        ("focal", "gamma", 0.5, 3.0, 0.5),
        ("logit_adjustment", "tau", 0.25, 1.5, 0.25),
        ("huber", "delta", 0.5, 2.0, 0.25),
    ):
        if name in names:
            value = getattr(settings.train.loss, key, low)
            found[f"train.loss.{key}"] = _stepped(low, high, step, value, {"train.loss.name": name})
    return found


def _stepped(low: float, high: float, step: float, own: float, when: dict[str, Any]) -> dict[str, Any]:
    """A coarse range; without steps where the experiment's own value lies between two of them."""
    low, high = min(low, own), max(high, own)
    on_step = abs((own - low) / step - round((own - low) / step)) < 1e-9
    return {"low": low, "high": high, "when": when} | ({"step": step} if on_step and high - low >= step else {})


def _rate(settings: Experiment, n_rows: int) -> dict[str, Any]:
    """The rate for one effective batch, which grows with the batch by the rule for its optimizer."""
    train, adaptive = settings.train, is_adaptive(settings.train.optimizer.name)
    rule = "sqrt" if adaptive else "linear"
    decay = train.optimizer.weight_decay
    low, high = (1e-3, 0.3) if adaptive else (1e-5, 1e-2)
    accumulation = sorted({train.accumulation, *(n for n in (1, 2, 4, 8) if n * train.batch_size <= n_rows / 10)})
    found: dict[str, Any] = {
        "train.lr": {"low": train.lr / SPREAD, "high": min(train.lr * SPREAD, 100.0), "log": True, "per_batch": rule}
    }
    if decay > 0:
        found["train.optimizer.weight_decay"] = {"low": min(low, decay), "high": max(high, decay), "log": True}
    if len(accumulation) > 1:
        found["train.accumulation"] = {"choices": accumulation}
    return found


def _schedule(settings: Experiment) -> dict[str, Any]:
    train, own = settings.train, settings.train.schedule
    epochs = train.epochs
    names = ["cosine", "step", "onecycle"] if epochs >= 4 else ["cosine"]
    names += ["plateau"] if epochs >= 8 else []  # it needs epochs to wait in
    names = names if own.name in names else [own.name, *names]
    found: dict[str, Any] = {"train.schedule.name": {"choices": names}} if len(names) > 1 else {}
    warm = [name for name in names if name != "onecycle"]
    choices = sorted({0.0, *(value for value in (0.5, 1.0, 2.0) if value <= epochs / 4), float(own.warmup_epochs)})
    if len(choices) > 1:
        found["train.schedule.warmup_epochs"] = {"choices": choices, "when": {"train.schedule.name": warm}}
    if "step" in names:
        at_step = {"when": {"train.schedule.name": "step"}}
        sizes = (getattr(own, "step_size", max(epochs // 4, 1)), max(epochs // 4, 1), max(2 * epochs // 3, 2))
        found["train.schedule.step_size"] = {"low": min(sizes), "high": max(sizes)} | at_step
    if "plateau" in names:
        at_plateau = {"when": {"train.schedule.name": "plateau"}}
        patience = getattr(own, "patience", 1)
        found["train.schedule.patience"] = {"low": min(patience, 1), "high": max(patience, epochs // 5, 2)} | at_plateau
    for name, key in (("step", "gamma"), ("plateau", "factor")):
        if name in names:
            values = sorted({0.1, 0.3, 0.5, getattr(own, key, 0.1)})
            found[f"train.schedule.{key}"] = {"choices": values, "when": {"train.schedule.name": name}}
    return found


def _augmentation(settings: Experiment) -> dict[str, Any]:
    """By presets; what the experiment says of single values (no mirror images of digits) goes on to hold."""
    own = settings.augment.preset
    return {"augment.preset": {"choices": list(PRESETS if own in PRESETS else (own, *PRESETS))}}


def _labels(settings: Experiment) -> dict[str, Any]:
    """For each part of a label that is cut from a number: its last bound a little lower for the rows trained on, since
    what lies just below looks like what lies above (the competition of `experiments/mask.yaml`: 60, 59, 58, 57)."""
    found: dict[str, Any] = {}
    for name, part in settings.competition.parts.items():
        if not part.bounds or name in settings.train.label_bounds:
            continue
        last, *before = part.bounds[-1], *part.bounds[:-1]
        lower = [round(last * (1 - share / 60), 4) for share in (1, 2, 3)]
        lower = [int(value) if float(value).is_integer() else value for value in lower]
        shifted = [{name: [*before, value]} for value in lower if not before or value > before[-1]]
        if last > 0 and shifted and "train.label_bounds" not in found:
            found["train.label_bounds"] = {"choices": [{}, *shifted]}
    return found
