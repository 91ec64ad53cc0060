"""In which numbers and in which memory layout a model trains fastest here: measured on the model itself.

bf16 doubles one network's speed on a CPU and halves another's, so no rule is right. `precision: auto` takes a few
training steps with each candidate and keeps the fastest; the choice is made once for a machine, a model and a batch,
and is part of what a checkpoint is checked for.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline import kept
from pipeline.config.mistakes import Stopped
from pipeline.config.settings import Experiment, fingerprint
from pipeline.model import build_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SECONDS = 1.5  # a candidate, after its first steps
MARGIN = 0.97  # less than 3 % faster is no reason to leave plain fp32
AGREEMENT = 0.05  # share of fp32's loss by which a candidate's may differ


@dataclass(frozen=True)
class Precision:
    name: str = "fp32"
    channels_last: bool = True

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]

    @property
    def is_mixed(self) -> bool:
        """Whether autocast runs what it safely can in 16 bits; weights stay in 32."""
        return self.name != "fp32"

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        return f"{self.name}, {'channels last' if self.channels_last else 'channels first'}"


@dataclass(frozen=True)
class Measured:
    precision: Precision
    ms_per_image: float
    note: str  # why it was not taken, if it could not be


def choose(
    settings: Experiment, n_logits: int, mode: str, px: int, device: torch.device, cache: Path
) -> tuple[Precision, list[Measured]]:
    """(the choice, what was measured for it; nothing where the settings leave no choice or an earlier run made it)."""
    wanted, layout = settings.train.precision, settings.train.channels_last
    if wanted != "auto" and layout != "auto":
        return Precision(wanted, layout), []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    batch_size = settings.train.batch_size
    about = [settings.model.model_dump(mode="json"), n_logits, mode, px, batch_size, name, torch.__version__]
    key = fingerprint([*about, wanted, layout])
    known = kept.read_json(cache)
    if key in known:
        return Precision(*known[key]), []
    measured = measure(settings, n_logits, mode, px, device)
    possible = [m for m in measured if not m.note]
    if not possible:
        tried = "; ".join(f"{m.precision}: {m.note}" for m in measured)
        asked = f"train.precision={wanted} and train.channels_last={layout}"
        raise Stopped(f"the model does not train with {asked} ({tried}). Try train.precision=fp32, or a smaller "
                      "train.batch_size.")  # fmt: skip
    best = min(possible, key=lambda m: m.ms_per_image)
    plain = next((m for m in possible if m.precision == possible[0].precision), best)
    chosen = best if best.ms_per_image < MARGIN * plain.ms_per_image else plain
    value = [chosen.precision.name, chosen.precision.channels_last]
    kept.write_json(cache, {**kept.read_json(cache), key: value})
    return chosen.precision, measured


def measure(settings: Experiment, n_logits: int, mode: str, px: int, device: torch.device) -> list[Measured]:
    """Training steps of the model on random images, each candidate in turn; fp32 comes first."""
    wanted, layout = settings.train.precision, settings.train.channels_last
    names = [wanted] if wanted != "auto" else ["fp32", *_sixteen_bits(device)]
    layouts = [layout] if layout != "auto" else [True, False]
    candidates = [Precision(name, last) for name in names for last in layouts]
    n = min(settings.train.batch_size, 128)
    torch.manual_seed(0)
    images = torch.randn(n, {"RGB": 3, "L": 1}[mode], px, px, device=device)
    targets = torch.randint(0, max(n_logits, 1), (n,), device=device)
    reference = float("nan")
    measured = []
    for precision in candidates:
        torch.manual_seed(0)
        untrained = settings.model.model_copy(update={"pretrained": False, "weights": "none"})
        model = build_model(untrained, n_logits, mode)
        model = model.to(device, memory_format=precision.memory_format).train()  # ty: ignore[no-matching-overload]
        try:
            seconds, loss = _step_time(model, images, targets, precision, device)
        except RuntimeError as error:  # an operation that this device has not in this precision
            measured.append(Measured(precision, float("inf"), str(error).splitlines()[0][:80]))
            continue
        reference = reference if math.isfinite(reference) else loss
        note = (
            ""
            if abs(loss - reference) <= AGREEMENT * abs(reference)
            else f"its loss is {loss:.3f}, not {reference:.3f}"
        )
        measured.append(Measured(precision, 1e3 * seconds / n, note))
    return measured


def _step_time(
    model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, precision: Precision, device: torch.device
) -> tuple[float, float]:
    """(seconds a step: the fastest of several, as noise only adds; loss of the first step, for a sanity check)"""
    images = images.to(memory_format=precision.memory_format)

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, precision.dtype, precision.is_mixed):
            logits = model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, targets) if logits.shape[1] > 1 else F.mse_loss(logits[:, 0], images[:, 0, 0, 0])
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return loss.detach()

    first = float(step())
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < SECONDS:
        before = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - before)
        # bf16 on a CPU can give gradients that are no numbers where a feature map is one pixel wide (torch 2.15), and
        # that by chance, so every step is looked at
        if not all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
            first = float("nan")
    return best, first


def _sixteen_bits(device: torch.device) -> list[str]:
    """bf16 where the device has it (it needs no scaling), else fp16 on a GPU."""
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return ["bf16"]
    return ["fp16"]
