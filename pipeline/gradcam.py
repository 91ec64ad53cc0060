"""Where a model looks: for each image, the places that speak for a class. For a handful of images, not for all.

Grad-CAM, Selvaraju et al. 2017, arXiv 1610.02391: of the last feature map, each channel counts by the mean gradient of
the class's evidence with respect to it, the channels are summed with these weights, and what is negative is cut off.
"""

import math

import numpy as np
import torch
from torch.nn import functional

from pipeline.augment import Normalise
from pipeline.config.data import Preprocessing
from pipeline.model import is_channels_last
from pipeline.task import Task

MIN_SIDE = 4  # cells; a coarser map (layer4 of a ResNet on 32 px is one cell) says nothing about places
BATCH = 16  # images whose gradients are in memory together


def grad_cam(
    model: torch.nn.Module,
    task: Task,
    images: torch.Tensor,
    spec: Preprocessing,
    device: torch.device,
    classes: np.ndarray,
) -> tuple[np.ndarray | None, str]:
    """((N, H, W) float32 heats, "") or (None, why there are none). Weights, gradients and modes stay as they were.

    images: (N, H, W, channels) uint8, as `predict` takes them. classes: (N,) indices of the class whose evidence is
    looked for; of no meaning for a regression, where the heat is on what makes the number larger. Each heat is scaled
    to a largest value of 1; it is 0 everywhere where nothing speaks for the class.

    The map is the last one of at least `MIN_SIDE` cells a side that the answer depends on. That is the network's last
    one for most; small images want an earlier one, and so do transformers that answer from a class token alone, on
    which the patches of the last block have no influence any more.
    """
    missing = [name for name in ("forward_features", "forward_head") if not hasattr(model, name)]
    if missing:
        return None, f"{type(model).__name__} has no {' and no '.join(missing)}"
    if not len(images):
        return np.zeros(images.shape[:3], np.float32), ""
    wanted = torch.as_tensor(np.asarray(classes), dtype=torch.long)
    modes = [(module, module.training) for module in model.modules()]
    normalise = Normalise(spec, device, is_channels_last(model))
    heats = []
    try:
        model.eval()
        with torch.enable_grad():
            for part, of_class in zip(images.split(BATCH), wanted.split(BATCH), strict=True):
                found = _heat(model, task, normalise(part.to(device)), of_class.to(device))
                if found is None:
                    least = f"{MIN_SIDE} x {MIN_SIDE} cells or more"
                    return None, f"the answer depends on no feature map of {least} at {spec.px} px"
                heats.append(found)
    except Exception as error:  # architectures fail in ways of their own; a picture is not worth a training
        lines = str(error).splitlines() or ["no message"]
        return None, f"{type(error).__name__}: {lines[0][:200]}"
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(heats).cpu().numpy(), ""


def evidence(task: Task, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(B,) how much the logits (B, n_logits) speak for each image's class (B,), before any saturation.

    The paper takes the logit and not its probability: where a softmax is sure, the gradient of the probability and of
    its logarithm is 0, and the most confident images would have no map. Likewise here. `parts`: the log-probability of
    a class is the sum of its parts' logits, less what all classes share. `corn`: to be in class c is to be above each
    class before it and not above c.
    """
    if task.link == "number":
        return logits[:, 0]
    rows = torch.arange(len(logits), device=logits.device)
    if task.link == "parts":
        values = torch.tensor(task.parts, device=logits.device)[:, classes]  # (n_parts, B)
        by_part = logits.split(task.part_sizes, dim=1)
        return torch.stack([part[rows, value] for part, value in zip(by_part, values, strict=True)]).sum(dim=0)
    if task.link == "corn":
        steps = torch.arange(logits.shape[1], device=logits.device)
        signs = (steps < classes[:, None]).to(logits.dtype) - (steps == classes[:, None]).to(logits.dtype)
        return (logits * signs).sum(dim=1)
    return logits[rows, classes]


def _heat(model: torch.nn.Module, task: Task, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor | None:
    """(B, H, W) in 0..1 of one batch (B, C, H, W)."""
    inputs = inputs.detach().requires_grad_()  # so that there is a graph where every weight is frozen, too
    maps: list[tuple[torch.Tensor, int]] = []  # with the number of channels, as timm declares it
    modules = dict(model.named_modules())
    stages = [(modules.get(each["module"]), each["num_chs"]) for each in getattr(model, "feature_info", None) or ()]
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, n=n_channels: maps.append((output, n)))
        for module, n_channels in stages
        if module is not None
    ]
    try:
        features = model.forward_features(inputs)  # ty: ignore[not-callable]
    finally:
        for hook in hooks:
            hook.remove()
    maps.append((features, getattr(model, "num_features", 0)))
    score = evidence(task, model.forward_head(features).float(), classes).sum()  # ty: ignore[not-callable]
    for values, n_channels in reversed(maps):
        # CoaT answers from a list of several scales, which are not one map
        cells = as_cells(values, n_channels, model) if isinstance(values, torch.Tensor) else None
        if cells is None:
            continue
        [gradient] = torch.autograd.grad(score, values, retain_graph=True, allow_unused=True)
        slopes = None if gradient is None else as_cells(gradient, n_channels, model)
        if slopes is None or not slopes.any():
            continue
        weights = slopes.mean(dim=(2, 3), keepdim=True)
        heat = (weights * cells.detach()).sum(dim=1, keepdim=True).relu()
        heat = functional.interpolate(heat.float(), size=inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    return None


def as_cells(values: torch.Tensor, n_channels: int, model: torch.nn.Module) -> torch.Tensor | None:
    """(B, C, h, w) of a feature map in any of timm's layouts; None if it is no map or has too few cells.

    NCHW; NHWC, by `output_fmt` or where only the last axis has the declared number of channels; (B, tokens, C), which
    are a square's cells row by row, after the prefix tokens (of classes, registers) that the model may or may not
    declare.
    """
    if values.ndim == 3:
        for n_prefix in (getattr(model, "num_prefix_tokens", 0), 0, 1, 2):
            side = math.isqrt(max(values.shape[1] - n_prefix, 0))
            if side >= MIN_SIDE and side**2 == values.shape[1] - n_prefix:
                cells = values[:, n_prefix:].transpose(1, 2)
                return cells.reshape(len(values), -1, side, side)
        return None
    if values.ndim != 4:
        return None
    last_only = values.shape[3] == n_channels != values.shape[1]
    first_only = values.shape[1] == n_channels != values.shape[3]
    if last_only or (getattr(model, "output_fmt", "") == "NHWC" and not first_only):
        values = values.permute(0, 3, 1, 2)
    return values if min(values.shape[2:]) >= MIN_SIDE else None
