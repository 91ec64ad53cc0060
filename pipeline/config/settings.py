"""What may be set: typed, frozen settings, one class per section of an experiment's YAML file.

In: plain data read by `load`. Out: an `Experiment`, which every room receives whole or in part and none can change.
Types are strict (`epochs: yes` is refused, not read as 1), unknown keys are mistakes, and nothing uses None or -1 for
"off": a choice is a word.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import model_validator

from pipeline.config.data import CompetitionSettings, Eda, Folds, Images, Settings
from pipeline.config.losses import LOSSES_OF, GivenWeights, NoWeights
from pipeline.config.metric import parse_metric
from pipeline.config.submission import Pseudo, Submit
from pipeline.config.training import Augment, Balanced, Model, Train
from pipeline.config.tuning import Tune

ROOT = Path(__file__).resolve().parents[2]  # the repository: all relative paths in settings start here
RUNS = ROOT / "mlruns"  # everything the pipeline writes
# (target, kind of metric) that ask whether a label's probability is above one half
LOOKS_AT_HALVES = (("multilabel", "f"), ("multilabel", "accuracy"))


NOT_COMPARED = {"train": {"threads"}}


class Experiment(Settings):
    """One experiment, whole: the YAML file, its bases and its overrides, every default filled in."""

    competition: CompetitionSettings
    images: Images = Images()
    eda: Eda = Eda()
    folds: Folds = Folds()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train = Train()
    tune: Tune = Tune()
    pseudo: Pseudo = Pseudo()
    submit: Submit = Submit()

    @model_validator(mode="before")
    @classmethod
    def _loss_of_the_target(cls, data: Any) -> Any:
        """Where no loss is named, the one that the kind of target is trained with."""
        if not (isinstance(data, dict) and isinstance(data.get("competition"), dict)):
            return data
        losses = LOSSES_OF.get(str(data["competition"].get("target", "class")))
        train = data.get("train", {})
        if losses is None or not isinstance(train, dict) or not isinstance(train.get("loss", {}), dict):
            return data
        return {**data, "train": {**train, "loss": {"name": losses[0], **train.get("loss", {})}}}

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        """Settings of several sections that cannot work together, told before anything is done."""
        target, train, mixes = self.competition.target, self.train, bool(self.augment.mixup or self.augment.cutmix)
        wrong = []
        if train.loss.name not in LOSSES_OF[target]:
            wrong.append(f"train.loss.name={train.loss.name} has no meaning for competition.target={target}; "
                         f"valid: {', '.join(LOSSES_OF[target])}")  # fmt: skip
        if mixes and (target in ("ordinal", "regression")):
            wrong.append(f"augment.mixup and augment.cutmix mix labels, which competition.target={target} cannot be")
        if mixes and train.loss.name == "soft_f1":
            wrong.append("train.loss.name=soft_f1 scores whole batches, so it has no value a row for mixup and cutmix")
        if target in ("multilabel", "regression"):
            if not isinstance(train.class_weights, NoWeights):
                wrong.append(f"train.class_weights need one class a row, and competition.target={target} has not")
            if isinstance(train.sampler, Balanced):
                wrong.append(f"train.sampler=balanced needs one class a row, and competition.target={target} has not")
        if self.model.heads == "parts":
            if not self.competition.parts:
                wrong.append("model.heads=parts needs competition.parts")
            if train.loss.name in ("corn", "bce"):
                wrong.append(f"train.loss.name={train.loss.name} gives the parts no probabilities to multiply, which "
                             "model.heads=parts does; try cross_entropy")  # fmt: skip
            if isinstance(train.class_weights, GivenWeights):
                wrong.append("train.class_weights=given names classes, and model.heads=parts has none; try inverse")
        average, kind = self.submit.average, parse_metric(self.competition.metric, target).kind
        if target == "regression" and average != "probs":
            wrong.append(f"submit.average={average} has no meaning for numbers; valid: probs, which is their mean")
        if average == "ranks" and (target == "ordinal" or kind == "log_loss" or (target, kind) in LOOKS_AT_HALVES):
            wrong.append(f"submit.average=ranks gives an order and no probabilities, which {self.competition.metric} "
                         f"of competition.target={target} looks at; valid: probs, logits, vote")  # fmt: skip
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def flat(self, *sections: str) -> dict[str, Any]:
        """`{"train.lr": 0.001, ...}`, of the named sections or of all: what receipts compare and MLflow shows.

        Without `train.threads`, which is recorded as it is resolved: another machine undoes no finished work.
        """
        data = self.model_dump(mode="json", include=set(sections) if sections else None, exclude=NOT_COMPARED)
        return dict(_flatten(data, ""))

    @property
    def fingerprint(self) -> str:
        """Equal exactly where every resolved setting is equal, however the YAML is written."""
        return fingerprint(self.flat())


def fingerprint(data: Any) -> str:
    """16 hex digits of SHA-256 over canonical JSON: equal data, equal fingerprint, on any machine."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _flatten(data: dict[str, Any], prefix: str):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
