"""What may be set: typed, frozen settings, one class per section of an experiment's YAML file.

In: plain data read by `load`. Out: an `Experiment`, which every room receives whole or in part and none can change.
Types are strict (`epochs: yes` is refused, not read as 1), unknown keys are mistakes, and nothing uses None or -1 for
"off": a choice is a word.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

ROOT = Path(__file__).resolve().parents[2]  # the repository: all relative paths in settings start here
RUNS = ROOT / "mlruns"  # everything the pipeline writes

# file and MLflow names are built from it, so nothing that could climb out of a folder or upset a tracker
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Channels = Annotated[tuple[Annotated[float, Field(strict=True)], ...], Field(strict=False, min_length=1, max_length=3)]
Strings = Annotated[tuple[Annotated[str, Field(strict=True)], ...], Field(strict=False, min_length=2)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Tables(Settings):
    """A competition given as CSV tables and image files; paths are relative to `root`."""

    name: Name  # the MLflow experiment: all runs of one competition stand together
    root: str
    train_csv: str = "train.csv"
    test_csv: str = "sample_submission.csv"  # which test images there are; ids must equal the sample's
    sample_csv: str = "sample_submission.csv"
    answers_csv: str = "answers.csv"  # read by `score` alone, and only where the organisers give it
    id_column: str = "image_id"
    label_column: str = "label"
    group_column: str | Literal["none"] = "none"  # rows of one group (a person, a photo) never stand on both sides
    train_images: str = "images/{image_id}.png"  # a path template over the table's columns
    test_images: str = "images/{image_id}.png"
    classes: Strings | Literal["from train"] = "from train"  # their order is the order of the probabilities
    metric: Literal["macro_f1", "accuracy"] = "macro_f1"


class CsvCompetition(Tables):
    source: Literal["csv"]


class DigitsCompetition(Tables):
    """The embedded demonstration: scikit-learn's bundled digits, written to `root` at first use."""

    source: Literal["digits"]
    name: Name = "digits"
    root: str = "data/digits"


class Images(Settings):
    """The fixed preprocessing. `model` means: what the model's own data configuration in timm says."""

    mode: Literal["RGB", "L"] = "RGB"
    px: Annotated[int, Field(ge=8, le=2048)] | Literal["model"] = "model"  # side of the square that the model sees
    crop: Annotated[float, Field(gt=0, le=1)] | Literal["model"] = "model"  # share of the short side that is kept
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "model"] = "model"
    mean: Channels | Literal["model"] = "model"  # per channel, on pixels in 0..1
    std: Channels | Literal["model"] = "model"

    @model_validator(mode="after")
    def _a_value_per_channel(self) -> "Images":
        n = len(self.mode)  # RGB: 3, L: 1
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values != "model" and len(values) != n:
                raise ValueError(f"images.{name} has {len(values)} values and images.mode={self.mode} has {n} channels")
        if self.std != "model" and min(self.std) <= 0:
            raise ValueError(f"images.std={list(self.std)} must be above 0")
        return self


class Preprocessing(Settings):
    """`Images` with every `model` resolved: it travels in the checkpoint, and inference reads it from there alone."""

    mode: Literal["RGB", "L"]
    px: int
    crop: float
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: Channels
    std: Channels


class Folds(Settings):
    k: Annotated[int, Field(ge=2, le=50)] = 5
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Model(Settings):
    name: str = "resnet18"  # any classification model of timm
    pretrained: bool = False  # true lets timm download its weights
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

    competition: Annotated[CsvCompetition | DigitsCompetition, Field(discriminator="source")]
    images: Images = Images()
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
