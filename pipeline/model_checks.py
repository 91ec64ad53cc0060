"""What would stop a model's first step, found before any work: a name, weights, an optimizer or a compiler.

In: the settings. Out: mistakes, in the user's words. Whatever can be tried cheaply is tried and not guessed.
"""

import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import safetensors
import timm
import timm.optim
import torch

from pipeline.config.mistakes import Mistake, Mistakes, nearest
from pipeline.config.settings import ROOT, Experiment
from pipeline.config.training import Model
from pipeline.model import (
    build_model,
    current_name,
    head_parameters,
    heads_of,
    pick_device,
    preprocessing,
    pretrained_cfg,
)
from pipeline.optim import build_optimizer

PATIENCE_S = 5  # for the host of pretrained weights


def check_model(settings: Experiment, n_logits: int) -> list[Mistake]:
    """What would stop the first training step, told before any work: builds the model and tries a forward pass."""
    mistakes: list[Mistake] = []
    try:
        pick_device(settings.train.device)
    except Mistakes as error:
        mistakes += error.mistakes
    model = settings.model
    # without a configuration its mean, crop and size would be guessed
    if not pretrained_cfg(model.name):
        arch, _, tag = current_name(model.name).partition(".")
        names = [str(name) for name in timm.list_models(f"{arch}*", include_tags=True) if tag] or timm.list_models()
        of_arch = [name for name in names if name.startswith(f"{arch}.")]
        valid = f"valid: {', '.join(of_arch[:8]) or 'a model of timm'}"
        valid += "" if of_arch else " (python -c 'import timm; print(timm.list_models())')"
        found = f"found {model.name!r}{nearest(model.name, names)}"
        return [*mistakes, Mistake("model.name", found, valid, "models")]
    spec = preprocessing(settings.images, model)
    if model.weights != "none":
        mistakes += check_weights(model, n_logits, spec.mode)
    elif model.pretrained:
        mistakes += check_pretrained(current_name(model.name))
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


STEADY = ("adamw", "adam", "sgd", "momentum", "nadamw", "lion", "rmsprop")


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
        optimizer = build_optimizer(model, head, settings.train)
        if name not in STEADY:  # some want second derivatives, or more memory than there is, and say so when they step
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
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
        head = {f"{name}." for name in heads_of(bare)}
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
    config = pretrained_cfg(name)
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
