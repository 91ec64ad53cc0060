"""What may be set: typed, frozen settings, one class per section of an experiment's YAML file.

In: plain data read by `load`. Out: an `Experiment`, which every room receives whole or in part and none can change.
Types are strict (`epochs: yes` is refused, not read as 1), unknown keys are mistakes, and nothing uses None or -1 for
"off": a choice is a word.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.config.data import Bounds, CompetitionSettings, Eda, Folds, Images, Settings

ROOT = Path(__file__).resolve().parents[2]  # the repository: all relative paths in settings start here
RUNS = ROOT / "mlruns"  # everything the pipeline writes


class Model(Settings):
    name: str = "resnet18"  # any classification model of timm
    pretrained: bool = False  # true lets timm download its weights
    weights: str | Literal["none"] = "none"  # or a safetensors file of pretrained weights, from the repository's root
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Augment(Settings):
    """Random changes of a training image; each is drawn uniformly between minus and plus its limit."""

    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0.1: between 0.9 and 1.1 times the size
    shift: Annotated[float, Field(ge=0, le=1)] = 0.0  # as a share of the image's side
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of a left-right mirror image
    fill: Literal["black", "edge", "mirror"] = "mirror"  # what comes in from outside the image


class CrossEntropy(Settings):
    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Sgd(Settings):
    name: Literal["sgd"]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0001  # never on norms and biases
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # Nesterov's, where it is above 0


class Adam(Settings):
    name: Literal["adam", "adamw"]
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # never on norms and biases


class Constant(Settings):
    name: Literal["constant"]
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0


class Cosine(Settings):
    name: Literal["cosine"]
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0  # the last learning rate as a share of the peak


class Step(Settings):
    name: Literal["step"]
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    step_size: Annotated[int, Field(ge=1)] = 10  # epochs between two drops, counted after the warm-up
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class Train(Settings):
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32  # images in one forward pass
    accumulation: Annotated[int, Field(ge=1, le=100_000)] = 1  # forward passes behind one optimizer step
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3  # peak, for one effective batch (batch_size x accumulation)
    clip_norm: Annotated[float, Field(gt=0)] | Literal["off"] = 1.0  # of the gradient of one effective batch
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    # Other bounds of a label's part for the rows that are trained on, e.g. {age: [30, 58]}; what is validated keeps the
    # competition's own, or a changed rule would be scored on questions of its own making.
    label_bounds: dict[str, Bounds] = Field(default_factory=dict)
    loss: CrossEntropy = CrossEntropy()
    optimizer: Annotated[Sgd | Adam, Field(discriminator="name")] = Adam(name="adamw")
    schedule: Annotated[Constant | Cosine | Step, Field(discriminator="name")] = Cosine(name="cosine")

    @field_validator("optimizer", "schedule", mode="before")
    @classmethod
    def _default_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """`optimizer: {weight_decay: 0}` means the default optimizer's."""
        default = cls.model_fields[str(info.field_name)].default
        return {"name": default.name, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _warmup_leaves_room(self) -> "Train":
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"train.schedule.warmup_epochs={self.schedule.warmup_epochs:g} leaves nothing of "
                f"train.epochs={self.epochs}; it must be smaller"
            )
        return self


class Experiment(Settings):
    """One experiment, whole: the YAML file, its bases and its overrides, every default filled in."""

    competition: CompetitionSettings
    images: Images = Images()
    eda: Eda = Eda()
    folds: Folds = Folds()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train = Train()

    def flat(self, *sections: str) -> dict[str, Any]:
        """`{"train.lr": 0.001, ...}`, of the named sections or of all: what receipts compare and MLflow shows."""
        data = self.model_dump(mode="json", include=set(sections) if sections else None)
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
