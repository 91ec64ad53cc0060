"""Settings of what happens to the weights: model, augmentation, loss, optimizer, schedule, and the loop's own.

Part of `settings`, which has the rest. Each choice is a small class of its own, so that a key which means nothing to it
(`gamma` without focal) is a mistake and not ignored.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.config.data import Bounds, NotNegative, Number, Positive, Settings, Share
from pipeline.config.losses import ClassWeights, CrossEntropy, Loss, NoWeights

Range = Annotated[tuple[Number, ...], Field(strict=False, min_length=2, max_length=2)]


class Model(Settings):
    name: str = "resnet18"  # any classification model of timm
    pretrained: bool = False  # true lets timm download its weights
    weights: str | Literal["none"] = "none"  # or a safetensors file of pretrained weights, from the repository's root
    drop_rate: Share = 0.0
    drop_path_rate: Share = 0.0
    # parts: one head for each part of a declared label, and a class is as probable as its parts together
    heads: Literal["joint", "parts"] = "joint"


PRESETS: dict[str, dict[str, Any]] = {  # as strong as RandAugment with two operations of magnitude 5, 9 and 15, roughly
    "off": {},
    "light": {"crop_area": (0.5, 1.0), "flip": 0.5},
    "medium": {"crop_area": (0.35, 1.0), "flip": 0.5, "rotate_deg": 10.0, "shear": 0.05, "brightness": 0.2,
               "contrast": 0.2, "saturation": 0.2, "erase": 0.1},
    "strong": {"crop_area": (0.25, 1.0), "flip": 0.5, "rotate_deg": 15.0, "shear": 0.1, "brightness": 0.4,
               "contrast": 0.4, "saturation": 0.4, "hue": 0.05, "grey": 0.05, "blur": 0.1, "erase": 0.25},
}  # fmt: skip


class Augment(Settings):
    """Random changes of a training image; what has a limit is drawn uniformly between minus and plus that limit."""

    preset: Literal["off", "light", "medium", "strong"] = "off"  # values for the keys below; what is given wins
    crop_area: Range | Literal["off"] = "off"  # share of the image's area that a random crop keeps, from and to
    crop_ratio: Range = (0.75, 4 / 3)  # its width over its height, before it is made square
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    shear: Share = 0.0  # as a share of the side
    scale: Share = 0.0  # 0.1: between 0.9 and 1.1 times the size
    shift: Annotated[float, Field(ge=0, le=1)] = 0.0  # as a share of the image's side
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of a left-right mirror image
    flip_vertical: Annotated[float, Field(ge=0, le=1)] = 0.0
    quarter_turns: bool = False  # by 0, 90, 180 or 270 degrees, each as likely: where up means nothing
    fill: Literal["black", "edge", "mirror"] = "mirror"  # what comes in from outside the image
    brightness: Share = 0.0  # 0.2: times 0.8 to 1.2
    contrast: Share = 0.0  # likewise, around the image's mean
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # as a share of a full turn of the colour wheel
    grey: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of losing all colour
    blur: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of a soft focus
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of a rectangle that is replaced by noise
    erase_area: Range = (0.02, 0.33)
    mixup: NotNegative = 0.0  # alpha of the Beta distribution that two images are mixed by; 0: off
    cutmix: NotNegative = 0.0  # likewise, of the rectangle that one image gives to another
    mix_share: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the images, where mixup or cutmix is on
    mix_stop_epochs: Annotated[int, Field(ge=0)] = 0  # last epochs without mixing

    @property
    def mean_crop_area(self) -> float:
        """Of what random crops keep of an image."""
        return 1.0 if self.crop_area == "off" else sum(self.crop_area) / 2

    @model_validator(mode="before")
    @classmethod
    def _preset_beneath(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("preset"), str):
            return {**PRESETS.get(data["preset"], {}), **data}
        return data

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Augment":
        for name, top in (("crop_area", 1.0), ("crop_ratio", 100.0), ("erase_area", 1.0)):
            value = getattr(self, name)
            if value != "off" and not 0 < value[0] <= value[1] <= top:
                raise ValueError(f"augment.{name}={list(value)} must ascend, within 0 and {top:g}")
        return self


class Shuffle(Settings):
    name: Literal["shuffle"] = "shuffle"  # each image once an epoch


class Balanced(Settings):
    name: Literal["balanced"]  # as many images an epoch, drawn with replacement
    power: Annotated[float, Field(gt=0, le=1)] = 1.0  # 1: every class as often; 0.5: half way, by the square root


# --- optimizer and schedule ----------------------------------------------------------------------------------------


class Optimizer(Settings):
    """`options` go to timm's factory as they are: betas, eps, momentum, ..., whatever the optimizer takes."""

    name: str = "adamw"  # any of timm's
    weight_decay: NotNegative = 0.05  # never on norms and biases
    options: dict[str, Number | bool | list[Number]] = Field(default_factory=dict)


class _Schedule(Settings):
    warmup_epochs: NotNegative = 0.0  # linear, from nearly nothing; what follows starts at the peak


class Constant(_Schedule):
    name: Literal["constant"]


class Cosine(_Schedule):
    name: Literal["cosine"]
    final: Annotated[float, Field(ge=0, le=1)] = 0.0  # the last learning rate as a share of the peak
    cycles: Annotated[int, Field(ge=1, le=1000)] = 1  # more than one: restarts
    cycle_growth: Annotated[float, Field(ge=1, le=10)] = 1.0  # how many times as long each cycle is as the last
    cycle_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # how many times as high its peak


class Step(_Schedule):
    name: Literal["step"]
    step_size: Annotated[int, Field(ge=1)] = 10  # epochs between two drops, counted after the warm-up
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class MultiStep(_Schedule):
    name: Literal["multistep"]  # drops after so many epochs, counted after the warm-up
    milestones: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)
    ]  # epochs after the warm-up
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class Plateau(_Schedule):
    name: Literal["plateau"]  # drops when the validation metric has stopped getting better
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 3  # epochs without a new best that are put up with
    threshold: NotNegative = 0.0  # what counts as better, in units of the metric
    cooldown: Annotated[int, Field(ge=0)] = 0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0  # never below this share of the peak


class OneCycle(Settings):
    name: Literal["onecycle"]
    warmup_epochs: ClassVar[float] = 0.0  # its rise is its warm-up
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3  # share of the steps until the peak
    start: Annotated[float, Field(gt=0, le=1)] = 0.04  # first learning rate as a share of the peak
    final: Annotated[float, Field(ge=0, le=1)] = 4e-6


class Polynomial(_Schedule):
    name: Literal["polynomial"]
    power: Positive = 1.0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


Schedule = Constant | Cosine | Step | MultiStep | Plateau | OneCycle | Polynomial


class Train(Settings):
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32  # images in one forward pass
    accumulation: Annotated[int, Field(ge=1, le=100_000)] = 1  # forward passes behind one optimizer step
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3  # peak, for one effective batch (batch_size x accumulation)
    head_lr_ratio: Annotated[float, Field(gt=0, le=10_000)] = 1.0  # learning rate of the fresh head over the rest's
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # times the learning rate for each layer further from it
    freeze_epochs: Annotated[int, Field(ge=0)] = 0  # first epochs that train the head alone
    clip_norm: Positive | Literal["off"] = 1.0  # of the gradient of one effective batch
    # One model a fold for each; predictions are averaged.
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(strict=False, min_length=1)] = (0,)
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    # of torch on a CPU, where the last bits depend on it; auto: OMP_NUM_THREADS, else the cores
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    # auto tries what the device can for some seconds on the real model and takes the fastest
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool | Literal["auto"] = True  # how images lie in memory: the same numbers, often faster
    compile: str | Literal["off"] = "off"  # a backend of torch.compile, e.g. inductor
    # Which weights of a fold are kept: the last epoch's; those of the epoch with the best validation score; an
    # exponential moving average; the mean over the last epochs (stochastic weight averaging).
    select: Literal["last", "best", "ema", "swa"] = "last"
    ema_decay: Share = 0.998  # a step
    swa_start: Share = 0.75  # share of the epochs after which the mean begins
    early_stopping: Annotated[int, Field(ge=1)] | Literal["off"] = "off"  # epochs without a new best score
    # Other bounds of a label's part for the rows that are trained on, e.g. {age: [30, 58]}; what is validated keeps the
    # competition's own, or a changed rule would be scored on questions of its own making.
    label_bounds: dict[str, Bounds] = Field(default_factory=dict)
    loss: Annotated[Loss, Field(discriminator="name")] = CrossEntropy()
    class_weights: Annotated[ClassWeights, Field(discriminator="name")] = NoWeights()
    sampler: Annotated[Shuffle | Balanced, Field(discriminator="name")] = Shuffle()
    optimizer: Optimizer = Optimizer()
    schedule: Annotated[Schedule, Field(discriminator="name")] = Cosine(name="cosine")

    @field_validator("schedule", "loss", "class_weights", "sampler", mode="before")
    @classmethod
    def _default_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """`schedule: {warmup_epochs: 1}` means the default schedule's."""
        default = cls.model_fields[str(info.field_name)].default
        return {"name": default.name, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_together(self) -> "Train":
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"train.schedule.warmup_epochs={self.schedule.warmup_epochs:g} leaves nothing of "
                f"train.epochs={self.epochs}; it must be smaller"
            )
        if self.freeze_epochs >= self.epochs:
            raise ValueError(f"train.freeze_epochs={self.freeze_epochs} leaves nothing of train.epochs={self.epochs}")
        if self.select == "swa" and self.early_stopping != "off":
            raise ValueError("train.select=swa averages the last epochs, which train.early_stopping may never reach")
        if self.loss.name == "soft_f1" and not isinstance(self.class_weights, NoWeights):
            raise ValueError(f"train.class_weights={self.class_weights.name} has no effect on train.loss.name=soft_f1, "
                             "which scores whole batches with every class alike")  # fmt: skip
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"train.seeds={list(self.seeds)} names a seed twice: the same models again")
        if isinstance(self.schedule, MultiStep) and list(self.schedule.milestones) != sorted(
            set(self.schedule.milestones)
        ):
            raise ValueError(f"train.schedule.milestones={list(self.schedule.milestones)} must ascend")
        return self


def notes(train: Train, augment: Augment) -> list[str]:
    """What works, and is worth a second thought."""
    told = []
    schedule, left = train.schedule, train.epochs - train.schedule.warmup_epochs
    first = {"step": getattr(schedule, "step_size", 0), "multistep": getattr(schedule, "milestones", (0,))[0],
             "plateau": getattr(schedule, "patience", 0) + 1}.get(schedule.name, 0)  # fmt: skip
    if first >= left:
        told.append(f"train.schedule.name={schedule.name} never drops the learning rate: its first drop is due after "
                    f"{first} epochs, and {left:g} follow the warm-up")  # fmt: skip
    if (augment.mixup or augment.cutmix) and augment.mix_stop_epochs >= train.epochs:
        told.append(f"augment.mix_stop_epochs={augment.mix_stop_epochs} leaves no epoch of {train.epochs} that mixes")
    corrections = {
        f"train.class_weights.name={train.class_weights.name}": train.class_weights.name != "none",
        f"train.sampler.name={train.sampler.name}": train.sampler.name != "shuffle",
        f"train.loss.name={train.loss.name}": train.loss.name in ("logit_adjustment", "balanced_softmax"),
    }
    if len(twice := [name for name, does in corrections.items() if does]) > 1:
        told.append(f"{' and '.join(twice)} each correct the imbalance of the classes, so it is corrected "
                    f"{'twice' if len(twice) == 2 else 'three times'}")  # fmt: skip
    if train.loss.name == "soft_f1":
        told.append("train.loss.name=soft_f1 lost to cross entropy in every published comparison known to us")
    return told
