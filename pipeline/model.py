"""Models: timm's, the preprocessing they want, and the checkpoint that carries both.

A checkpoint is one safetensors file (no pickle, so opening a stranger's is safe) whose metadata holds all that
inference needs: architecture, classes, preprocessing, and the hashes of the settings, folds and images behind it.
"""

import json
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import safetensors
import safetensors.torch
import timm
import timm.optim
import torch
from timm.data import resolve_data_config

from pipeline.atomic import atomic
from pipeline.config.data import Images, Preprocessing
from pipeline.config.mistakes import Mistake, Mistakes, Stopped, nearest
from pipeline.config.settings import ROOT, Experiment
from pipeline.config.training import Model
from pipeline.optim import build_optimizer
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


def check_model(settings: Experiment, n_logits: int) -> list[Mistake]:
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
    spec = preprocessing(settings.images, model)
    if model.weights != "none":
        mistakes += check_weights(model, n_logits, spec.mode)
    elif model.pretrained:
        mistakes += check_pretrained(model.name)
    n_rows = min(settings.train.batch_size, 2)  # one row alone is what BatchNorm may fail on
    if settings.train.compile not in ("off", *(backends := torch.compiler.list_backends())):
        found = f"found {settings.train.compile!r}{nearest(settings.train.compile, backends)}"
        mistakes.append(Mistake("train.compile", found, f"valid: off, {', '.join(backends)}", "devices"))
    elif settings.train.compile != "off":
        mistakes += check_compiler(settings.train.compile, settings.train.device)
    try:
        untrained = model.model_copy(update={"pretrained": False, "weights": "none"})
        bare = build_model(untrained, n_logits, spec.mode)
        with torch.no_grad():
            bare.train()(torch.zeros(n_rows, len(spec.mean), spec.px, spec.px))
    except Exception as error:  # architectures fail in ways of their own; each is a setting that does not fit
        reason = str(error).splitlines()[0][:200] if str(error) else "no message"
        found = f"{model.name!r} cannot be trained so: {type(error).__name__}: {reason}"
        valid = (
            "valid: other images.px, model.drop_path_rate or train.batch_size (BatchNorm needs more than 1), or model"
        )
        return [*mistakes, Mistake("model", found, valid, "models")]
    return mistakes + check_optimizer(bare, settings)


def check_compiler(backend: str, device: str) -> list[Mistake]:
    """A backend of torch.compile that does not work on this machine; it wants a compiler of its own, most often."""
    try:
        place = pick_device(device)
        torch.compile(torch.nn.Linear(2, 2).to(place), backend=backend)(torch.zeros(1, 2, device=place))
    except Mistakes:
        return []  # the device is told by itself
    except Exception as error:  # each backend fails in its own way
        lines = [line for line in str(error).splitlines() if line.strip()]
        found = f"{backend!r} does not work here: {type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
        return [Mistake("train.compile", found, "valid: off, or a backend whose compiler is installed", "devices")]
    return []


def check_optimizer(model: torch.nn.Module, settings: Experiment) -> list[Mistake]:
    """An optimizer that timm has not, or that does not take its options; found by making it."""
    name = settings.train.optimizer.name
    known = [str(each) for each in timm.optim.list_optimizers()]
    if name not in known:
        valid = f"valid: an optimizer of timm, e.g. adamw, sgd, momentum, lion, nadamw, muon ({len(known)} in all)"
        return [Mistake("train.optimizer.name", f"found {name!r}{nearest(name, known)}", valid, "optimizers")]
    head = head_parameters(model)
    if not head and (settings.train.freeze_epochs or settings.train.head_lr_ratio != 1):
        found = f"timm names no head of {settings.model.name!r}, so it cannot be trained apart from the rest"
        return [Mistake("train", found, "valid: train.freeze_epochs=0 and train.head_lr_ratio=1", "optimizers")]
    try:
        build_optimizer(model, head, settings.train)
    except Exception as error:  # each optimizer refuses options in its own way, or wants a package that is not there
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        valid = "valid: options that it takes (python -c 'import timm.optim; help(timm.optim.create_optimizer_v2)')"
        return [Mistake("train.optimizer", f"{name} cannot be made so: {reason}", valid, "optimizers")]
    return []


def check_weights(model: Model, n_logits: int, mode: str) -> list[Mistake]:
    """A weights file that is not there, is of a kind that can run code when opened, or does not fit the model."""
    path = ROOT / model.weights
    valid = f"valid: a .safetensors file of pretrained weights for {model.name}, from the repository's root"
    if not path.is_file():
        there = [p.name for p in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
        found = f"there is no file {model.weights!r}{nearest(path.name, there)}"
        return [Mistake("model.weights", found, valid, "weights")]
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            in_file = set(file.keys())
        bare = build_model(model.model_copy(update={"pretrained": False, "weights": "none"}), n_logits, mode)
        absent = [name for name in bare.state_dict() if name not in in_file and "num_batches_tracked" not in name]
        head = {f"{name}." for name in _heads(bare)}
        absent = [name for name in absent if not name.startswith(tuple(head))]
        if absent:
            found = f"{model.weights!r} lacks {len(absent):,} of the model's tensors, e.g. {absent[0]}"
            return [Mistake("model.weights", found, valid, "weights")]
        build_model(model, n_logits, mode)
    except Exception as error:  # safetensors, torch and timm each refuse a file in ways of their own
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        return [Mistake("model.weights", f"{model.weights!r} does not fit: {reason}", valid, "weights")]
    return []


def check_pretrained(name: str) -> list[Mistake]:
    """Weights that timm does not have, or that can neither be found on this machine nor be downloaded now.

    The hub's own client retries for most of a minute before it says so; one question with a time limit does.
    """
    remedy = "valid: a network, model.weights=FILE (safetensors), or model.pretrained=false"
    if not timm.is_model_pretrained(name):
        found = f"timm has no pretrained weights for {name!r}"
        return [Mistake("model.pretrained", found, "valid: model.pretrained=false, or a model that has them", "models")]
    config = _pretrained_cfg(name)
    repository, url, named = config.get("hf_hub_id"), config.get("url"), config.get("hf_hub_filename")
    if repository:
        names = [named] if named else ["model.safetensors", "pytorch_model.bin"]
        if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in names):
            return []
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            found = f"the weights of {name!r} are not on this machine, and HF_HUB_OFFLINE forbids a download"
            return [Mistake("model.pretrained", found, remedy, "weights")]
        url = huggingface_hub.constants.ENDPOINT
    elif url and (Path(torch.hub.get_dir()) / "checkpoints" / str(url).rpartition("/")[2]).is_file():
        return []
    try:
        request = urllib.request.Request(str(url), method="HEAD")  # noqa: S310 - an address of timm's, not a user's
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return []  # whoever answers is there
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        found = f"the weights of {name!r} are not on this machine, and their host cannot be reached ({reason})"
        return [Mistake("model.pretrained", found, remedy, "weights")]
    return []


def _heads(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the layers that depend on the number of classes."""
    named = getattr(model, "default_cfg", {}).get("classifier", ())
    return (named,) if isinstance(named, str) else tuple(named or ())


def head_parameters(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that no pretrained network brings along."""
    starts = tuple(f"{name}." for name in _heads(model))
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
        pretrained_cfg=_pretrained_cfg(model.name) or {"input_size": (3, 224, 224)}
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
        return timm.create_model(
            settings.name,
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


def size_of(settings: Model, n_logits: int, mode: str) -> int:
    """Bytes of the model's weights and buffers."""
    untrained = settings.model_copy(update={"pretrained": False, "weights": "none"})
    tensors = build_model(untrained, n_logits, mode).state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


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


def _pretrained_cfg(name: str) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return config.to_dict() if config else {}
