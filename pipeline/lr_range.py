"""The learning-rate range test: between which rates a search for `train.lr` is worth its while.

In: the rows to train on and settings; all of them count but `train.lr`'s own value, the schedule, `compile` and which
weights are kept. Out: an `LrRange`. A fresh model is trained for some steps while the rate rises exponentially, and the
loss tells where it begins to learn and where that ends. Source: Smith 2017, arXiv 1506.01186, section 3.3. No file is
written, and the global random state is left as it was.

`high` is the lower of two rates, as each alone is fooled by some curve. The first where 90 % of the fall is done: past
it the curve can be flat over two powers of ten, more so where a small set is soon known by heart. And a quarter of the
last where as much of it stands: a loss may fall until it diverges, and the smoothed one trails by a factor of about 4.
The minimum itself is at neither, as on a flat stretch it lies by chance. `low` is where 10 % of the fall is done.
"""

import itertools
import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.augment import Normalise
from pipeline.config.settings import Experiment
from pipeline.feed import Window, feed, window_rows
from pipeline.losses import build_loss
from pipeline.model import build_model, freeze_but_head, head_parameters
from pipeline.optim import build_optimizer, clip, set_lr
from pipeline.precision import Precision
from pipeline.train import TrainingData, epoch_order, mixed_seed, prepare, to_device

FIRST_LR, LAST_LR = 1e-6, 10.0
FOLD = 0  # whose weights and batches these are
LEAST_STEPS = 24
LOOK = 8  # steps between two looks at the device, as each makes the host wait for it
MEMORIES = 12  # the smoothed loss remembers a 12th of the steps, in which the rate rises by a factor of
TRAIL = 4.0  # (LAST_LR / FIRST_LR) ** (1 / 12), however many steps there are
BEGUN, DONE = 0.1, 0.9  # shares of the fall at `low` and at `high`
NEAR, FAR = 10.0, 1000.0  # `high` is at least and at most so many times `low`
CLEAR = 0.05  # share of the first loss that it has to fall by; and
SIGMAS = 8.0  # standard errors of the smoothed loss, or the luck of small batches would look like learning
TIMES, BACK = 2.0, 0.5  # it ends at twice the minimum, if half of the fall is lost again: near 0, twice is nothing


@dataclass(frozen=True)
class LrRange:
    """Rates to search `train.lr` in, and the curve behind them. Where `note` says so, they are only a guess."""

    low: float
    high: float
    lrs: tuple[float, ...]  # of each step, up to where it stopped
    losses: tuple[float, ...]  # smoothed training loss before that step; finite
    note: str  # why it stopped, and whether the loss fell at all


def find_lr_range(
    data: TrainingData,
    train_rows: np.ndarray,
    settings: Experiment,
    precision: Precision,
    device: torch.device,
    n_steps: int = 120,
) -> LrRange:
    """Sweeps once, with the first seed's weights and batches. train_rows: row indices into `data`.

    n_steps: of the optimizer, at most. Divergence is an answer and raises nothing; ValueError for too few steps.
    """
    if n_steps < LEAST_STEPS:
        raise ValueError(f"n_steps={n_steps} is too few to tell a trend from noise; at least {LEAST_STEPS}")
    lrs = np.geomspace(FIRST_LR, LAST_LR, n_steps).tolist()
    # torch.manual_seed reaches the generators of all GPUs, so all are put back
    on_gpu = device.type == "cuda" or torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if on_gpu else []):
        raw = _sweep(data, train_rows, settings, precision, device, lrs)
    return judge(lrs, raw)


def _sweep(
    data: TrainingData,
    train_rows: np.ndarray,
    settings: Experiment,
    precision: Precision,
    device: torch.device,
    lrs: Sequence[float],
) -> list[float]:
    """Raw loss of each step that was made, by the steps of `train_fold`, which says why each line is there."""
    config, seed = settings.train, settings.train.seeds[0]
    targets = data.train_targets
    task = data.task.fitted(targets[train_rows])
    torch.manual_seed(mixed_seed(seed, FOLD))
    model = build_model(settings.model, task.n_logits, data.preprocessing.mode)
    model = model.to(device, memory_format=precision.memory_format)  # ty: ignore[no-matching-overload]
    head = head_parameters(model)
    loss_function = build_loss(config, task, targets[train_rows])
    optimizer = build_optimizer(model, head, config)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.dtype is torch.float16)
    normalise = Normalise(data.preprocessing, device, precision.channels_last)
    max_norm = float("inf") if config.clip_norm == "off" else config.clip_norm
    model.train()
    # As in most epochs, all the way: a change in the middle would move the loss, and the rate would get the blame.
    freeze_but_head(model, head, frozen=2 * config.freeze_epochs > config.epochs)

    losses = torch.zeros(len(lrs), device=device)
    last_epoch = -1
    with closing(_windows(data, train_rows, settings, device)) as fed:
        for step, (epoch, window) in enumerate(itertools.islice(fed, len(lrs))):
            if epoch != last_epoch:
                torch.manual_seed(mixed_seed(seed, FOLD, epoch))  # dropout
                last_epoch = epoch
            set_lr(optimizer, lrs[step] / config.lr)  # a factor, so that each group's rate rises in its own ratio
            for part in window.parts():
                images, following, mixed, own = prepare(window, part, normalise, device)
                with torch.autocast(device.type, precision.dtype, precision.is_mixed):
                    logits = model(images)
                logits = logits.float()
                loss = loss_function(logits, to_device(targets[window.rows[part]], device))
                if mixed:
                    loss = own * loss + (1 - own) * loss_function(logits, to_device(targets[following], device))
                loss = loss.sum() / len(window.rows)
                scaler.scale(loss).backward()
                losses[step] += loss.detach()
            scaler.unscale_(optimizer)
            clip(optimizer, max_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if (step + 1) % LOOK == 0 and end_of(lrs, losses[: step + 1].tolist())[1]:
                break
    return losses[: step + 1].tolist()


def _windows(
    data: TrainingData, rows: np.ndarray, settings: Experiment, device: torch.device
) -> Generator[tuple[int, Window]]:
    """(epoch, window) without end: the epochs of a training of seed and fold, one after the other."""
    config, seed = settings.train, settings.train.seeds[0]
    mixing = 2 * settings.augment.mix_stop_epochs <= config.epochs
    for epoch in itertools.count():
        rng = np.random.default_rng((seed, FOLD, epoch))
        order = epoch_order(rows, data.train_targets, config.sampler, rng)
        windows = window_rows(order, config.batch_size, config.accumulation)
        fed = feed(windows, data.images, data.pixels, data.keys, seed, epoch, settings.augment, data.preprocessing,
                   device, mixing)  # fmt: skip
        for window in fed:
            yield epoch, window


# --- from losses to a range, without a model -----------------------------------------------------------------------


def end_of(lrs: Sequence[float], raw: Sequence[float]) -> tuple[list[float], str]:
    """(smoothed losses up to where the sweep ends, why it does; "" where it goes on).

    lrs: of all steps of the sweep. raw: losses of those that were made so far.
    """
    memory = _memory(lrs)
    total, weight, smoothed = 0.0, 0.0, []
    for lr, loss in zip(lrs, raw, strict=False):
        total += (loss - total) / memory
        weight += (1 - weight) / memory  # of the losses in `total`; the rest is the 0 that it began with
        if not math.isfinite(total):
            return smoothed, f"the loss is not finite at {lr:.2g}"
        smoothed.append(total / weight)
        if len(smoothed) <= memory:
            continue  # the mean of a few batches is mostly luck
        start, lowest = smoothed[memory - 1], min(smoothed[memory - 1 :])
        if smoothed[-1] > max(TIMES * lowest, lowest + BACK * (start - lowest)):
            return smoothed, f"the loss rose from {lowest:.3g} to {smoothed[-1]:.3g} at {lr:.2g}"
    return smoothed, f"the loss did not rise much up to {lrs[-1]:.2g}" if len(raw) == len(lrs) else ""


def judge(lrs: Sequence[float], raw: Sequence[float]) -> LrRange:
    """The range that a sweep's raw losses tell. lrs: of all its steps. raw: of those that were made."""
    smoothed, note = end_of(lrs, raw)
    memory, made = _memory(lrs), tuple(lrs[: len(smoothed)])
    if len(made) <= memory:
        return _guess(lrs[max(len(made) - 1, 0)], made, smoothed, note)
    start, at = smoothed[memory - 1], memory - 1 + int(np.argmin(smoothed[memory - 1 :]))
    fall = start - smoothed[at]
    # of an exponential mean of independent losses; a median of differences tells their spread, whatever the trend
    error = float(np.median(np.abs(np.diff(raw[: len(made)])))) / 0.954 / math.sqrt(2 * memory - 1)
    if fall < max(CLEAR * abs(start), SIGMAS * error):
        return _guess(made[-1], made, smoothed, note)
    counted, enough = range(memory - 1, len(made)), start - DONE * fall
    begun = max(i for i in counted[: at - memory + 2] if smoothed[i] >= start - BEGUN * fall)  # never so high again
    done = min(i for i in counted if smoothed[i] <= enough)
    stands = max(i for i in counted if smoothed[i] <= enough)
    high = _rounded(min(made[done], made[stands] / TRAIL))
    return LrRange(_rounded(min(max(made[begun], high / FAR), high / NEAR)), high, made, tuple(smoothed), note)


def _guess(last: float, lrs: tuple[float, ...], smoothed: list[float], note: str) -> LrRange:
    """Where the loss never fell: a wide range below the rate where the sweep ended, and a note that says so."""
    high = _rounded(last / NEAR)
    return LrRange(
        _rounded(high / FAR), high, lrs, tuple(smoothed), f"{note}; it never fell clearly, so this is a guess"
    )


def _memory(lrs: Sequence[float]) -> int:
    """Steps that the smoothed loss remembers."""
    return round(len(lrs) / MEMORIES)


def _rounded(lr: float) -> float:
    return float(f"{lr:.1e}")
