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
from timm.models import get_deprecated_models

from pipeline import kept
from pipeline.config.data import Images, Preprocessing
from pipeline.config.mistakes import Mistake, Mistakes, Stopped
from pipeline.config.settings import ROOT
from pipeline.config.training import Model
from pipeline.task import Task

FORMAT = "podium checkpoint 2"
PATIENCE_S = 5  # for the host of pretrained weights
INTERPOLATIONS = get_args(Preprocessing.model_fields["interpolation"].annotation)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself."""

    model: str  # timm's name
    task: Task  # classes in order, and how logits become their probabilities
    preprocessing: Preprocessing
    fold: int
    seed: int
    epochs: int  # that were trained
    precision: str  # that it was trained in
    channels_last: bool  # how it is run, so that validation's bits are inference's
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


def heads_of(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the layers that depend on the number of classes."""
    named = getattr(model, "default_cfg", {}).get("classifier", ())
    return (named,) if isinstance(named, str) else tuple(named or ())


def head_parameters(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that no pretrained network brings along."""
    starts = tuple(f"{name}." for name in heads_of(model))
    return {name for name, _ in model.named_parameters() if starts and name.startswith(starts)}


def freeze_but_head(model: torch.nn.Module, head: set[str], frozen: bool) -> None:
    """Lets only the head learn, or everything again. What is frozen runs as in evaluation: BatchNorm learns nothing."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name in head)
    model.train(not frozen)


def is_channels_last(model: torch.nn.Module) -> bool:
    """Whether its weights lie so, in which case its images should."""
    kernels = [p for p in model.parameters() if p.ndim == 4 and min(p.shape[1], p.shape[2] * p.shape[3]) > 1]
    return not kernels or kernels[0].is_contiguous(memory_format=torch.channels_last)


def preprocessing(images: Images, model: Model) -> Preprocessing:
    """`images` with each `model` replaced by what timm's data configuration says for the architecture.

    ImageNet's usual mean and std on a network that was trained with another pair loses points without a word.
    """
    config: dict[str, Any] = resolve_data_config(
        pretrained_cfg=pretrained_cfg(model.name) or {"input_size": (3, 224, 224)}
    )
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


def build_model(settings: Model, n_logits: int, mode: str) -> torch.nn.Module:
    """timm's model with a fresh head of `n_logits`, the rest from `weights`, the hub or a random draw.

    A download happens only with `model.pretrained: true` and without `model.weights`.
    """
    # `extra` only where it is asked for, because not every architecture takes it
    extra: dict[str, Any] = {"drop_path_rate": settings.drop_path_rate} if settings.drop_path_rate else {}
    if settings.weights != "none":
        extra["pretrained_cfg_overlay"] = {"file": str(ROOT / settings.weights)}
    try:
        model = timm.create_model(
            current_name(settings.name),
            pretrained=settings.pretrained or settings.weights != "none",
            num_classes=n_logits,
            in_chans={"RGB": 3, "L": 1}[mode],
            drop_rate=settings.drop_rate,
            **extra,
        )
    except Exception as error:
        if not settings.pretrained or settings.weights != "none":
            raise
        message = f"the pretrained weights of {settings.name} cannot be had ({type(error).__name__})"
        raise Stopped(f"{message}; set model.pretrained=false, or run once with a network") from error
    for name in heads_of(model) if n_logits == 1 else ():
        # One output starts at 0, the mean of standardised targets. timm's EfficientNets and MobileNets draw its weights
        # from -1 to 1: the first answers are 5 standard deviations off, and a short training hardly comes back.
        for parameter in model.get_submodule(name).parameters():
            torch.nn.init.zeros_(parameter)
    return model


def size_of(settings: Model, n_logits: int, mode: str) -> int:
    """Bytes of the model's weights and buffers."""
    untrained = settings.model_copy(update={"pretrained": False, "weights": "none"})
    tensors = build_model(untrained, n_logits, mode).state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def save_checkpoint(path: Path, model: torch.nn.Module, info: CheckpointInfo) -> None:
    """Weights and `info` in one file, whole or not at all."""
    data = asdict(info) | {"preprocessing": info.preprocessing.model_dump(mode="json"), "format": FORMAT}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with kept.sealed(path) as temporary:
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
    task = data.pop("task")
    task["classes"], task["parts"] = tuple(task["classes"]), tuple(map(tuple, task["parts"]))
    return CheckpointInfo(task=Task(**task), preprocessing=spec, **data)


def load_checkpoint(path: Path, device: torch.device) -> tuple[torch.nn.Module, CheckpointInfo]:
    """The model as it was saved, in evaluation mode, and what it says of itself. Never downloads."""
    info = checkpoint_info(path)
    model = build_model(Model(name=info.model), info.task.n_logits, info.preprocessing.mode)
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    layout = torch.channels_last if info.channels_last else torch.contiguous_format
    return model.to(device, memory_format=layout).eval(), info  # ty: ignore[no-matching-overload]


def current_name(name: str) -> str:
    """The present name, with its tag, of a model that older versions of timm called otherwise; else the name itself."""
    return get_deprecated_models().get(name) or name


def pretrained_cfg(name: str) -> dict[str, Any]:
    """What timm has beside a model's weights: mean, size and so on; empty for a name or a tag that it does not know."""
    name = current_name(name)
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the architecture is there, and the tag is not
        return {}
    return config.to_dict() if config else {}
