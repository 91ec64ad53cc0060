"""Models: timm's, the preprocessing they want, and the checkpoint that carries both.

A checkpoint is one safetensors file (no pickle, so opening a stranger's is safe) whose metadata holds all that
inference needs: architecture, classes, preprocessing, and the hashes of the settings, folds and images behind it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import safetensors
import safetensors.torch
import timm
import torch
from timm.data import resolve_data_config

from pipeline.atomic import atomic
from pipeline.config.mistakes import Mistake, Mistakes, Stopped, nearest
from pipeline.config.settings import Experiment, Images, Model, Preprocessing

FORMAT = "podium checkpoint 1"
INTERPOLATIONS = get_args(Preprocessing.model_fields["interpolation"].annotation)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself."""

    model: str  # timm's name
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    fold: int
    epochs: int
    hashes: dict[str, str]  # settings, folds, images: what it was trained on
    code: str  # version of the code that trained it


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one. Raises `Mistakes` where torch does not see the device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"found {name!r}, and torch sees {torch.cuda.device_count()} GPUs"
        raise Mistakes([Mistake("train.device", found, "valid: auto, cpu or a GPU that is there", "devices")])
    return device


def check_model(settings: Experiment, n_classes: int) -> list[Mistake]:
    """What would stop the first training step, told before any work: builds the model and tries a forward pass."""
    mistakes: list[Mistake] = []
    try:
        pick_device(settings.train.device)
    except Mistakes as error:
        mistakes += error.mistakes
    model = settings.model
    if not timm.is_model(model.name):
        valid = "valid: a model of timm (python -c 'import timm; print(timm.list_models())')"
        found = f"found {model.name!r}{nearest(model.name, timm.list_models())}"
        return [*mistakes, Mistake("model.name", found, valid, "models")]
    if model.pretrained and not timm.is_model_pretrained(model.name):
        valid = "valid: model.pretrained=false, or a model that has them"
        mistakes.append(
            Mistake("model.pretrained", f"timm has no pretrained weights for {model.name!r}", valid, "models")
        )
    spec = preprocessing(settings.images, model)
    n_rows = min(settings.train.batch_size, 2)  # one row alone is what BatchNorm may fail on
    try:
        bare = build_model(model.model_copy(update={"pretrained": False}), max(n_classes, 2), spec.mode)
        with torch.no_grad():
            bare.train()(torch.zeros(n_rows, len(spec.mean), spec.px, spec.px))
    except Exception as error:  # architectures fail in ways of their own; each is a setting that does not fit
        reason = str(error).splitlines()[0][:200] if str(error) else "no message"
        found = f"{model.name!r} cannot be trained so: {type(error).__name__}: {reason}"
        valid = (
            "valid: other images.px, model.drop_path_rate or train.batch_size (BatchNorm needs more than 1), or model"
        )
        mistakes.append(Mistake("model", found, valid, "models"))
    return mistakes


def preprocessing(images: Images, model: Model) -> Preprocessing:
    """`images` with each `model` replaced by what timm's data configuration says for the architecture.

    ImageNet's usual mean and std on a network that was trained with another pair loses points without a word.
    """
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=_pretrained_cfg(model.name))
    channels = {"RGB": 3, "L": 1}[images.mode]

    def per_channel(values: tuple[float, ...]) -> tuple[float, ...]:
        values = tuple(float(value) for value in values)
        if len(values) == channels:
            return values
        return (sum(values) / len(values),) * channels  # timm averages the colour channels of its first layer too

    interpolation = config["interpolation"] if images.interpolation == "model" else images.interpolation
    return Preprocessing(
        mode=images.mode,
        px=config["input_size"][-1] if images.px == "model" else images.px,
        crop=config["crop_pct"] if images.crop == "model" else images.crop,
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
        mean=per_channel(config["mean"] if images.mean == "model" else images.mean),
        std=per_channel(config["std"] if images.std == "model" else images.std),
    )


def build_model(settings: Model, n_classes: int, mode: str) -> torch.nn.Module:
    """timm's model with a fresh head of `n_classes` logits. A download happens only with `model.pretrained: true`."""
    # `extra` only where it is asked for, because not every architecture takes it
    extra: dict[str, Any] = {"drop_path_rate": settings.drop_path_rate} if settings.drop_path_rate else {}
    try:
        return timm.create_model(
            settings.name,
            pretrained=settings.pretrained,
            num_classes=n_classes,
            in_chans={"RGB": 3, "L": 1}[mode],
            drop_rate=settings.drop_rate,
            **extra,
        )
    except Exception as error:
        if not settings.pretrained:
            raise
        message = f"the pretrained weights of {settings.name} cannot be had ({type(error).__name__})"
        raise Stopped(f"{message}; set model.pretrained=false, or run once with a network") from error


def save_checkpoint(path: Path, model: torch.nn.Module, info: CheckpointInfo) -> None:
    """Weights and `info` in one file, whole or not at all."""
    data = asdict(info) | {"preprocessing": info.preprocessing.model_dump(mode="json"), "format": FORMAT}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as temporary:
        # metadata values must be strings
        safetensors.torch.save_file(weights, temporary, {"podium": json.dumps(data, sort_keys=True)})


def checkpoint_info(path: Path) -> CheckpointInfo:
    """Reads the metadata alone. Raises `Mistakes` where the file is no checkpoint of ours."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            data = json.loads((file.metadata() or {}).get("podium", "{}"))
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise Mistakes(
            [Mistake(str(path), f"unreadable: {error}", "valid: a checkpoint of this pipeline", "checkpoints")]
        ) from None
    if data.pop("format", None) != FORMAT:
        raise Mistakes(
            [Mistake(str(path), "no metadata of this pipeline", f"valid: a file of format {FORMAT!r}", "checkpoints")]
        )
    spec = Preprocessing.model_validate(data.pop("preprocessing"))
    return CheckpointInfo(classes=tuple(data.pop("classes")), preprocessing=spec, **data)


def load_checkpoint(path: Path, device: torch.device) -> tuple[torch.nn.Module, CheckpointInfo]:
    """The model as it was saved, in evaluation mode, and what it says of itself. Never downloads."""
    info = checkpoint_info(path)
    model = build_model(Model(name=info.model), len(info.classes), info.preprocessing.mode)
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    return model.to(device).eval(), info


def _pretrained_cfg(name: str) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(name)
    return config.to_dict() if config else {}
